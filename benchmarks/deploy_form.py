"""The train form against the deploy form: latency of the network and from pixels to objects, on one image at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from flexdetr.classes import Classes
from flexdetr.engine.device import autocast, choose_device, choose_precision
from flexdetr.engine.predict import detect_images
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.size import measure_module
from flexdetr.presets import resolve
from measure import alternate, machine, median, peak_memory_mib

MODELS = ("rtdetr_ghostnetv3_100", "rtdetr_hgnetv2_l", "flexdetr_nano")


def network(model: torch.nn.Module, size: int, device: torch.device) -> Callable[[], None]:
    """A function that runs a network once."""
    images = torch.rand(1, 3, size, size, device=device)
    dtype = choose_precision("auto", device)

    @torch.inference_mode()
    def run() -> None:
        with autocast(device, dtype):
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def whole(model: DetectionModel, size: int, device: torch.device) -> Callable[[], None]:
    """A function that finds the objects in one picture of 640x480 pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    classes = Classes.of([f"class {index}" for index in range(80)])

    def run() -> None:
        found = detect_images(
            model, [picture], classes=classes, size=(size, size), threshold=0.3, device=str(device)
        )
        list(found)

    return run


def main() -> None:
    """Print a row for each model, its backbone alone and whole, in both forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*MODELS])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    print(machine())
    print(
        f"{arguments.size} px, batch 1, 80 classes, medians of {arguments.rounds}, both forms in alternation"
    )
    print(f"{'':24s} {'':10s} {'train form':>11s} {'deploy form':>11s} {'ratio':>6s}")
    for name in arguments.models:
        torch.manual_seed(0)
        config = resolve(name, image_size=arguments.size)
        model = DetectionModel(config, 80).to(device).eval()
        deploy = fuse(model)
        sizes = [measure_module(form, config.image_size) for form in (model, deploy)]
        params = [f"{size.params / 1e6:9.2f} M" for size in sizes]
        print(
            f"{name:24s} {'params':10s} {params[0]:>11s} {params[1]:>11s} {sizes[0].params / sizes[1].params:6.2f}"
        )
        parts = {
            "backbone": (
                network(model.backbone, arguments.size, device),
                network(deploy.backbone, arguments.size, device),
            ),
            "network": (network(model, arguments.size, device), network(deploy, arguments.size, device)),
            "end to end": (whole(model, arguments.size, device), whole(deploy, arguments.size, device)),
        }
        for part, (train_form, deploy_form) in parts.items():
            seconds = alternate({"train": train_form, "deploy": deploy_form}, rounds=arguments.rounds)
            before, after = median(seconds["train"]), median(seconds["deploy"])
            print(f"{name:24s} {part:10s} {before * 1e3:8.1f} ms {after * 1e3:8.1f} ms {before / after:6.2f}")
    print(f"peak memory of the process: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
