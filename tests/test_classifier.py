"""Classifiers from a folder of pictures to an exported file: training, resuming, scoring, predicting, proving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flexdetr
import flexdetr.tracking
from flexdetr.cli import main
from flexdetr.config import Config, ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.checkpoint import start
from flexdetr.presets import resolve
from flexdetr.runtime.artifact import Artifact
from flexdetr.runtime.sources import find

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 60), "red": (220, 30, 40)}


def draw(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Noise with a tint that is the class."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for name, tint in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(40, 90, 2)
                noise = rng.normal(0, 30, (height, width, 3)) + np.array(tint)
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("colours"), {"train": 6, "val": 3, "test": 3})


def settings(**more: Any) -> Config:
    train = {"epochs": 8, "batch_size": 6, "eval_every": 4, "lr": 2e-3, **more.pop("train", {})}
    sections = {"workers": 0, **more.pop("data", {})}
    return resolve("hgnetv2_atto_cls", image_size=64, train=train, data=sections, **more)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    return fit.train(data, settings(), out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_learns_and_leaves_what_a_run_leaves(run: fit.Run) -> None:
    assert run.metrics.pair[0] > 0.5
    assert run.metrics.measures == ("top-1", "top-5")
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(f">{word}<" in page for word in ("Confusion", "Calibration", "Mistakes"))
    assert "top1" in (run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]


def test_load_gives_what_the_file_is(run: fit.Run, data: Path) -> None:
    classifier = flexdetr.load(run.best)
    assert isinstance(classifier, flexdetr.Classifier)
    assert classifier.classes.names == ("blue", "green", "red")
    scored = classifier.evaluate(data, split="test")
    assert scored.top5 == 1
    assert sum(one.num_images for one in scored.per_class.values()) == 9
    found = classifier.predict(data / "test" / "red" / "0.png")
    assert len(found) == 3
    assert found.scores.sum() == pytest.approx(1)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert "hgnetv2_atto_cls" in repr(classifier)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_a_stopped_run_goes_on_bit_for_bit(
    mixup: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(train={"epochs": 2, "report": False}, data={"mixup": mixup}, head={"dropout": 0.2})
    whole = fit.train(data, config, out=tmp_path / "whole", quiet=True)
    step, steps = fit.Trainer._step, 0

    def counted(self: fit.Trainer, batch: Any) -> None:
        nonlocal steps
        step(self, batch)
        steps += 1
        self.stop_requested = self.stop_requested or steps == 4

    monkeypatch.setattr(fit.Trainer, "_step", counted)
    with pytest.raises(fit.Interrupted, match="--resume"):
        fit.train(data, config, out=tmp_path / "parts", quiet=True)
    monkeypatch.undo()
    resumed = fit.resume(tmp_path / "parts", quiet=True)
    first, second = run_state.load(whole.folder)["model"], run_state.load(resumed.folder)["model"]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_its_run_is_a_trained_backbone_of_a_detector(run: fit.Run) -> None:
    config = resolve("flexdetr_atto", image_size=64, weights=str(run.best))
    begun = start(config, flexdetr.load(run.best).classes)
    assert begun.trained.trained == ("backbone",)
    own, theirs = begun.model.state_dict(), flexdetr.load(run.best).model.state_dict()
    shared = [name for name in theirs if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(own[name], theirs[name]) for name in shared)


def test_a_teacher_of_the_same_classes(run: fit.Run, data: Path, tmp_path: Path) -> None:
    teacher = {"teacher": str(run.best), "temperature": 2.0}
    taught = fit.train(
        data,
        settings(train={"epochs": 1, "report": False}, distill=teacher),
        out=tmp_path / "run",
        quiet=True,
    )
    assert "distill_class" in (taught.folder / "metrics.csv").read_text(encoding="utf-8")
    student, alone = flexdetr.load(taught.best), flexdetr.load(run.best)
    assert student.model.state_dict().keys() == alone.model.state_dict().keys()
    assert [one["role"] for one in student.metadata.provenance if "role" in one] == ["teacher"]


def test_classes_go_along_by_name(run: fit.Run) -> None:
    old = flexdetr.load(run.best).model.head.linear.weight
    new = flexdetr.Classifier("hgnetv2_atto_cls", classes=["red", "yellow"], image_size=64, weights=run.best)
    assert torch.equal(new.model.head.linear.weight[0], old[2])
    assert not torch.equal(new.model.head.linear.weight[1], old[0])


@pytest.fixture(scope="module")
def made(run: fit.Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("made") / "artifact"
    return flexdetr.load(run.best).export("openvino", folder, data=str(data))


def test_openvino_proves_itself_and_answers_without_torch(
    run: fit.Run, made: Artifact, data: Path, tmp_path: Path
) -> None:
    classifier = flexdetr.load(run.best)
    assert made.parity is not None
    assert made.parity.passed
    assert made.parity.accuracies[0].measures == ("top-1", "top-5")
    deployed = flexdetr.load(made.path)
    assert isinstance(deployed, flexdetr.Classifier)
    assert made.metadata.input.middle == 224 / 256
    picture = data / "test" / "green" / "1.png"
    assert deployed.predict(picture).names == classifier.predict(picture, precision="fp32").names
    assert deployed.evaluate(data).top1 == classifier.evaluate(data).top1
    with pytest.raises(ConfigError, match="is exported"):
        deployed.save(tmp_path / "no.safetensors")


def test_the_middle_is_what_is_looked_at_everywhere(run: fit.Run, made: Artifact, tmp_path: Path) -> None:
    """Checkpoint and artifact, a picture alone and among others: what is around changes nothing."""
    classifier = flexdetr.load(run.best)
    deployed = flexdetr.load(made.path)
    noise = np.random.default_rng(0).normal(128, 60, (64, 128, 3)).clip(0, 255).astype(np.uint8)
    places = []
    for name, outside in (("red", 0), ("green", 255)):
        image = np.full_like(noise, outside)
        image[4:60, 36:92] = noise[4:60, 36:92]  # 7/8 of 64
        places.append(tmp_path / "data" / "test" / name / "0.png")
        places[-1].parent.mkdir(parents=True)
        Image.fromarray(image).save(places[-1])
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "data" / "train" / name / "1.png")
    for model in (classifier, deployed):
        alone = model.predict(places[0], precision="fp32")
        many = [
            found
            for _, found in model.predict_many(find([str(tmp_path / "data" / "test")]), precision="fp32")
        ]
        for other in (model.predict(places[1], precision="fp32"), *many):
            np.testing.assert_array_equal(other.scores, alone.scores)
            assert other.names == alone.names
    # The same picture twice, of two classes: one of them is right, or none.
    pairs = flexdetr.Classifier("hgnetv2_atto_cls", classes=["green", "red"], image_size=64, weights=run.best)
    again = flexdetr.load(pairs.export("openvino", tmp_path / "pairs").path)
    assert pairs.evaluate(tmp_path / "data", "test").top1 == 0.5
    assert again.evaluate(tmp_path / "data", "test").top1 == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "fp16"}], ids=["int8", "fp16"])
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_other_precisions_prove_themselves(
    kind: str, options: dict[str, str], run: fit.Run, data: Path, tmp_path: Path
) -> None:
    made = flexdetr.load(run.best).export(kind, tmp_path / "artifact", data=str(data), **options)
    assert made.parity is not None
    assert made.parity.passed


def test_what_a_classifier_does_not_have_is_refused(run: fit.Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exported whole"):
        flexdetr.load(run.best).export("onnx", tmp_path / "artifact", raw=True)
    with pytest.raises(ConfigError, match="rtdetr_r18 is a detector"):
        flexdetr.Classifier("rtdetr_r18", classes=["a", "b"])


def test_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", str(data), "--model", "hgnetv2_atto_cls", "--task", "classify", "--image-size", "32"]
    options = [
        "--epochs",
        "1",
        "--set",
        "data.workers=0",
        "--set",
        "train.report=false",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*train, *options]) == 0
    best = str(tmp_path / "run" / "best.safetensors")
    capsys.readouterr()
    assert main(["eval", best, str(data), "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["top1"] <= 1
    picture = str(data / "test" / "red" / "0.png")
    assert main(["predict", best, picture, "--out", str(tmp_path / "told"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["images"]
    assert {one["name"] for one in told["classes"]} == set(COLOURS)
    assert len((tmp_path / "told" / "classes.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert main(["check", str(data)]) == 0
    assert "FOLDERS" in capsys.readouterr().out
    monkeypatch.setattr(flexdetr.tracking, "Tracker", lambda *_, **__: None)  # its library is an extra
    assert main(["track", best, picture]) == 2
    assert "is a classifier" in capsys.readouterr().err


def test_objects_of_a_detection_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = draw_scenes(tmp_path / "scenes", train=6, val=3, test=2, size=(96, 96))
    train = ["train", "--crops-of", str(scenes), "--model", "hgnetv2_atto_cls", "--image-size", "32"]
    options = ["--epochs", "1", "--set", "data.workers=0", "--set", "train.report=false"]
    assert main([*train, *options, "--out", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run" / "crops" / "train").iterdir())
    capsys.readouterr()
    best = str(tmp_path / "run" / "best.safetensors")
    assert main(["eval", best, str(scenes)]) == 2
    assert f"{scenes} is a detection data set (COCO)" in capsys.readouterr().err
    boxes = flexdetr.Detector("flexdetr_atto", classes=["a", "b"], image_size=64).save(
        tmp_path / "d.safetensors"
    )
    assert main(["eval", str(boxes), str(tmp_path / "run" / "crops")]) == 2
    assert "look like the classes of a classifier" in capsys.readouterr().err
    # Each kind of data says which command is meant for it.
    assert main(["train", str(scenes), "--model", "hgnetv2_atto_cls"]) == 2
    assert f"flexdetr train --crops-of {scenes}" in capsys.readouterr().err
    crops = tmp_path / "run" / "crops"
    assert main(["train", str(crops), "--model", "flexdetr_atto"]) == 2
    assert f"flexdetr train {crops} --model hgnetv2_b0_cls" in capsys.readouterr().err
    assert main(["train", str(crops), "--model", "flexdetr_nano", "--task", "classify"]) == 2
    assert (
        "flexdetr_nano is a detector, not a classifier; take --model hgnetv2_b0_cls"
        in capsys.readouterr().err
    )
