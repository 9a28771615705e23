"""A checkpoint's detector on OpenVINO: used for many pictures on a CPU, and only where it finds the same."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flexdetr
from flexdetr.api import Detector
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scene
from flexdetr.engine import device
from flexdetr.export import converted
from flexdetr.export.writing import DriftError
from flexdetr.runtime.cpu import SWITCH
from flexdetr.runtime.sources import Unreadable, find

MANY = 5


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "PICTURES_FOR_OPENVINO", MANY)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 on both sides, so that they can be compared number by number."""
    monkeypatch.setenv(SWITCH, "off")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the conversions: the number of items of each."""
    done: list[int] = []
    real = converted.convert

    def convert(subject: object, items: list, **options: object) -> object:
        done.append(len(items))
        return real(subject, items, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(converted, "convert", convert)
    return done


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [draw_scene(np.random.default_rng(i), ((96, 128), (160, 120))[i % 2]).image for i in range(MANY)]


@pytest.mark.usefixtures("few_are_many", "without_bf16")
def test_many_pictures_are_found_as_few_are(
    make: Callable[..., Detector], images: list[Any], conversions: list[int]
) -> None:
    detector = make()
    one_by_one = [detector.predict(image, 0.3, device="cpu", decoder_layers=1) for image in images]
    assert conversions == []
    together = detector.predict(images, 0.3, device="cpu", decoder_layers=1)
    detector.predict(images, 0.3, device="cpu", decoder_layers=1)
    assert conversions == [MANY], "once for all calls"
    assert sum(map(len, one_by_one)) > 20
    for one, other in zip(one_by_one, together, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-3)
        assert other.boxes_xyxy == pytest.approx(one.boxes_xyxy, abs=0.5)
        assert other.labels.tolist() == one.labels.tolist()
        assert other.size == one.size


@pytest.mark.usefixtures("few_are_many", "without_bf16")
def test_a_folder_takes_the_same_road(
    make: Callable[..., Detector], images: list[Any], conversions: list[int], tmp_path: Path
) -> None:
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_text("no picture")
    detector = make()
    answers = list(detector.predict_many(find(str(tmp_path)), 0.3, device="cpu"))
    assert conversions == [MANY]
    assert [isinstance(answer, Unreadable) for answer in answers] == [True, False, False, False, False]
    detector.runtime = "torch"
    again = list(detector.predict_many(find(str(tmp_path)), 0.3, device="cpu"))
    assert conversions == [MANY]
    for one, other in zip(answers[1:], again[1:], strict=True):
        assert not isinstance(one, Unreadable)
        assert not isinstance(other, Unreadable)
        assert one[0].name == other[0].name
        assert one[1].scores == pytest.approx(other[1].scores, abs=1e-3)


def test_loading_names_the_runtime(detector: Detector, tmp_path: Path) -> None:
    path = detector.save(tmp_path / "best.safetensors")
    assert flexdetr.load(path, runtime="torch").runtime == "torch"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="'openvino'"):
        flexdetr.load(path, runtime="openvin")


@pytest.mark.usefixtures("few_are_many")
def test_what_drifts_is_left_to_pytorch(
    make: Callable[..., Detector],
    images: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    conversions: list[int],
) -> None:
    detector = make()
    expected = detector.predict(images[0], 0.3, device="cpu")
    real = converted.Writing.write

    def wrong(self: converted.Writing, float32: tuple[str, ...]) -> None:
        broken = make(head={"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0})
        broken.model.head.scores[-1].bias.data += 0.05
        form = converted.prepare(broken.model, self.form.options)
        real(dataclasses.replace(self, form=form), float32)

    monkeypatch.setattr(converted.Writing, "write", wrong)
    with caplog.at_level(logging.WARNING, "flexdetr"):
        found = detector.predict(images, 0.3, device="cpu")
        detector.predict(images, 0.3, device="cpu")
    assert found[0].scores.tolist() == expected.scores.tolist()
    said = [record.message for record in caplog.records if "PyTorch" in record.message]
    assert len(said) == len(conversions) == 1, "tried once"
    assert "scores drift by up to 0.012" in said[0]
    detector.runtime = "openvino"
    with pytest.raises(DriftError, match="OpenVINO does not find what PyTorch finds: of 60 detections"):
        detector.predict(images[0], device="cpu")


def test_which_runtime_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    enough = device.PICTURES_FOR_OPENVINO
    assert device.choose_runtime("auto", cpu, enough - 1) == "torch"
    assert device.choose_runtime("auto", cpu, enough) == "openvino"
    assert device.choose_runtime("auto", gpu, enough) == "torch"
    assert device.choose_runtime("torch", cpu, enough) == "torch"
    assert device.choose_runtime("openvino", cpu, 1) == "openvino"
    with pytest.raises(ConfigError, match="on the cpu only; got device cuda:0"):
        device.choose_runtime("openvino", gpu, enough)
    with pytest.raises(ConfigError, match="'openvino'"):
        device.choose_runtime("openvin", cpu, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert device.choose_runtime("auto", cpu, enough) == "torch"
