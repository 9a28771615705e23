"""Every dialect in sizes and spellings that the golden files do not show: recognised by keys, exact, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flexdetr.config import Config, build, merge
from flexdetr.presets import PRESETS
from flexdetr.weights import store
from flexdetr.weights.architecture import config_of
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.loading import load_any
from flexdetr.weights.lyuwenyu import points_per_level, rename_detector
from flexdetr.weights.manifest import PUBLISHED as MANIFEST
from flexdetr.weights.paddle import rename_paddle
from flexdetr.weights.renaming import Renamed, complete
from flexdetr.weights.skeleton import skeleton
from flexdetr.weights.ultralytics import rename_ultralytics

Save = Callable[..., Path]
PUBLISHED = [name for name in PRESETS if name in MANIFEST]


def described(state: dict[str, Tensor]) -> dict[str, Deferred]:
    """Tensors as a reader gives them, but for the bytes."""
    return {
        name: Deferred(
            tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda tensor=tensor: tensor
        )
        for name, tensor in state.items()
    }


def architecture(renamed: Renamed, known: dict[str, Any], family: str) -> Config:
    assert not renamed.unknown
    shapes = {name: tensor.shape for name, tensor in complete(renamed.state).items()}
    config, count = config_of(shapes, known, family)
    assert count == 7
    expected = skeleton(config, count).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in expected.items()} == shapes
    return config


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_size_is_inferred_from_shapes(name: str, dialects: SimpleNamespace) -> None:
    wanted = PRESETS[name]
    state = dict(skeleton(wanted, 7).state_dict())
    family = name.split("_")[0] + "_"
    points = (4, 4, 4) if family == "rtdetrv2_" else None
    for version in (1, 2):
        tensors = described(dialects.lyuwenyu(state, points=points, version=version))
        known = {"head": {"points": points_per_level(tensors)}} if points else {}
        assert architecture(rename_detector(tensors), known, family) == wanted
    if family == "rtdetr_":
        assert architecture(rename_paddle(described(dialects.paddle(state))), {}, family) == wanted
    blocks = {"rtdetr_hgnetv2_l": (1, 1, 3, 1), "rtdetr_hgnetv2_x": (1, 2, 5, 2)}.get(name)
    if blocks:
        renamed, _ = rename_ultralytics(described(dialects.ultralytics(state, blocks)))
        assert architecture(renamed, {}, family) == wanted


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], *, counters: bool = True) -> bool:
    assert found.keys() == wanted.keys()
    return all(
        torch.equal(found[name], wanted[name])
        for name in wanted
        if counters or not name.endswith("num_batches_tracked")
    )


def test_lyuwenyu_exactly(dialects: SimpleNamespace, save_torch: Save) -> None:
    for points, layers in (((1, 2, 3), 2), ((2, 2, 2), 1), (None, 3)):
        changes = {"head": {"points": points or 4, "layers": layers}}
        model = dialects.make_model(build(merge(dialects.small.model_dump(), changes)))
        state = dict(model.state_dict())
        other = {name: tensor + 1 for name, tensor in state.items()}
        for version in (1, 2):
            names = dialects.lyuwenyu(state, points=points, version=version)
            content = {"ema": {"module": names, "updates": 3}, "model": dialects.lyuwenyu(other)}
            loaded = load_any(save_torch(content), overrides={"head": {"queries": 20}})
            assert same(loaded.state(), state)
            assert loaded.report.branch == "EMA"
            assert "EMA and raw weights; EMA are taken" in str(loaded.report)
            assert loaded.config.head.points == (2 if points == (2, 2, 2) else points or 4)
            assert loaded.config.head.eval_layers is None
        with torch.inference_mode():
            image = torch.rand(1, 3, 96, 64)
            assert torch.equal(loaded.build()(image).final.boxes, model(image).final.boxes)
    raw = load_any(save_torch({"ema": {"module": names}, "model": dialects.lyuwenyu(other)}), prefer="raw")
    assert raw.report.branch == "raw"
    assert same(raw.state(), other)


def test_paddle_exactly(dialects: SimpleNamespace, save_paddle: Save) -> None:
    state = dict(dialects.make_model().state_dict())
    loaded = load_any(save_paddle(dialects.paddle(state)))
    assert loaded.kind == "paddle"
    assert same(loaded.state(), state, counters=False)
    # Paddle's own layers instead of a state dict: (name, array) pairs.
    loaded = load_any(save_paddle(dialects.paddle(state)), kind="paddle")
    assert loaded.classes.names == tuple(f"class_{index}" for index in range(5))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_are_taken_off(prefix: str, dialects: SimpleNamespace, save_torch: Save) -> None:
    state = dict(dialects.make_model().state_dict())
    names = {prefix + name: tensor for name, tensor in dialects.lyuwenyu(state).items()}
    for content in (names, {"model": names, "epoch": 4}, {"state_dict": names}):
        assert same(load_any(save_torch(content)).state(), state)


def test_frozen_norms_have_no_counters(dialects: SimpleNamespace, save_torch: Save) -> None:
    state = dict(dialects.make_model().state_dict())
    names = {name: value for name, value in dialects.lyuwenyu(state).items() if "num_batches" not in name}
    found = load_any(save_torch(names)).state()
    assert same(found, state, counters=False)
    assert found["backbone.stem.stem1.norm.num_batches_tracked"].dtype == torch.int64


def test_folded_fusion_blocks(dialects: SimpleNamespace, save_torch: Save) -> None:
    """After lyuwenyu's convert_to_deploy the RepVGG blocks are one biased convolution."""
    from flexdetr.model.blocks import fold_norm

    model = dialects.make_model()
    names = dialects.lyuwenyu(dict(model.state_dict()))
    for where, ours in (("fpn_blocks", model.encoder.top_down), ("pan_blocks", model.encoder.bottom_up)):
        for index, block in enumerate(ours):
            for inner, part in enumerate(block.bottlenecks):
                wide, shift = fold_norm(part.conv1.conv.weight, part.conv1.norm)
                narrow, other = fold_norm(part.conv2.conv.weight, part.conv2.norm)
                prefix = f"encoder.{where}.{index}.bottlenecks.{inner}."
                names = {name: value for name, value in names.items() if not name.startswith(prefix)}
                names[prefix + "conv.weight"] = (wide + torch.nn.functional.pad(narrow, (1, 1, 1, 1))).float()
                names[prefix + "conv.bias"] = (shift + other).float()
    deployed = load_any(save_torch({"model": names})).build()
    with torch.inference_mode():
        image = torch.rand(1, 3, 128, 128)
        levels, wanted = deployed.encoder(deployed.backbone(image)), model.encoder(model.backbone(image))
    for level, expected in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_other_precisions_become_float32(dialects: SimpleNamespace, save_torch: Save) -> None:
    state = dict(dialects.make_model().state_dict())
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        names = {
            name: value.to(kind) if value.is_floating_point() else value
            for name, value in dialects.lyuwenyu(state).items()
        }
        loaded = load_any(save_torch(names))
        expected = {
            name: value.to(kind).float() if value.is_floating_point() else value
            for name, value in state.items()
        }
        assert same(loaded.state(), expected)
        assert ("half precision" in str(loaded.report)) == (kind != torch.float64)


def test_a_detector_without_denoising(dialects: SimpleNamespace, save_torch: Save) -> None:
    config = build(merge(dialects.small.model_dump(), {"head": {"denoising": 0}}))
    state = dict(dialects.make_model(config).state_dict())
    loaded = load_any(save_torch(dialects.lyuwenyu(state)))
    assert loaded.config.head.denoising == 0
    assert same(loaded.state(), state)


def test_coco_names_for_eighty_classes_only(dialects: SimpleNamespace, save_torch: Save) -> None:
    for count in (80, 79):
        state = dict(dialects.make_model(num_classes=count).state_dict())
        classes = load_any(save_torch(dialects.lyuwenyu(state))).classes
        assert len(classes) == count
        assert (
            (classes.names[79], classes.ids[79]) == ("toothbrush", 90)
            if count == 80
            else classes.ids[78] == 78
        )


def test_what_dsp_means_is_read_off_the_name(dialects: SimpleNamespace, save_torch: Save) -> None:
    names = dialects.lyuwenyu(dict(dialects.make_model().state_dict()), points=(4, 4, 4))
    file = save_torch({"ema": {"module": names}}, "rtdetrv2_r18vd_dsp_3x_coco.pth")
    loaded = load_any(file)
    assert loaded.config.head.sampling == "discrete"
    assert "dsp" in str(loaded.report)
    assert load_any(file, overrides={"head": {"sampling": "bilinear"}}).config.head.sampling == "bilinear"
    assert load_any(save_torch(names)).config.head.sampling == "bilinear"
    discrete = load_any(save_torch(names), overrides={"head": {"sampling": "discrete"}})
    assert discrete.build().head.layers[0].cross_attention.sampling == "discrete"


def test_partial_matches_are_refused_unless_told_otherwise(
    dialects: SimpleNamespace, save_torch: Save
) -> None:
    state = dict(dialects.make_model().state_dict())
    names = dialects.lyuwenyu(state)
    lacking = {name: value for name, value in names.items() if "dec_bbox_head.1.layers.2" not in name}
    with pytest.raises(WeightsError, match=r"2 tensors are missing \(head\.boxes\.1\.layers\.2\.weight"):
        load_any(save_torch(lacking))
    loaded = load_any(save_torch(lacking), partial=True)
    assert len(loaded.report.missing) == 2
    with torch.inference_mode():
        assert loaded.build()(torch.rand(1, 3, 64, 64)).final.boxes.isfinite().all()
    extra = {**names, "decoder.tgt_embed.weight": torch.ones(3), "encoder.nothing": torch.ones(1)}
    with pytest.raises(
        WeightsError, match=r"2 tensors have no place \(encoder\.nothing, decoder\.tgt_embed\.weight\)"
    ):
        load_any(save_torch(extra))
    assert same(load_any(save_torch(extra), partial=True).build().state_dict(), state)


def test_wrong_shapes_get_one_sentence(dialects: SimpleNamespace, save_torch: Save) -> None:
    state = dialects.lyuwenyu(dict(dialects.make_model().state_dict()))
    wrong = {
        "decoder.dec_score_head.1.weight": torch.ones(9, 64),
        "encoder.encoder.0.layers.0.self_attn.in_proj_weight": torch.ones(100, 64),
        "decoder.enc_output.proj.weight": torch.ones(3),
        "backbone.stem.stem1.conv.weight": torch.ones(17, 3, 3, 3),
        "decoder.denoising_class_embed.weight": torch.ones(2, 64),
        "decoder.decoder.layers.0.cross_attn.attention_weights.weight": torch.ones(95, 64),
        "encoder.input_proj.0.conv.weight": torch.ones(63, 256, 1, 1),
    }
    for name, value in wrong.items():
        with pytest.raises(WeightsError) as caught:
            load_any(save_torch({**state, name: value})).build()
        assert "\n" not in str(caught.value)
        assert "checkpoint.pth" in str(caught.value)


def test_what_is_not_what_it_should_be(dialects: SimpleNamespace, save_torch: Save, tmp_path: Path) -> None:
    names = dialects.lyuwenyu(dict(dialects.make_model().state_dict()))
    with pytest.raises(WeightsError, match="is not PaddleDetection RT-DETR: by its keys it is RT-DETR"):
        load_any(save_torch(names), kind="paddle")
    with pytest.raises(WeightsError, match="did you mean 'lyuwenyu'"):
        load_any(save_torch(names), kind="lyuwenu")
    save_file({"model.layers.0.q": torch.ones(2)}, tmp_path / "llm.safetensors")
    with pytest.raises(
        WeightsError, match=r"not a detector or backbone that FlexDETR knows .*model\.layers\.0\.q"
    ):
        load_any(tmp_path / "llm.safetensors")
    for content in ([1, 2], {"epoch": 3}, {"model": {"a": 1}}, "text"):
        with pytest.raises(WeightsError, match="holds no state dict"):
            load_any(save_torch(content))
    page = tmp_path / "page.pth"
    page.write_bytes(b"<!DOCTYPE html><html><body>404: Not Found</body></html>")
    with pytest.raises(WeightsError, match="web page"):
        load_any(page)
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        load_any(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        load_any(tmp_path / "nothing.pth")
    strange = {name.replace("stem1", "first"): value for name, value in names.items()}
    with pytest.raises(WeightsError, match="its backbone is not one that FlexDETR has"):
        load_any(save_torch(strange))


def test_our_own_files(dialects: SimpleNamespace, tmp_path: Path) -> None:
    model = dialects.make_model()
    metadata = store.Metadata(
        config=dialects.small.model_dump(mode="json"),
        classes=[{"id": index * 3 + 1, "name": f"n{index}"} for index in range(5)],
        norm_eps={"": 1e-3, "backbone": 1e-4, "backbone.stem.stem1.norm": 1e-2},
    )
    path = store.save(tmp_path / "x.safetensors", model.state_dict(), metadata)
    loaded = load_any(path)
    assert loaded.kind == "flexdetr"
    assert loaded.classes.ids == (1, 4, 7, 10, 13)
    built = loaded.build()
    assert same(dict(built.state_dict()), dict(model.state_dict()))
    assert built.encoder.input_proj[0].norm.eps == 1e-3
    assert built.backbone.stem.stem2a.norm.eps == 1e-4
    assert built.backbone.stem.stem1.norm.eps == 1e-2
    assert not built.training
    fewer = load_any(path, overrides={"head": {"eval_layers": 1}})
    assert fewer.build().head.eval_layers == 1
    other = store.save(
        tmp_path / "y.safetensors", model.state_dict(), replace(metadata, classes=metadata.classes[:4])
    )
    with pytest.raises(WeightsError, match="does not fit"):
        load_any(other).build()
    broken = store.save(tmp_path / "z.safetensors", {}, replace(metadata, config={"encoder": {"widht": 3}}))
    with pytest.raises(WeightsError, match=r"encoder\.width"):
        load_any(broken)


def test_the_weights_do_not_follow_the_file(dialects: SimpleNamespace, save_torch: Save) -> None:
    """Loaded tensors are copies: overwriting the file in place changes nothing."""
    model = dialects.make_model()
    file = save_torch(dialects.lyuwenyu(dict(model.state_dict())))
    built = load_any(file).build()
    file.write_bytes(b"\0" * file.stat().st_size)
    assert same(dict(built.state_dict()), dict(model.state_dict()))
    assert all(parameter.requires_grad for parameter in built.parameters())


def test_backbones_of_every_spelling(dialects: SimpleNamespace, save_torch: Save, save_paddle: Save) -> None:
    state = dict(skeleton(PRESETS["rtdetr_r18"], 3).state_dict())
    trunk = {name: torch.randn(value.shape) for name, value in state.items() if name.startswith("backbone.")}
    trunk = {name: value for name, value in trunk.items() if "num_batches" not in name}
    lyuwenyu = dialects.lyuwenyu(trunk)
    bare = {name.removeprefix("backbone."): value for name, value in lyuwenyu.items()}
    paddle = {name.removeprefix("backbone."): value for name, value in dialects.paddle(trunk).items()}
    paddleclas = paddleclas_resnet(trunk)
    files = (
        save_torch(lyuwenyu),
        save_torch(bare, "b.pth"),
        save_paddle(paddle),
        save_paddle(paddleclas, "c.pdparams"),
    )
    for file in files:
        loaded = load_any(file)
        assert loaded.is_backbone
        assert loaded.config.backbone.name == "resnet18_vd"
        found = loaded.state()
        assert all(torch.equal(found[name], value) for name, value in trunk.items())
        with pytest.raises(WeightsError, match="is a backbone"):
            loaded.build()
        again = load_any(store.save(file.with_suffix(".safetensors"), found, loaded.metadata))
        assert again.is_backbone
        assert same(again.state(), found)


def paddleclas_resnet(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """PaddleClas numbers the two blocks of each of ResNet-18's stages through."""
    named = {"fc.weight": torch.ones(512, 10), "fc.bias": torch.ones(10)}
    for name, value in trunk.items():
        parts = name.replace(".norm.", ".bn.").split(".")[1:]
        if parts[0] == "stages":
            block = int(parts[1]) * 2 + int(parts[2])
            inner = ["short"] if parts[3] == "shortcut" else [f"conv{parts[4]}"]
            parts = ["blocks", str(block), *inner, *parts[5:]]
        named[".".join(parts).replace("running_mean", "_mean").replace("running_var", "_variance")] = value
    return named
