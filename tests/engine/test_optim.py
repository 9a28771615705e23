import pytest
import torch
from torch import nn

from flexdetr.classes import Classes
from flexdetr.engine.checkpoint import blank
from flexdetr.engine.optim import build_optimizer, parameter_groups
from flexdetr.engine.recipe import derive
from flexdetr.presets import resolve


@pytest.fixture(scope="module")
def config():
    return derive(resolve("flexdetr_pico", image_size=64), 100, pretrained=True).config


@pytest.fixture(scope="module")
def model(config):
    return blank(config, Classes.of(["a", "b"])).model


def by_name(model, groups):
    owner = {id(parameter): group for group in groups for parameter in group["params"]}
    return {name: owner.get(id(parameter)) for name, parameter in model.named_parameters()}


def test_every_trainable_parameter_is_in_one_group(config, model):
    groups = parameter_groups(model, config, pretrained=True)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_norms_biases_and_affine_blocks_do_not_decay(config, model):
    groups = by_name(model, parameter_groups(model, config, pretrained=True))
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
    groups = by_name(model, parameter_groups(model, config, pretrained=True))
    assert groups["decoder.scores.0.weight"]["lr"] == pytest.approx(lr)
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(lr * backbone)
    assert groups["backbone.stem.stem1.lab.scale"]["lr"] == pytest.approx(lr * backbone * 0.01)


def test_a_swapped_backbone_brings_its_own_rate(config):
    """Nothing else is typed: the part says 0.1, and the preset's 0.5 was meant for another one."""
    changed = resolve("flexdetr_pico", image_size=64, backbone="ghostnetv3_050")
    assert changed.backbone.lr_mult is None
    swapped = blank(changed, Classes.of(["a"])).model
    settled = derive(changed, 100, pretrained=True).config
    groups = by_name(swapped, parameter_groups(swapped, settled, pretrained=True))
    assert groups["backbone.stem.conv.weight"]["lr"] == pytest.approx(settled.train.lr * 0.1)


def test_a_random_backbone_learns_at_the_full_rate(config, model):
    groups = by_name(model, parameter_groups(model, config, pretrained=False))
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(config.train.lr)


def test_frozen_parameters_are_left_out(config):
    model = blank(config, Classes.of(["a"])).model
    model.backbone.freeze(stem=True, stages=1, norms=True)
    groups = by_name(model, build_optimizer(model, config, pretrained=True).param_groups)
    assert groups["backbone.stem.stem1.conv.weight"] is None
    assert groups["backbone.stages.3.blocks.0.aggregation.0.norm.weight"] is None
    assert groups["backbone.stages.3.blocks.0.aggregation.0.conv.weight"] is not None


def test_an_unsettled_rate_is_refused(model):
    with pytest.raises(ValueError, match="recipe"):
        parameter_groups(model, resolve("flexdetr_pico"), pretrained=False)


def test_one_step_changes_every_trainable_parameter_that_has_a_gradient(config, model):
    optimizer = build_optimizer(model, config, pretrained=False)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_stages_learn_slower_the_nearer_they_are_to_the_image(config, model):
    backbone = config.backbone.model_copy(update={"lr_decay": 0.5})
    slowed = config.model_copy(update={"backbone": backbone})
    groups = by_name(model, parameter_groups(model, slowed, pretrained=True))
    whole = config.train.lr * config.backbone.lr_mult
    last = len(model.backbone.stages)
    assert groups["backbone.stem.stem1.conv.weight"]["lr"] == pytest.approx(whole * 0.5**last)
    for stage in range(last):
        names = [
            name for name in groups if name.startswith(f"backbone.stages.{stage}.") and "conv.weight" in name
        ]
        rates = [groups[name]["lr"] for name in names]
        assert rates == pytest.approx([whole * 0.5 ** (last - 1 - stage)] * len(rates))
    assert groups["decoder.scores.0.weight"]["lr"] == pytest.approx(config.train.lr)
