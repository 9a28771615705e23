from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import flexdetr
from flexdetr.classes import Classes
from flexdetr.config import ConfigError, merge
from flexdetr.engine.checkpoint import blank, restore, start
from flexdetr.presets import resolve
from flexdetr.weights import packaged, store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.manifest import PUBLISHED
from flexdetr.weights.trained import TrainedParts

TINY = {"image_size": 64, "head": {"denoising": 10}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(3)
    detector = flexdetr.Detector("flexdetr_pico", classes={1: "cat", 5: "dog", 9: "traffic light"}, **TINY)
    return detector.save(tmp_path_factory.mktemp("weights") / "three.safetensors")


def test_saved_and_restored_is_the_same_detector(file):
    starting = restore(file, {})
    saved, metadata = store.load(file)
    assert starting.classes == Classes(("cat", "dog", "traffic light"), (1, 5, 9))
    assert starting.config.image_size == metadata.image_size == (64, 64)
    assert all(torch.equal(value, saved[name]) for name, value in starting.model.state_dict().items())


def test_other_classes_take_over_the_rows_of_the_same_name(file):
    config = resolve("flexdetr_pico", weights=str(file), **TINY)
    starting = start(config, Classes(("bird", "Traffic_Light", "cat"), (0, 2, 4)))
    old, _ = store.load(file)
    new = starting.model.state_dict()
    for name in (
        "head.encoder_score.weight",
        "head.scores.2.bias",
        "head.denoising.embedding.weight",
    ):
        assert torch.equal(new[name][1], old[name][2])
        assert torch.equal(new[name][2], old[name][0])
    assert not torch.equal(new["head.scores.2.weight"][0], old["head.scores.2.weight"][0])
    assert torch.equal(new["encoder.input_proj.0.conv.weight"], old["encoder.input_proj.0.conv.weight"])
    assert starting.trained == TrainedParts.whole(starting.model)
    assert starting.trained.all_trained
    assert any("bird" in note and "cat" in note for note in starting.notes)
    assert starting.metadata.provenance


def test_another_architecture_is_refused_in_one_sentence(file):
    config = resolve("flexdetr_nano", weights=str(file), image_size=64)
    with pytest.raises(WeightsError, match="does not fit"):
        start(config, Classes.of(["cat"]))


def test_a_key_of_a_newer_version_is_refused_by_name(file, tmp_path):
    state, metadata = store.load(file)
    config = {**metadata.config, "head": {**metadata.config["head"], "sharpness": 2}}
    newer = store.save(tmp_path / "newer.safetensors", state, replace(metadata, config=config))
    with pytest.raises(WeightsError, match=r"newer one wrote it, update\): unknown key 'head\.sharpness'"):
        restore(newer, {})


def test_random_weights_follow_the_seed():
    config = resolve("flexdetr_pico", **TINY)
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(blank(config, Classes.of(["a"])).model.state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize("strides", [[4, 8], [8, 16], [4, 8, 16], [16, 32, 64], [8, 16, 32]])
@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_050", "hgnetv2_b0"])
def test_a_trained_backbone_serves_any_levels(name, strides, tmp_path):
    part = name.removeprefix("timm/")
    if part == name:
        whole = blank(
            resolve("flexdetr_nano", backbone=name, encoder={"strides": [8, 16, 32]}), Classes.of(["a"])
        )
        state = {key: value for key, value in whole.model.state_dict().items() if key.startswith("backbone.")}
        file = store.save(tmp_path / "part.safetensors", state, replace(whole.metadata, part="backbone"))
    else:
        file = tmp_path / "part.safetensors"
        save_file(timm.create_model(part).state_dict(), file)
    backbone = {"name": name, "weights": str(file)}
    config = resolve("flexdetr_nano", image_size=64, backbone=backbone, encoder={"strides": strides})
    starting = start(config, Classes.of(["a"]))
    assert starting.trained.trained == ("backbone",)
    assert all(".made." in parameter for parameter in starting.trained.fresh)
    assert any("behind the level" in note for note in starting.notes) == (strides[-1] < 32)


def test_a_larger_backbone_of_the_same_names_is_refused(tmp_path):
    """Every tensor of ResNet-18 is in ResNet-34, in the same shape."""
    whole = blank(resolve("rtdetr_r34", image_size=64), Classes.of(["a"]))
    state = {key: value for key, value in whole.model.state_dict().items() if key.startswith("backbone.")}
    file = store.save(tmp_path / "part.safetensors", state, replace(whole.metadata, part="backbone"))
    with pytest.raises(WeightsError, match="is a resnet34_vd, and the detector's backbone is resnet18_vd"):
        start(resolve("rtdetr_r18", image_size=64, weights=str(file)), Classes.of(["a"]))


def test_parts_of_a_detector_with_another_head_are_taken_where_they_are_asked_for(tmp_path):
    classes = Classes(("a", "b"), (1, 2))
    small = {"image_size": 64, "backbone": "hgnetv2_atto"}
    starting = blank(resolve("flexdetr_pico", **small), classes)
    file = store.save(tmp_path / "rtdetr.safetensors", starting.model.state_dict(), starting.metadata)
    with pytest.raises(WeightsError, match=r"--weights-part backbone,encoder\)"):
        start(resolve("flexdetr_pico", head="dfine", weights=str(file), **small), classes)
    config = resolve(
        "flexdetr_pico", head="dfine", weights=str(file), weights_part="backbone,encoder", **small
    )
    made = start(config, classes)
    assert made.trained == TrainedParts(trained=("backbone", "encoder"), random=("head",))
    for name, value in made.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, starting.model.state_dict()[name]), name
    assert any("taken of it: backbone, encoder" in note for note in made.notes)


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(flexdetr.config.ConfigError, match="did you mean 'backbone'"):
        resolve("flexdetr_pico", weights_part="backbon")


@pytest.fixture
def published_detector(tmp_path, monkeypatch):
    """What is published for rtdetr_r18, placed by hand: a small detector of three classes."""
    small = {
        "image_size": 64,
        "encoder": {"width": 32, "ffn": 32},
        "head": {"width": 32, "layers": 1, "ffn": 32},
    }
    starting = blank(resolve("rtdetr_r18", **small), Classes(("cat", "dog", "owl"), (3, 5, 9)))
    monkeypatch.setenv("FLEXDETR_CACHE", str(tmp_path))
    store.save(tmp_path / PUBLISHED["rtdetr_r18"].file, starting.model.state_dict(), starting.metadata)
    return small


def test_auto_takes_the_published_detector(published_detector):
    starting = start(resolve("rtdetr_r18", **published_detector), Classes.of(["dog"]))
    assert starting.trained.all_trained
    assert starting.config.weights == starting.metadata.config["weights"] == "coco"
    assert starting.notes[0] == "weights: the published detector rtdetr_r18"


def test_auto_says_what_was_not_reached(published_detector):
    """A changed head does not fit what is published, and the backbone's file is not here."""
    changed = merge(published_detector, {"head": {"ffn": 48}})
    starting = start(resolve("rtdetr_r18", **changed), Classes.of(["dog"]))
    assert starting.config.weights == "none"
    assert not starting.trained.trained
    (note,) = starting.notes
    assert note.startswith("weights: random, since the published detector rtdetr_r18 does not fit: ")
    assert "ResNet18_vd_pretrained_from_paddle.pth cannot be reached" in note
    assert "place it at" in note
    assert "What it costs: " in note


def test_auto_without_anything_published():
    starting = start(resolve("flexdetr_atto", image_size=64), Classes.of(["dog"]))
    assert "nothing is published for flexdetr_atto or its backbone hgnetv2_atto" in starting.notes[0]


def test_auto_asks_for_no_detector_where_the_backbone_is_another(published_detector):
    starting = start(
        resolve("rtdetr_r18", backbone="ghostnetv3_050", **published_detector), Classes.of(["dog"])
    )
    assert "nothing is published for rtdetr_r18 or its backbone ghostnetv3_050" in starting.notes[0]


def test_auto_refuses_a_changed_file(monkeypatch):
    monkeypatch.setattr(packaged, "sha256", lambda _: "0" * 64)
    with pytest.raises(WeightsError, match=r"is not the published file|not installed"):
        start(resolve("flexdetr_lite0", image_size=64, weights="backbone"), Classes.of(["dog"]))


def test_a_backbones_own_file_leaves_auto_nothing_to_do(published_detector, tmp_path):
    whole = blank(resolve("rtdetr_r18", image_size=64), Classes.of(["a"]))
    state = {key: value for key, value in whole.model.state_dict().items() if key.startswith("backbone.")}
    file = store.save(tmp_path / "part.safetensors", state, replace(whole.metadata, part="backbone"))
    config = resolve("rtdetr_r18", **published_detector, backbone={"weights": str(file)})
    assert start(config, Classes.of(["dog"])).trained.trained == ("backbone",)


def test_a_published_detector_brings_its_classes(published_detector):
    detector = flexdetr.Detector("rtdetr_r18", weights="coco", **published_detector)
    assert (detector.classes.names, detector.classes.ids) == (("cat", "dog", "owl"), (3, 5, 9))
    with pytest.raises(ConfigError, match="weights=none bring no classes: name them"):
        flexdetr.Detector("rtdetr_r18", **published_detector)


def test_a_presets_name_is_loaded_as_a_file_is(published_detector):
    detector = flexdetr.load("rtdetr_r18")
    assert detector.classes.names == ("cat", "dog", "owl")
    with pytest.raises(WeightsError, match=r"rtdetrv2_r18vd_120e_coco\.pth cannot be reached .*place it at"):
        flexdetr.load("rtdetrv2_s")
