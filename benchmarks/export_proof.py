"""The proof of each export, as a table: presets, formats, square and not; each runs one by one and in a batch of 4.

Random weights score about 0.01 everywhere: nothing would be compared but ties. They are spread first, so that scores
reach from 0 to 1 and boxes have many sizes, as after training. Without AP there are no labels to need.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexdetr.api import Detector
from flexdetr.export.make import PRECISIONS, DriftError
from measure import machine

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rtdetr_r18": ("rtdetr_r18", {}),
    "rtdetr_hgnetv2_l": ("rtdetr_hgnetv2_l", {}),
    "rtdetr_ghostnetv3_100": ("rtdetr_ghostnetv3_100", {}),
    "flexdetr_nano": ("flexdetr_nano", {}),
    "dfine_n": ("dfine_n", {}),
    "dfine_l": ("dfine_l", {}),
    "deimv2_pico": ("deimv2_pico", {}),
    "yolov8_hgnetv2_b0": ("yolov8_hgnetv2_b0", {}),
    "rtdetr_r18, backbone timm/convnext_atto": ("rtdetr_r18", {"backbone": "timm/convnext_atto"}),
}


def spread(model: nn.Module) -> None:
    """Random weights whose scores reach from 0 to 1."""
    draw = torch.Generator().manual_seed(0)
    head: Any = model.get_submodule("head")
    rows = [re.compile(row) for row in head.class_rows()]
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_var is not None:
                part.running_var *= 0.5 + torch.rand(part.running_var.shape, generator=draw)
        for name, part in head.named_modules():
            known = isinstance(part, nn.Linear | nn.Conv2d)
            if known and any(row.fullmatch(f"{name}.weight") for row in rows):
                part.weight.copy_(0.6 * torch.randn(part.weight.shape, generator=draw))
                part.bias.fill_(-1.0)
        boxes = [getattr(head, name) for name in ("encoder_box", "pre_box") if hasattr(head, name)]
        for box in (*boxes, *head.boxes):
            # A dense head has one convolution per level, the others a perceptron per layer.
            last = box if isinstance(box, nn.Conv2d) else box.layers[-1]
            last.weight.copy_(0.15 * torch.randn(last.weight.shape, generator=draw))


def rows(name: str, size: str, formats: list[str], less: dict[str, int]) -> tuple[list[str], bool]:
    """Lines of the table for one model and one size, and whether all of them passed."""
    preset, changes = MODELS[name]
    torch.manual_seed(0)
    detector = Detector(preset, classes=["cat", "dog", "owl"], image_size=size, **changes)
    spread(detector.model)
    lines, passed = [], True
    for kind in formats:
        with tempfile.TemporaryDirectory() as folder:
            try:
                form, _, asked = kind.partition(":")
                precision = (
                    {"precision": asked} if asked in PRECISIONS else {"target": asked} if asked else {}
                )
                artifact = detector.export(form, Path(folder) / "out", **precision, **less)
                parity, others = artifact.parity, artifact.metadata.precisions
            except DriftError as error:
                parity, others, passed = error.parity, {}, False
        if parity is None:
            raise RuntimeError(f"the {kind} artifact of {name} carries no proof")
        proofs = [(kind, parity.drifts, parity.tolerance, str(parity.culprit))]
        proofs += [
            (f"{kind} in {one}", proven.drifts, proven.tolerance, str(proven.reason))
            for one, proven in others.items()
            if one != "fp32"
        ]
        for what, drift, tolerance, why in ((row[0], one, *row[2:]) for row in proofs for one in row[1]):
            cells = [
                name,
                size,
                what,
                drift.case,
                drift.compared,
                drift.floor if drift.floor == tolerance.floor else f"{drift.floor:.3f}",
                drift.missing + drift.extra + drift.flips,
                f"{drift.score:.1e}",
                f"{drift.box:.1e}",
                "yes" if drift.passed else f"no: {why}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for row in parity.accuracies:
            agreement = "-" if row.agreement is None else f"{row.agreement:.1%}"
            lines.append(
                f"| {name} | {size} | {kind} | {row.case}: agreement {agreement}, {row.gflops} GFLOPs | | | | | | |"
            )
        for note in parity.notes:
            print(f"{name}, {size}, {kind}: {note}", file=sys.stderr)
    return lines, passed


def main() -> int:
    """Print the table; exit status 1 if an export was refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="names of rows, by default all")
    parser.add_argument("--sizes", nargs="+", default=["320", "256x416"])
    parser.add_argument(
        "--formats", nargs="+", default=["openvino", "onnx"], help="FORMAT, FORMAT:PRECISION, or onnx:TARGET"
    )
    parser.add_argument("--decoder-layers", type=int)
    parser.add_argument("--queries", type=int)
    arguments = parser.parse_args()
    less = {"decoder_layers": arguments.decoder_layers, "queries": arguments.queries}
    less = {key: value for key, value in less.items() if value is not None}
    print(machine())
    print(
        "| model | size | format | case | compared | scores above | missing, extra, flips | score drift | box drift px "
        "| ok |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    everything = True
    for name in arguments.models:
        for size in arguments.sizes:
            lines, passed = rows(name, size, arguments.formats, less)
            everything &= passed
            print("\n".join(lines), flush=True)
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
