"""Broken files of every kind are answered in a sentence: no traceback, no hang, no dead process, no flood of memory."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from flexdetr.runtime.formats import FORMATS

from .answering import LIMIT, Product
from .kinds import KINDS
from .material import Material

_USUAL = 3  # of each kind in every run of the tests
_LONG = {"exported_checkpoint": 0, "compiled_files": 0, "written_files": 2}  # of those that take seconds each
_MANY = 50  # in the slow one

CASES = [
    pytest.param(kind, number, id=f"{kind}-{number}", marks=[pytest.mark.slow] if number >= usual else [])
    for kind in KINDS
    for usual in [_LONG.get(kind, _USUAL)]
    for number in range(_MANY)
]


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_a_broken_file_is_answered_in_a_sentence(
    kind: str, number: int, material: Material, product: Product, tmp_path: Path
) -> None:
    here = tmp_path / "here"  # ".." is one of the options, and would be the pictures of all other cases
    here.mkdir()
    arguments = KINDS[kind](material, here, random.Random(f"{kind}-{number}"))
    limit = 5 * LIMIT if kind in _LONG else LIMIT
    fault = product.ask(arguments, here, limit).fault()
    assert not fault, f"flexdetr {' '.join(arguments)}\n{fault}"


def test_whole_files_are_taken(material: Material, product: Product, tmp_path: Path) -> None:
    """What is changed above works as it is: nothing of it is refused for another reason."""
    plan, ablation = material.folder / "plan.yaml", tmp_path / "ablation"
    shutil.copytree(material.folder / "ablation", ablation)
    shutil.copytree(material.run, tmp_path / "run")
    pictures = [
        str(material.picture(suffix)) for suffix in ("png", "jpg", "gif", "tiff", "webp", "bmp", "avi")
    ]
    commands: list[list[object]] = [
        ["info", material.checkpoint],
        ["predict", material.checkpoint, *pictures],
        ["eval", material.checkpoint, material.data("coco"), "--split", "val"],
        ["convert", material.checkpoint, "--out", "converted"],
        *(["check", material.data(name)] for name in ("coco", "voc", "yolo")),
        *(
            ["convert", material.foreign(name), "--out", f"{name}.safetensors"]
            for name in ("zip.pth", "legacy.pth", "paddle.pdparams", "transformers")
        ),
        *(
            ["predict", material.artifact(name), *pictures]
            for name in (*FORMATS, "int8")
            if name != "torch" and material.artifact(name).exists()
        ),
        ["config", "--config", material.folder / "config.yaml"],
        ["train", material.data("coco"), "--config", material.folder / "config.yaml", "--out", "new"],
        ["ablate", plan, "--report", "--out", ablation],
        ["ablate", plan, "--report", "--out", ablation, "--minutes", "1"],
        ["train", "--resume", tmp_path / "run"],
    ]
    for command in commands:
        answer = product.ask([str(word) for word in command], tmp_path)
        opened = 130 if command[0] == "train" else 0  # it stops where the epoch would begin
        assert answer.status == opened, f"{command}\n{answer.out}\n{answer.err}"
        assert not answer.fault(), f"{command}\n{answer.fault()}"
