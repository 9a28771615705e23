"""A detector answers with the weights that it has now, and what is done with it leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import flexdetr
from flexdetr.api import Detector
from flexdetr.data.scenes import draw_scene
from flexdetr.export import converted as conversion
from flexdetr.model.detector import DetectionModel


def small() -> Detector:
    torch.manual_seed(0)
    detector = Detector(
        "flexdetr_pico",
        classes=("cat", "dog"),
        image_size=(64, 96),
        backbone="hgnetv2_atto",
        encoder={"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4},
        head={"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0},
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for score in (detector.model.head.encoder_score, *detector.model.head.scores):
            score.weight.copy_(0.6 * torch.randn(score.weight.shape, generator=draw))
    return detector


@pytest.fixture
def detector() -> Detector:
    return small()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small().save(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return draw_scene(np.random.default_rng(0), (96, 128)).image


def scores(detector: Any, picture: NDArray[np.uint8], **options: Any) -> NDArray[np.float32]:
    return detector.predict(picture, 0.0, **options).scores


def test_loaded_in_inference_mode(file: Path, picture: NDArray[np.uint8]) -> None:
    expected = scores(flexdetr.load(file), picture)
    with torch.inference_mode():
        detector = flexdetr.load(file)
        made = small()
        inside = scores(detector, picture)
    assert isinstance(detector, Detector)
    for one in (detector, made):
        assert not any(value.is_inference() for value in one.model.state_dict().values())
        assert np.array_equal(scores(one, picture), expected)
    assert np.array_equal(inside, expected)
    detector.model(torch.rand(1, 3, 64, 96)).final.logits.sum().backward()
    assert detector.model.head.scores[-1].weight.grad is not None


def double_through_data(model: DetectionModel) -> None:
    for score in model.head.scores:
        score.weight.data.mul_(2)


def load_doubled(model: DetectionModel) -> None:
    state = model.state_dict()
    model.load_state_dict(
        {name: value * 2 if name.startswith("head.scores") else value for name, value in state.items()}
    )


def replace_data(model: DetectionModel) -> None:
    for score in model.head.scores:
        score.weight.data = score.weight.data * 2


def under_inference_mode(model: DetectionModel) -> None:
    with torch.inference_mode():
        double_through_data(model)


@pytest.mark.parametrize("change", [double_through_data, load_doubled, replace_data, under_inference_mode])
def test_changed_weights_answer(
    change: Callable[[DetectionModel], None], detector: Detector, picture: NDArray[np.uint8]
) -> None:
    before = scores(detector, picture)
    form = detector.deploy_form()
    assert detector.deploy_form() is form, "made once"
    change(detector.model)
    after = scores(detector, picture)
    assert not np.allclose(after, before, atol=1e-3)
    other = small()
    change(other.model)
    assert np.array_equal(after, scores(other, picture)), "a detector that never answered before"


def test_changed_weights_are_converted_again(
    detector: Detector, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[Any] = []

    class Answering:
        def predict(self, pictures: list[Any], threshold: float) -> list[Any]:
            return [(len(converted), len(pictures), threshold)]

    monkeypatch.setattr(
        conversion, "convert", lambda subject, *_, **__: converted.append(subject) or Answering()
    )
    detector.runtime = "openvino"
    assert [detector.predict(picture, 0.5) for _ in range(2)] == [(1, 1, 0.5)] * 2
    double_through_data(detector.model)
    assert [detector.predict(picture, 0.5) for _ in range(2)] == [(2, 1, 0.5)] * 2


@pytest.fixture
def untouched(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever happens in the test, the model is afterwards on the same device in the same modes with its gradients."""
    model = detector.model
    model.train()
    model.backbone.eval()  # as while a part is frozen
    model.encoder.requires_grad_(False)
    (detector.model(torch.rand(2, 3, 64, 96)).final.boxes.sum()).backward()
    modes = [part.training for part in model.modules()]
    values = [(id(value), value.requires_grad, id(value.grad)) for value in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    moved: list[int] = []
    apply = DetectionModel._apply

    def watched(self: DetectionModel, *arguments: Any, **options: Any) -> DetectionModel:
        moved.append(id(self))
        return apply(self, *arguments, **options)

    monkeypatch.setattr(DetectionModel, "_apply", watched)
    yield
    assert id(model) not in moved, "moved to another device or type, if only for a time"
    assert [part.training for part in model.modules()] == modes
    assert [(id(value), value.requires_grad, id(value.grad)) for value in model.parameters()] == values
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("untouched")
def test_export_in_inference_mode_proves_itself_and_leaves_the_model_alone(
    detector: Detector, tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    with torch.inference_mode():
        artifact = detector.export("torch", tmp_path / "artifact")
    assert artifact.parity is not None
    assert artifact.parity.passed
    found = scores(flexdetr.load(artifact.path), picture)
    np.testing.assert_allclose(found, scores(detector, picture, precision="fp32"), atol=1e-4)


@pytest.mark.usefixtures("untouched")
def test_predicting_leaves_the_model_alone(detector: Detector, picture: NDArray[np.uint8]) -> None:
    assert len(scores(detector, picture)) > 0


@pytest.mark.usefixtures("untouched")
def test_a_refused_export_leaves_the_model_alone(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoder_layers must be between 1 and 2; got 9"):
        detector.export("openvino", tmp_path / "artifact", decoder_layers=9)
