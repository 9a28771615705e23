from dataclasses import replace

import pytest
import torch
from torch import nn

from flexdetr.classes import Classes
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.checkpoint import blank, start
from flexdetr.engine.optim import build_optimizer, freeze, parameter_groups
from flexdetr.engine.recipe import derive
from flexdetr.presets import resolve
from flexdetr.weights import store
from flexdetr.weights.trained import TrainedParts

PARTS = ("backbone", "encoder", "head")
NOTHING, WHOLE = TrainedParts(random=PARTS), TrainedParts(trained=PARTS)


@pytest.fixture(scope="module")
def config():
    return derive(resolve("flexdetr_pico", image_size=64), 100, WHOLE, 0.1).config


@pytest.fixture(scope="module")
def model(config):
    return blank(config, Classes.of(["a", "b"])).model


def by_name(model, groups):
    owner = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: owner.get(id(parameter)) for name, parameter in model.named_parameters()}


def test_every_trainable_parameter_is_in_one_group(config, model):
    groups = parameter_groups(model, config, WHOLE)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_norms_biases_and_affine_blocks_do_not_decay(config, model):
    groups = by_name(model, parameter_groups(model, config, WHOLE))
    norms = {
        f"{path}.{name}"
        for path, part in model.named_modules()
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm)
        for name, _ in part.named_parameters()
    }
    assert norms
    for name, group in groups.items():
        still = name in norms or name.endswith("bias") or ".lab." in name
        assert group["weight_decay"] == (0 if still else config.train.weight_decay), name


def test_affine_blocks_learn_at_a_hundredth_and_a_trained_backbone_at_its_own_rate(config, model):
    lr, backbone = config.train.lr, config.backbone.lr_mult
    groups = by_name(model, parameter_groups(model, config, WHOLE))
    assert groups["head.scores.0.weight"]["lr"] == pytest.approx(lr)
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(lr * backbone)
    assert groups["backbone.stem.stem1.lab.scale"]["lr"] == pytest.approx(lr * backbone * 0.01)


def test_a_swapped_backbone_brings_its_own_rate(config):
    """Nothing else is typed: the part says 0.1, and the preset's 0.5 was meant for another one."""
    changed = resolve("flexdetr_pico", image_size=64, backbone="ghostnetv3_050")
    assert changed.backbone.lr_mult is None
    swapped = blank(changed, Classes.of(["a"])).model
    settled = derive(changed, 100, WHOLE, 0.1).config
    groups = by_name(swapped, parameter_groups(swapped, settled, WHOLE))
    assert groups["backbone.stem.conv.weight"]["lr"] == pytest.approx(settled.train.lr * 0.1)


def test_a_random_backbone_learns_at_the_full_rate(config, model):
    groups = by_name(model, parameter_groups(model, config, NOTHING))
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(config.train.lr)


def test_frozen_parameters_are_left_out(config):
    model = blank(config, Classes.of(["a"])).model
    model.backbone.freeze(stem=True, stages=1, norms=True)
    groups = by_name(model, build_optimizer(model, config, WHOLE).param_groups)
    assert groups["backbone.stem.stem1.conv.weight"] is None
    assert groups["backbone.stages.3.blocks.0.aggregation.0.norm.weight"] is None
    assert groups["backbone.stages.3.blocks.0.aggregation.0.conv.weight"] is not None


# A level of stride 32 that DEIMv2's cut does not have, and an insert with a norm of its own.
ADDED = {
    "image_size": 64,
    "attention": {"backbone.16": "coordinate"},
    "backbone": {"name": "hgnetv2_atto", "freeze_norms": True, "freeze_stages": 3, "lr_mult": 0.01},
}


@pytest.fixture(scope="module")
def trained_backbone(tmp_path_factory):
    plain = blank(resolve("flexdetr_atto", image_size=64, encoder={"strides": [8, 16]}), Classes.of(["a"]))
    state = {name: value for name, value in plain.model.state_dict().items() if name.startswith("backbone.")}
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.fill_(0.25)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    return store.save(path, state, replace(plain.metadata, part="backbone"))


def test_fresh_parts_in_a_trained_backbone_learn_at_the_full_rate(trained_backbone):
    starting = start(resolve("flexdetr_atto", weights=str(trained_backbone), **ADDED), Classes.of(["a"]))
    parts = starting.trained
    assert (parts.trained, parts.random) == (("backbone",), ("encoder", "head"))
    assert {name.split(".")[1] for name in parts.fresh} == {"inserts", "levels"}
    assert any(".norm." in name for name in parts.fresh)
    settled = derive(starting.config, 100, parts, 0.1).config
    freeze(starting.model, settled, parts)
    groups = by_name(starting.model, parameter_groups(starting.model, settled, parts))
    for name, group in groups.items():
        if name in parts.fresh:
            assert group is not None, name
            assert group["lr"] == settled.train.lr
    old = "backbone.stages.2.blocks.0.aggregation.0.conv.weight"
    assert groups[old] is None
    freeze_nothing = settled.model_copy(
        update={"backbone": settled.backbone.model_copy(update={"freeze_stages": 0})}
    )
    model = start(starting.config, starting.classes).model
    freeze(model, freeze_nothing, parts)
    rates = by_name(model, parameter_groups(model, freeze_nothing, parts))
    assert rates[old]["lr"] == pytest.approx(0.01 * settled.train.lr)
    assert rates["backbone.stem.stem1.norm.weight"] is None


def test_norms_of_fresh_parts_gather_statistics_where_the_trained_ones_are_frozen(trained_backbone, tmp_path):
    data = draw_scenes(tmp_path / "data", train=4, val=1, test=1, size=(96, 96))
    train = {"epochs": 1, "batch_size": 2}
    config = resolve(
        "flexdetr_atto", weights=str(trained_backbone), data={"workers": 0}, train=train, **ADDED
    )
    run = fit.train(data, config, out=tmp_path / "run", quiet=True)
    state = run_state.load(run.folder)
    means = {name: value for name, value in state["model"].items() if name.endswith("running_mean")}
    inside = {name: value for name, value in means.items() if name.startswith("backbone.")}
    fresh = {name for name in inside if "inserts" in name or "levels.made" in name}
    assert len(fresh) == 3
    for name, value in inside.items():
        assert bool((value == 0.25).all()) == (name not in fresh), name
        assert bool(value.any()), name
    assert TrainedParts.from_json(state["trained"]).fresh  # a resumed run learns what it learned before


def test_what_starts_at_random_is_not_frozen(config):
    model = blank(config, Classes.of(["a"])).model
    frozen = {"freeze_stem": True, "freeze_stages": 2, "freeze_norms": True}
    changed = config.model_copy(update={"backbone": config.backbone.model_copy(update=frozen)})
    freeze(model, changed, NOTHING)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unsettled_rate_is_refused(model):
    with pytest.raises(ValueError, match="recipe"):
        parameter_groups(model, resolve("flexdetr_pico"), NOTHING)


def test_one_step_changes_every_trainable_parameter_that_has_a_gradient(config, model):
    optimizer = build_optimizer(model, config, NOTHING)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_stages_learn_slower_the_nearer_they_are_to_the_image(config, model):
    backbone = config.backbone.model_copy(update={"lr_decay": 0.5})
    slowed = config.model_copy(update={"backbone": backbone})
    groups = by_name(model, parameter_groups(model, slowed, WHOLE))
    whole = config.train.lr * config.backbone.lr_mult
    last = len(model.backbone.stages)
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(whole * 0.5**last)
    for stage in range(last):
        names = [
            name for name in groups if name.startswith(f"backbone.stages.{stage}.") and "conv.weight" in name
        ]
        rates = [groups[name]["lr"] for name in names]
        assert rates == pytest.approx([whole * 0.5 ** (last - 1 - stage)] * len(rates))
    assert groups["head.scores.0.weight"]["lr"] == pytest.approx(config.train.lr)
