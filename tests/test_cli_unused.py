"""Options that have no effect where they were typed are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexdetr
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.runtime.orientation import ORIENTATIONS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of each task, and a picture."""
    folder = tmp_path_factory.mktemp("unused")
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg")
    Detector("flexdetr_atto", classes=["cat", "dog"], image_size=64).save(folder / "detector.safetensors")
    flexdetr.Classifier("hgnetv2_atto_cls", classes=["cat", "dog"], image_size=64).save(
        folder / "classifier.safetensors"
    )
    pages = {"classes": ORIENTATIONS, "image_size": 64, "head": {"name": "orientation"}}
    Detector("hgnetv2_atto_cls", **pages).save(folder / "pages.safetensors")
    return folder


def typed(place: Path, model: str, *options: str) -> int:
    file = str(place / f"{model}.safetensors")
    return main(["predict", file, str(place / "noise.jpg"), "--out", str(place / "out"), *options])


OF_DETECTORS = (
    ["--threshold", "0.3"],
    ["--data", "data"],
    ["--draw", "none"],
    ["--explain"],
    ["--slice", "64"],
    ["--slice", "64", "--overlap", "0.3"],
    ["--format", "yolo"],
    ["--format", "parquet"],
)


@pytest.mark.parametrize("options", OF_DETECTORS, ids=" ".join)
def test_of_a_classifier(place: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(place, "classifier", *options) == 2
    said = capsys.readouterr().err
    for option in options:
        assert not option.startswith("--") or option in said
    assert "only of detectors" in said
    assert not (place / "out").exists()


def test_what_a_classifier_listens_to(place: Path, tmp_path: Path) -> None:
    file, picture = str(place / "classifier.safetensors"), str(place / "noise.jpg")
    options = ["--device", "cpu", "--precision", "fp32", "--format", "csv", "--shard", "0/2", "--json"]
    assert main(["predict", file, picture, "--out", str(tmp_path / "told"), *options]) == 0


WITHOUT_PAGES = (
    ["--out", "there"],
    ["--decoder-layers", "1"],
    ["--queries", "5"],
    ["--score", "0.1"],
    ["--iou", "0.5"],
    ["--max-detections", "5"],
    ["--data", "data"],
    ["--every", "2"],
    ["--start", "1"],
    ["--end", "2"],
    ["--reconnect", "1"],
    ["--draw", "none"],
    ["--show"],
    ["--format", "csv"],
    ["--explain"],
    ["--shard", "0/2"],
    ["--slice", "64"],
    ["--overlap", "0.1"],
    ["--merge", "nms"],
)


@pytest.mark.parametrize("options", WITHOUT_PAGES, ids=" ".join)
def test_of_upright(place: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the value is the default: it was typed to have an effect."""
    words = [str(place / "pages.safetensors"), str(place / "noise.jpg"), "--upright", str(place / "upright")]
    assert main(["predict", *words, *options]) == 2
    said = capsys.readouterr().err
    assert f"{options[0]}: not with --upright" in said
    assert not (place / "upright").exists()


def test_what_upright_listens_to(place: Path, tmp_path: Path) -> None:
    words = [str(place / "pages.safetensors"), str(place / "noise.jpg"), "--upright", str(tmp_path / "out")]
    options = ["--threshold", "0.9", "--device", "cpu", "--precision", "fp32", "--runtime", "torch", "--json"]
    assert main(["predict", *words, *options]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--overlap", "0.2"], "--overlap: only with --slice"),
        (["--merge", "nms"], "--merge: only with --slice"),
        (["--every", "2"], "--every: only of films"),
        (["--start", "1", "--end", "2"], "--start and --end: only of films"),
        (["--reconnect", "2"], "--reconnect: only of addresses"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_a_detector(
    place: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(place, "detector", *options) == 2
    assert said in capsys.readouterr().err
    assert not (place / "out").exists()


@pytest.mark.parametrize("option", ["--overlap", "--merge"])
def test_of_eval(place: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"--overlap": "0.2", "--merge": "nms"}[option]
    assert main(["eval", str(place / "detector.safetensors"), "data", option, value]) == 2
    assert f"{option}: only with --slice" in capsys.readouterr().err


def test_of_eval_with_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metadata.json").write_text("{}", encoding="utf-8")
    assert main(["eval", str(tmp_path), "data", "--batch-size", "4"]) == 2
    assert "--batch-size: " in capsys.readouterr().err
