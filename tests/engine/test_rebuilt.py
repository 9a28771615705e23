"""A detector that is trained on with another configuration: what is built anew, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from flexdetr.api import Detector
from flexdetr.config import ConfigError
from flexdetr.data.scenes import CLASSES, draw_scenes
from flexdetr.engine.rebuilt import rebuilt
from flexdetr.loading import load
from flexdetr.presets import resolve
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.trained import TrainedParts

TINY = {
    "image_size": 64,
    "encoder": {"strides": [16, 32], "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 10, "denoising": 4},
}
SECTIONS = {
    "more layers": {"head": {"layers": 2}},
    "wider": {"head": {"width": 64}},
    "other fusion": {"encoder": {"fusion": "ghost"}},
    "another level": {"encoder": {"strides": [8, 16, 32]}},
    "an insert": {"attention": {"backbone.16": "coordinate", "encoder.32": "ese"}},
    "another backbone": {"backbone": "ghostnetv3_050"},
    "no denoising": {"head": {"denoising": 0}},
}


class Levels(nn.Module):
    """Strides 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width if i else 3, width, 3, 2, 1) for i in range(5))

    def forward(self, x):
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return maps[3:]


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return Detector("flexdetr_pico", classes=["cat", "dog"], **TINY)


@pytest.fixture
def starting(detector, tmp_path):
    """A start that is trained as a whole."""
    trained = load(detector.save(tmp_path / "trained.safetensors"))
    return trained._starting


@pytest.mark.parametrize("changes", SECTIONS.values(), ids=SECTIONS)
def test_what_fits_is_carried_over_and_the_rest_is_fresh(starting, changes):
    config, built, module = rebuilt(starting, None, changes)
    assert module is None
    old, new = starting.model.state_dict(), built.model.state_dict()
    swapped = "backbone" in changes
    for name, value in new.items():
        fits = (
            name in old and old[name].shape == value.shape and not (swapped and name.startswith("backbone."))
        )
        if fits:
            assert torch.equal(value, old[name]), name
    parameters = [name for name, _ in built.model.named_parameters()]
    carried = {name for name in parameters if name in old and old[name].shape == new[name].shape}
    if swapped:
        carried = {name for name in carried if not name.startswith("backbone.")}
    assert built.trained == TrainedParts.of(built.model, carried)
    assert built.config == config
    assert built.metadata.config == config.model_dump(mode="json")
    assert len(built.notes) == 3
    for part, note in zip(("backbone", "encoder", "head"), built.notes, strict=True):
        own = [name for name in parameters if name.startswith(f"{part}.")]
        whole = all(name in carried for name in own)
        assert note.startswith(
            f"{part}: all weights" if whole else f"{part}: {len([*set(own) & carried])} of {len(own)}"
        )


def test_what_does_not_change_the_model_keeps_it(starting):
    for changes in (
        {"epochs": 3},
        {"data": {"flip": 0.0}},
        {"image_size": 96},
        {"seed": 3},
        {"loss": {"box": "siou"}},
    ):
        config, same, _ = rebuilt(starting, None, changes)
        assert same is starting
        assert config != starting.config


def test_nothing_trained_is_forgotten_and_nothing_random_becomes_trained(detector, starting):
    slower = {"backbone": {"lr_mult": 0.3, "freeze_stem": True}}
    for former in (detector._starting, starting):
        config, built, _ = rebuilt(former, None, slower)
        assert built.trained == former.trained
        assert config.backbone.lr_mult == 0.3
        assert all(note.endswith("all weights carried over") for note in built.notes)


def test_other_weights_are_loaded_into_it(starting, tmp_path):
    torch.manual_seed(5)
    other = Detector(
        "flexdetr_pico", classes=["dog", "bird"], **{**TINY, "head": {**TINY["head"], "layers": 2}}
    )
    file = str(other.save(tmp_path / "other.safetensors"))
    config, built, _ = rebuilt(starting, None, {"weights": file, "head": {"layers": 2}})
    assert built.trained.all_trained
    name = "encoder.input_proj.0.conv.weight"
    assert torch.equal(built.model.state_dict()[name], other.model.state_dict()[name])
    assert any("carried over by name: dog" in note for note in built.notes)
    again, _, _ = rebuilt(built, None, {"epochs": 2})
    assert again.weights == config.weights == file  # loaded once
    with pytest.raises(WeightsError, match="does not fit"):
        rebuilt(starting, None, {"weights": file})


def test_what_makes_no_sense_is_refused(starting):
    with pytest.raises(ConfigError, match=r"make another one: Detector\('rtdetr_r50'"):
        rebuilt(starting, None, {"model": "rtdetr_r50"})
    with pytest.raises(ConfigError, match=r"unknown key 'encodr'; did you mean 'encoder'"):
        rebuilt(starting, None, {"encodr": {}})
    with pytest.raises(ConfigError, match="eval_layers 9 is more"):
        rebuilt(starting, None, {"head": {"eval_layers": 9}})
    with pytest.raises(ConfigError, match="place"):
        rebuilt(starting, None, {"attention": {"encoder.64": "ese"}})
    with pytest.raises(ConfigError, match="no run of flexdetr_pico was published"):
        rebuilt(starting, None, {"recipe": "coco"})


def test_the_published_recipe_is_taken_whole_here_too(starting):
    config = starting.config.model_copy(update={"model": "rtdetr_r18"})
    changed, _, _ = rebuilt(replace(starting, config=config), None, {"recipe": "coco", "epochs": 3})
    published = resolve("rtdetr_r18", recipe="coco")
    assert changed.train.lr == published.train.lr == 1e-4
    assert changed.data == published.data
    assert changed.train.epochs == 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("rebuilt"), train=4, val=2, test=2, size=(96, 96))


def test_a_detector_trains_on_with_other_parts(data, tmp_path):
    options = {"epochs": 1, "batch_size": 2, "report": False, "quiet": True}
    detector = Detector("flexdetr_pico", classes=CLASSES, **TINY, data={"workers": 0})
    detector.train(data, out=tmp_path / "first", **options)
    run = detector.train(
        data, out=tmp_path / "second", head={"layers": 2}, attention={"encoder.16": "se"}, **options
    )
    assert len(detector.model.head.layers) == 2
    assert detector.config.attention == {"encoder.16": "se"}
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "backbone: all weights carried over" in log
    assert "head.layers.1." in log
    assert "rate of the backbone" in log
    saved, metadata = store.load(run.best)
    assert metadata.config["head"]["layers"] == 2
    assert all(torch.equal(value, saved[name]) for name, value in detector.model.state_dict().items())


def test_a_backbone_that_is_an_object_stays_that_object_s_kind(data, tmp_path):
    """Its class, called without arguments, could not make it again."""
    options = {"epochs": 1, "batch_size": 2, "report": False, "quiet": True}
    net = Levels(12)
    detector = Detector("flexdetr_pico", classes=CLASSES, backbone=net, **TINY, data={"workers": 0})
    assert detector.model.backbone.body is net
    run = detector.train(data, out=tmp_path / "first", head={"layers": 2}, **options)
    assert detector.model.backbone.body.layers[0].out_channels == 12
    detector.train(data, out=tmp_path / "second", **options)
    again = load(run.best, backbone=Levels(12))
    assert isinstance(again, Detector)
    assert again.model.backbone.channels == (12, 12)
    wider = Levels(16)
    detector.train(data, out=tmp_path / "third", backbone=wider, **options)
    assert detector.model.backbone.channels == (16, 16)


def test_several_processes_refuse_an_object_that_they_cannot_make(data, tmp_path):
    detector = Detector("flexdetr_pico", classes=CLASSES, backbone=Levels(12), **TINY)
    with pytest.raises(
        ConfigError, match=r"build the backbone .*:Levels itself, and .*my_pkg\.my_mod:factory"
    ):
        detector.train(data, out=tmp_path / "run", processes=2, epochs=1)
    assert not (tmp_path / "run").exists()
