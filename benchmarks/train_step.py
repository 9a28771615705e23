"""Optimisation steps: time, images a second and peak memory. `python benchmarks/train_step.py --help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from flexdetr.engine.device import autocast, choose_device, choose_precision
from flexdetr.engine.optim import build_optimizer
from flexdetr.engine.recipe import derive
from flexdetr.loss.criterion import Criterion
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Targets
from flexdetr.presets import resolve
from measure import alternate, machine, median, peak_memory_mib


def stepper(name: str, size: int, batch: int, classes: int, device: torch.device) -> Callable[[], None]:
    """A function that does one whole optimisation step on noise with ten objects an image."""
    config = derive(
        resolve(name, image_size=size, train={"batch_size": batch}), 1000, pretrained=False
    ).config
    torch.manual_seed(0)
    model = DetectionModel(config, classes).to(device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, config, pretrained=False)
    criterion = Criterion(config.loss, classes).to(device)
    dtype = choose_precision("auto", device)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    boxes = [torch.rand(10, 4) * 0.2 + 0.3 for _ in range(batch)]
    targets = Targets([torch.randint(0, classes, (10,)) for _ in boxes], boxes, [*range(batch)]).to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            output = model(model.normalise(images).contiguous(memory_format=torch.channels_last), targets)
        criterion(output, targets).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=True)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Print one row a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["flexdetr_nano", "rtdetr_r18"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    subjects = {
        name: stepper(name, arguments.size, arguments.batch, arguments.classes, device)
        for name in arguments.models
    }
    print(machine())
    print(
        f"{arguments.size} px, batch {arguments.batch}, {arguments.classes} classes, medians of {arguments.rounds}"
    )
    for name, seconds in alternate(subjects, rounds=arguments.rounds).items():
        print(
            f"{name:24s} {median(seconds) * 1e3:8.1f} ms a step {arguments.batch / median(seconds):7.1f} images/s"
        )
    print(f"peak memory of the process: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
