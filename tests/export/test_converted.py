"""A checkpoint's detector on OpenVINO: where it is asked for, in what is asked for, and only if it finds the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flexdetr
from flexdetr.api import Detector
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scene, draw_scenes
from flexdetr.export import converted
from flexdetr.export.writing import DriftError
from flexdetr.runtime.artifact import ArtifactError
from flexdetr.runtime.cpu import SWITCH, bf16_supported
from flexdetr.runtime.openvino import shared_core
from flexdetr.runtime.sources import Unreadable, find

MANY = 5


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


@pytest.mark.usefixtures("without_bf16")
def test_finds_what_pytorch_finds(
    make: Callable[..., Detector], images: list[Any], conversions: list[int]
) -> None:
    detector = make()
    one_by_one = [detector.predict(image, 0.3, device="cpu", decoder_layers=1) for image in images]
    detector.predict(images * 25, 0.3, device="cpu", decoder_layers=1)
    assert conversions == [], "however many there are"
    detector.runtime = "openvino"
    together = detector.predict(images, 0.3, device="cpu", decoder_layers=1)
    detector.predict(images, 0.3, device="cpu", decoder_layers=1)
    assert conversions == [MANY], "once for all calls"
    assert sum(map(len, one_by_one)) > 20
    for one, other in zip(one_by_one, together, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-4)
        assert other.boxes_xyxy == pytest.approx(one.boxes_xyxy, abs=0.01)
        assert other.labels.tolist() == one.labels.tolist()
        assert other.size == one.size


@pytest.mark.usefixtures("without_bf16")
def test_a_folder_takes_the_same_road(
    make: Callable[..., Detector], images: list[Any], conversions: list[int], tmp_path: Path
) -> None:
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_text("no picture")
    detector = make()
    detector.runtime = "openvino"
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
    assert [flexdetr.load(path, runtime=one).runtime for one in ("torch", "auto", "openvino")] == [
        "torch",
        "torch",
        "openvino",
    ]
    with pytest.raises(ConfigError, match="'openvino'"):
        flexdetr.load(path, runtime="openvin")


def test_what_drifts_is_refused(
    make: Callable[..., Detector], images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make()
    real = converted.Writing.write

    def wrong(self: converted.Writing, float32: tuple[str, ...]) -> None:
        broken = make(head={"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0})
        broken.model.head.scores[-1].bias.data += 0.05
        form = converted.prepare(broken.model, self.form.options)
        real(dataclasses.replace(self, form=form), float32)

    monkeypatch.setattr(converted.Writing, "write", wrong)
    detector.runtime = "openvino"
    with pytest.raises(DriftError, match="OpenVINO does not find what PyTorch finds: of 120 detections"):
        detector.predict(images[:2], device="cpu")


def test_the_precision_is_the_one_that_was_asked_for(
    make: Callable[..., Detector], images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make()
    detector.runtime = "openvino"
    found = detector.predict(images[0], 0.0, precision="fp32")
    how = detector.computation(precision="fp32")
    assert (how.precision, how.runtime.split()[0], how.device) == ("fp32", "OpenVINO", "CPU")
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        detector.predict(images[0], precision="bf17")
    with pytest.raises(ConfigError, match="on the cpu only; got device cuda:0"):
        detector.predict(images[0], device="cuda:0")
    if "FP16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):  # Sapphire Rapids, ARM
        assert detector.computation(precision="fp16").precision == "fp16"
    else:
        with pytest.raises(ArtifactError, match="CPU does not compute in fp16"):
            detector.predict(images[0], precision="fp16")
    if bf16_supported():
        other = detector.predict(images[0], 0.0, precision="bf16")
        assert other.scores.tolist() != found.scores.tolist()
        assert detector.computation(precision="bf16").precision == "bf16"
    monkeypatch.setenv(SWITCH, "off")
    assert detector.computation().precision == "fp32"


@pytest.mark.usefixtures("without_bf16")
def test_is_scored_as_pytorch_is(make: Callable[..., Detector], tmp_path: Path) -> None:
    data = draw_scenes(tmp_path / "scenes", train=0, val=0, test=2, size=(96, 128))
    path = data / "annotations" / "instances_test.json"
    document = json.loads(path.read_text())
    for row, name in zip(document["categories"], ("cat", "dog", "owl", "x", "y", "z"), strict=True):
        row["name"] = name
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] <= 3]
    path.write_text(json.dumps(document))
    detector = make()
    one = detector.evaluate(data, "test", device="cpu")
    detector.runtime = "openvino"
    other = detector.evaluate(data, "test")
    assert other.numbers() == pytest.approx(one.numbers(), abs=1e-4, nan_ok=True)
    assert one.computation is not None
    assert other.computation is not None
    assert one.computation.runtime.startswith("PyTorch")
    assert other.computation.runtime.startswith("OpenVINO")
    assert one.computation.precision == other.computation.precision == "fp32"
