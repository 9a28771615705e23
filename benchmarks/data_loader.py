"""Whether the loader feeds the step: augmented images per second beside the images per second that training takes.

    python benchmarks/data_loader.py ../shared/data/bccd --model rtdetr_r18 --size 320 --workers 2

The loader runs alone, each epoch with all of the recipe's augmentation (mosaic, crops, colours), then the step alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from flexdetr.data.batches import Phase
from flexdetr.data.detect import read
from flexdetr.data.loader import TrainingLoader
from flexdetr.engine.device import choose_device
from flexdetr.engine.recipe import derive
from flexdetr.presets import resolve
from measure import alternate, machine, median
from train_step import stepper


def loader_rate(data: Path, model: str, size: int, batch: int, workers: int, epochs: int) -> list[float]:
    """Images a second of each epoch; the first, which starts the workers and fills their caches, is left out."""
    records = read(data).splits["train"]
    config = derive(
        resolve(model, image_size=size, train={"batch_size": batch}), len(records), pretrained=False
    ).config
    loader = TrainingLoader(records, config, 80, batch_size=batch, seed=0, workers=workers)
    full: Phase = "mosaic"
    rates = []
    for epoch in range(epochs + 1):
        began, images = time.perf_counter(), 0
        for made in loader.epoch(epoch, full, following=full):
            images += len(made.images)
        rates.append(images / (time.perf_counter() - began))
    loader.close()
    return rates[1:]


def main() -> None:
    """Print both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="rtdetr_r18")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    print(machine())
    rates = loader_rate(
        arguments.data,
        arguments.model,
        arguments.size,
        arguments.batch,
        arguments.workers,
        arguments.rounds,
    )
    step = stepper(arguments.model, arguments.size, arguments.batch, 80, choose_device(arguments.device))
    seconds = median(alternate({"step": step}, rounds=arguments.rounds)["step"])
    made, taken = median(rates), arguments.batch / seconds
    print(f"loader, {arguments.workers} workers: {made:8.1f} images/s (median of {len(rates)} epochs)")
    print(f"step, {torch.get_num_threads()} threads: {taken:10.1f} images/s")
    print(f"the loader makes {made / taken:.1f} times what the step takes")


if __name__ == "__main__":
    main()
