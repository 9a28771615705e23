from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import flexdetr
from flexdetr.classes import Classes
from flexdetr.engine.checkpoint import blank, restore, start
from flexdetr.presets import resolve
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.trained import TrainedParts

TINY = {"image_size": 64, "head": {"denoising": 10}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(3)
    detector = flexdetr.Detector("flexdetr_pico", classes={1: "cat", 5: "dog", 9: "traffic light"}, **TINY)
    return detector.save(tmp_path_factory.mktemp("weights") / "three.safetensors")


def test_saved_and_restored_is_the_same_detector(file):
    begun = restore(file, {})
    saved, metadata = store.load(file)
    assert begun.classes == Classes(("cat", "dog", "traffic light"), (1, 5, 9))
    assert begun.config.image_size == metadata.image_size == (64, 64)
    assert all(torch.equal(value, saved[name]) for name, value in begun.model.state_dict().items())


def test_other_classes_take_over_the_rows_of_the_same_name(file):
    config = resolve("flexdetr_pico", weights=str(file), **TINY)
    begun = start(config, Classes(("bird", "Traffic_Light", "cat"), (0, 2, 4)))
    old, _ = store.load(file)
    new = begun.model.state_dict()
    for name in (
        "head.encoder_score.weight",
        "head.scores.2.bias",
        "head.denoising.embedding.weight",
    ):
        assert torch.equal(new[name][1], old[name][2])
        assert torch.equal(new[name][2], old[name][0])
    assert not torch.equal(new["head.scores.2.weight"][0], old["head.scores.2.weight"][0])
    assert torch.equal(new["encoder.input_proj.0.conv.weight"], old["encoder.input_proj.0.conv.weight"])
    assert begun.trained == TrainedParts.whole(begun.model)
    assert begun.trained.all_trained
    assert any("bird" in note and "cat" in note for note in begun.notes)
    assert begun.metadata.provenance


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
    begun = start(config, Classes.of(["a"]))
    assert begun.trained.trained == ("backbone",)
    assert all(".made." in parameter for parameter in begun.trained.fresh)
    assert any("behind the level" in note for note in begun.notes) == (strides[-1] < 32)


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
    begun = blank(resolve("flexdetr_pico", **small), classes)
    file = store.save(tmp_path / "rtdetr.safetensors", begun.model.state_dict(), begun.metadata)
    with pytest.raises(WeightsError, match=r"--weights-part backbone,encoder\)"):
        start(resolve("flexdetr_pico", head="dfine", weights=str(file), **small), classes)
    config = resolve(
        "flexdetr_pico", head="dfine", weights=str(file), weights_part="backbone,encoder", **small
    )
    made = start(config, classes)
    assert made.trained == TrainedParts(trained=("backbone", "encoder"), random=("head",))
    for name, value in made.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, begun.model.state_dict()[name]), name
    assert any("taken of it: backbone, encoder" in note for note in made.notes)


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(flexdetr.config.ConfigError, match="did you mean 'backbone'"):
        resolve("flexdetr_pico", weights_part="backbon")
