"""Teachers that do not fit a run are refused before its first step, with what would fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flexdetr
from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.engine.teacher import Teacher, find_teacher, make_teaching
from flexdetr.presets import resolve

CPU = torch.device("cpu")
CLASSES = ["cat", "dog"]


def taught_by(file: Path) -> None:
    """What a run of a small classifier does with a teacher."""
    config = resolve("hgnetv2_atto_cls", image_size=64, distill={"teacher": str(file)})
    student = flexdetr.Classifier("hgnetv2_atto_cls", classes=CLASSES, image_size=64)
    make_teaching(config, Classes.of(CLASSES), student.model, find_teacher(str(file), CPU))


def classifier(folder: Path, names: list[str], size: int) -> Path:
    made = flexdetr.Classifier("hgnetv2_atto_cls", classes=names, image_size=size)
    return made.save(folder / "teacher.safetensors")


def test_of_the_same_classes_in_any_order(tmp_path: Path) -> None:
    taught_by(classifier(tmp_path, ["dog", "cat"], 64))


@pytest.mark.parametrize(
    ("names", "size", "said"),
    [
        (CLASSES, 96, "sees images of 96x96, and this run's are 64x64: train with --image-size 96x96"),
        (["cat", "cow"], 64, r"other classes than the data \(it does not know dog; it has also cow\)"),
        (["cat"], 64, r"\(it does not know dog\): train a teacher on this data, or take a backbone"),
    ],
    ids=["size", "other class", "fewer classes"],
)
def test_that_does_not_fit(tmp_path: Path, names: list[str], size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        taught_by(classifier(tmp_path, names, size))


def test_of_another_task(tmp_path: Path) -> None:
    file = Detector("flexdetr_atto", classes=CLASSES, image_size=64).save(tmp_path / "teacher.safetensors")
    with pytest.raises(
        ConfigError, match="is a detector, and hgnetv2_atto_cls a classifier: take a classifier"
    ):
        taught_by(file)


def test_that_does_not_take_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone with positions of a fixed size, for instance."""

    def refuse(_self: Teacher, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"input height ({images.shape[-1]}) does not match model (224)")

    monkeypatch.setattr(Teacher, "features", refuse)
    config = resolve("flexdetr_atto", image_size=64, distill={"teacher": "hgnetv2_atto"})
    student = Detector("flexdetr_atto", classes=CLASSES, image_size=64)
    starting = Detector("flexdetr_atto", classes=CLASSES, image_size=64)._starting
    with pytest.raises(
        ConfigError, match=r"distill.teacher=hgnetv2_atto does not take images of 64x64 \(input"
    ):
        make_teaching(config, student.classes, student.model, Teacher(starting, answers=False, device=CPU))


def test_the_command_line_says_so_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASSES:
        for number in range(3):
            place = tmp_path / "data" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 80 * number, np.uint8)).save(place)
    file = classifier(tmp_path, CLASSES, 96)
    run = ["train", str(tmp_path / "data"), "--model", "hgnetv2_atto_cls", "--image-size", "64"]
    options = ["--epochs", "1", "--set", f"distill.teacher={file}", "--set", "data.workers=0"]
    assert main([*run, *options, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "sees images of 96x96" in said
    assert not list((tmp_path / "run").glob("*.safetensors"))
