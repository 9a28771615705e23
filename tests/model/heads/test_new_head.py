"""A new head takes a folder and a row: a copy of the package gets one, trains with it and exports it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flexdetr

OPTIONS = '''"""The options of a head that answers for every cell."""
from typing import Literal

from flexdetr.config_part import Part


class ToyOptions(Part):
    """No options but the name."""

    name: Literal["toy"] = "toy"

    def check_levels(self, strides):
        """Any levels will do."""

    def summary(self):
        """The options in a few words."""
        return "every cell answers"
'''
HEAD = '''"""Each cell of each level answers with classes and a box around its centre."""
import torch
from torch import nn

from flexdetr.model.heads.base import Probes
from flexdetr.model.outputs import Output, Prediction
from flexdetr.model.postprocess import best_pairs
from flexdetr.model.precision import precisely


class ToyHead(nn.Module):
    """One convolution a level for classes, one for boxes."""

    selector, eval_layers, trained_layers, sampling, limits, queries = "every", 1, 1, "none", None, 300

    def __init__(self, options, channels, strides, num_classes):
        super().__init__()
        self.strides = tuple(strides)
        self.toy_scores = nn.ModuleList(nn.Conv2d(count, num_classes, 1) for count in channels)
        self.toy_boxes = nn.ModuleList(nn.Conv2d(count, 4, 1) for count in channels)
        self.every = nn.Identity()

    def forward(self, levels, targets=None, *, decoder_layers=None, queries=None):
        """Levels to an answer for every cell."""
        logits, boxes = [], []
        for score, box, level in zip(self.toy_scores, self.toy_boxes, levels, strict=True):
            height, width = level.shape[-2:]
            rows = (torch.arange(height, device=level.device) + 0.5) / height
            columns = (torch.arange(width, device=level.device) + 0.5) / width
            centres = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])
            moved = precisely(box, level).sigmoid()
            place = centres + (moved[:, :2] - 0.5) / max(height, width)
            boxes.append(torch.cat([place, moved[:, 2:]], 1).flatten(2))
            logits.append(precisely(score, level).flatten(2))
        scores = self.every(torch.cat(logits, 2).transpose(1, 2))
        return Output(Prediction(scores, torch.cat(boxes, 2).transpose(1, 2)))

    def answer(self, prediction, sizes, top):
        """The best pairs of cell and class."""
        return best_pairs(prediction, sizes, top)

    def sample_with(self, sampling):
        """Nothing is sampled."""

    def fold(self, layers=None):
        """Nothing is for training only."""

    @staticmethod
    def class_rows():
        """The class convolutions."""
        return (r"toy_scores\\.\\d+\\.(weight|bias)",)

    @staticmethod
    def sensitive():
        """All of it."""
        return (r"", r"(toy_scores|toy_boxes|every)(\\..+)?")

    @staticmethod
    def probes(layers):
        """Rows keep their order."""
        return Probes("", (), (), {})
'''
ROW = """    "toy": HeadRow(
        ToyOptions,
        "flexdetr.model.heads.toy.head:ToyHead",
        "flexdetr.loss.criterion:objective",
    ),
"""
USE = """
import sys
from pathlib import Path

import torch

import flexdetr
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scenes

folder = Path(sys.argv[1])
assert Path(flexdetr.__file__).is_relative_to(folder), flexdetr.__file__
torch.manual_seed(0)
data = draw_scenes(folder / "data", train=4, val=2, test=2, size=(96, 96))
command = ["train", str(data), "--model", "flexdetr_pico", "--set", "head=toy", "--image-size", "64"]
command += ["--epochs", "1", "--batch-size", "2", "--set", "data.workers=0", "--set", "train.report=false"]
assert main([*command, "--out", str(folder / "run")]) == 0
detector = flexdetr.load(folder / "run" / "last.safetensors")
assert detector.config.head.name == "toy"
artifact = detector.export("onnx", folder / "artifact")
assert artifact.parity.passed
assert main([*command, "--set", "head=toi", "--out", str(folder / "other")]) == 2
"""


@pytest.mark.slow
def test_a_new_head_is_a_folder_and_a_row(tmp_path: Path) -> None:
    package = tmp_path / "flexdetr"
    shutil.copytree(Path(flexdetr.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in package.rglob("*.py")}
    toy = package / "model" / "heads" / "toy"
    toy.mkdir()
    for name, text in (("__init__.py", ""), ("options.py", OPTIONS), ("head.py", HEAD)):
        (toy / name).write_text(text, encoding="utf-8")
    table = package / "model" / "heads" / "__init__.py"
    text = table.read_text(encoding="utf-8")
    first = '    "rtdetr": HeadRow('
    assert first in text
    own = "from flexdetr.model.heads.rtdetr.options import RTDETROptions\n"
    text = text.replace(own, f"{own}from flexdetr.model.heads.toy.options import ToyOptions\n")
    table.write_text(text.replace(first, ROW + first), encoding="utf-8")
    changed = {path for path in package.rglob("*.py") if before.get(path) != path.read_bytes()}
    assert changed == {table, *toy.iterdir()}  # nothing else knows of it

    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "did you mean 'toy'" in done.stderr
