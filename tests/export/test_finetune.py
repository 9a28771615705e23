"""Fine-tuning for int8: rounding as int8 does, and staying with the float model's answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from flexdetr.api import Detector
from flexdetr.config import Config
from flexdetr.data.dataset import Record
from flexdetr.data.scenes import draw_scene
from flexdetr.export import finetune
from flexdetr.export import openvino as openvino_writer
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.finetune import RoundedInput, RoundedWeight, distance, fine_tune, rounding
from flexdetr.export.make import ExportSource, export
from flexdetr.export.prepare import DeployForm, Options, prepare
from flexdetr.export.quantize import int8_layers


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    """Pictures without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for i in range(6):
        path = folder / f"{i}.png"
        Image.fromarray(draw_scene(np.random.default_rng(i), (96, 128)).image).save(path)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        found.append(Record(path, i, 128, 96, *nothing, np.zeros(0, np.float32)))
    return tuple(found)


@pytest.fixture(scope="module")
def form(detector: Detector) -> DeployForm:
    return prepare(detector.model, Options((64, 96)))


@pytest.fixture(scope="module")
def config(detector: Detector) -> Config:
    alone = detector.config.data.model_copy(update={"workers": 0})
    return detector.config.model_copy(update={"data": alone})


def planes(records: tuple[Record, ...], form: DeployForm) -> torch.Tensor:
    feeds = CalibrationPictures(records, form.options.size, raw=True, source="")
    return form.preprocess(torch.cat([torch.from_numpy(feed["images"]) for feed in feeds]))


def test_weights_round_by_channel() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.001], [100.0, 60.0, -100.0], [0.0, 0.0, 0.0]], requires_grad=True)
    rounded = RoundedWeight()(weight)
    step = weight.detach().abs().amax(1, keepdim=True) / 127
    assert (rounded - weight).abs().le(step / 2 + 1e-6).all()
    assert rounded[0].tolist() == pytest.approx([1.0, -64 / 127, 0.0], abs=1e-6)
    assert rounded[2].tolist() == [0, 0, 0]
    rounded.sum().backward()
    assert weight.grad is not None
    assert weight.grad[:2].tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_inputs_round_over_the_range_that_they_have() -> None:
    hook = RoundedInput()
    (first,) = hook(nn.Identity(), (torch.linspace(0, 2.55, 1000),))
    assert len(set(first.tolist())) == 256
    assert (first - torch.linspace(0, 2.55, 1000)).abs().max() <= 0.005 + 1e-6
    zero = hook(nn.Identity(), (torch.tensor([-1.0, 0.0, 1.0]),))[0][1]
    assert float(zero) == 0, "what is nothing stays nothing"
    (outlier,) = hook(nn.Identity(), (torch.tensor([1000.0]),))
    assert 2.5 < float(outlier) < 100, "one picture does not decide the range"


def test_a_detector_rounds_only_while_asked(form: DeployForm, records: tuple[Record, ...]) -> None:
    images = planes(records[:2], form)
    layers = int8_layers(form)
    before = {name: value.clone() for name, value in form.detector.state_dict().items()}
    with torch.no_grad():
        plain = form.detector(images).final.logits
        assert float(distance(form.detector, form.detector, images)) == pytest.approx(0, abs=1e-4)
        with rounding(form.detector, layers):
            rounded = form.detector(images).final.logits
        again = form.detector(images).final.logits
    assert not torch.equal(rounded, plain)
    assert torch.equal(again, plain)
    after = form.detector.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_comes_nearer_to_the_float_model(
    form: DeployForm, config: Config, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # At four bits, where rounding costs so much that a few steps are seen.
    monkeypatch.setattr(finetune, "_WEIGHT_LEVEL", 7)
    monkeypatch.setattr(finetune, "_INPUT_LEVEL", 15)
    images = planes(records, form)
    before = {name: value.clone() for name, value in form.detector.state_dict().items()}

    def off(candidate: DeployForm) -> float:
        model = copy.deepcopy(candidate.detector)
        with torch.no_grad(), rounding(model, int8_layers(form)):
            return float(distance(model, form.detector, images))

    said: list[str] = []
    tuned = fine_tune(form, records, config, 15, rate=1e-3, announce=said.append)
    assert off(tuned.form) < 0.85 * off(form)
    assert min(tuned.losses) < 0.8 * tuned.losses[0]
    assert len(tuned.losses) == len(said) == tuned.describe()["epochs"] == 15
    assert tuned.describe()["pictures"] == 6
    assert all(torch.equal(value, before[name]) for name, value in form.detector.state_dict().items())
    assert set(tuned.form.detector.state_dict()) == set(before)
    assert not any(part.requires_grad for part in tuned.form.parameters())
    again, same = (fine_tune(form, records, config, 1, rate=1e-3) for _ in range(2))
    assert again.losses == same.losses, "the seed decides"


def test_what_diverges_is_refused(form: DeployForm, config: Config, records: tuple[Record, ...]) -> None:
    with pytest.raises(ExportError, match=r"diverged in epoch \d"):
        fine_tune(form, records, config, 2, rate=float("inf"))


def test_data_without_training_pictures_is_refused(
    subject: ExportSource, tmp_path: Path, labelled: Path
) -> None:
    import shutil

    data = shutil.copytree(labelled, tmp_path / "data")
    (data / "annotations" / "instances_train.json").unlink()
    shutil.rmtree(data / "train")
    with pytest.raises(ExportError, match=r"training split, which .* does not have"):
        export(subject, "openvino", tmp_path / "out", precision="int8", data=data, qat=1)
    with pytest.raises(ExportError, match="0 or more; got -1"):
        export(subject, "openvino", tmp_path / "out", precision="int8", data=data, qat=-1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_an_export_is_fine_tuned(
    make: Callable[..., Detector], labelled: Path, tmp_path: Path, kind: str
) -> None:
    detector = make(data={"workers": 0})
    weights = {name: value.clone() for name, value in detector.model.state_dict().items()}
    options = {"precision": "int8", "data": labelled, "calibration": 4, "max_drop": 0.9}
    artifact = detector.export(kind, tmp_path / kind, qat=2, **options)
    made = artifact.metadata.made["int8"]
    assert made["qat"]["epochs"] == len(made["qat"]["losses"]) == 2
    assert made["qat"]["pictures"] == 6
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert all(torch.equal(value, weights[name]) for name, value in detector.model.state_dict().items())
    image = next(iter((labelled / "val").iterdir()))
    import flexdetr

    found = flexdetr.load(artifact.path).predict(image, 0.5)
    expected = detector.predict(image, 0.5)
    assert abs(len(found) - len(expected)) <= 0.3 * len(expected) + 1


@pytest.mark.slow
def test_the_file_answers_as_the_rounding_model(
    form: DeployForm, config: Config, records: tuple[Record, ...], tmp_path: Path
) -> None:
    import openvino

    tuned = fine_tune(form, records, config, 2, rate=2e-4).form
    openvino_writer.write(tuned, tmp_path, "fp32", ())
    path = tmp_path / openvino_writer.MODEL
    feeds = CalibrationPictures(records, form.options.size, raw=False, source="")
    openvino_writer.quantise(path, tuned, feeds, ())
    graph = openvino.Core().read_model(path)
    graph.reshape({"images": [1, 64, 96, 3], "sizes": [1, 2]})
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    far, near = [], []
    with torch.no_grad(), rounding(tuned.detector, int8_layers(tuned)):
        for feed in [*feeds, *feeds]:  # the first time, ranges are observed
            answered = tuned(*(torch.from_numpy(feed[name]) for name in ("images", "sizes")))
            found = compiled(feed)
            near.append(np.abs(found["scores"][0, :10] - answered[1][0, :10].numpy()).mean())
            far.append(float(answered[1][0, :10].mean()))
    assert np.mean(near[len(records) :]) < 0.05 * np.mean(far), "scores of the ten best"
