"""Ours to transformers and back bit for bit, and transformers' own model gives the same boxes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from flexdetr.classes import Classes
from flexdetr.config import Config, build, merge
from flexdetr.presets import PRESETS
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any
from flexdetr.weights.manifest import PUBLISHED
from flexdetr.weights.skeleton import set_norm_eps, skeleton
from flexdetr.weights.transformers import read_config
from flexdetr.weights.transformers_export import to_transformers

CLASSES = Classes(("a", "b", "c", "d", "e"), (3, 5, 7, 9, 20))


def variants(small: Config) -> dict[str, Config]:
    values = small.model_dump()
    return {
        "v1": small,
        "v2 discrete": build(merge(values, {"head": {"sampling": "discrete", "points": 3}})),
        "two levels": build(merge(values, {"encoder": {"strides": (8, 16)}, "image_size": (192, 160)})),
        "bottleneck": build(merge(values, {"backbone": {"name": "resnet50_vd", "freeze_norms": True}})),
        "basic": build(merge(values, {"backbone": "resnet18_vd"})),
        "narrow": build(
            merge(
                values,
                {"encoder": {"width": 32, "expansion": 1.0, "intra_layers": 2}, "head": {"denoising": 0}},
            )
        ),
    }


NAMES = ["v1", "v2 discrete", "two levels", "bottleneck", "basic", "narrow"]


def theirs(folder: Path) -> torch.nn.Module:
    """transformers' own model of a folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = json.loads((folder / "config.json").read_text())
    model, info = getattr(transformers, config["architectures"][0]).from_pretrained(
        folder, output_loading_info=True
    )
    problems = {key: value for key, value in info.items() if value}
    assert not problems
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_and_same_boxes(name: str, dialects: SimpleNamespace, tmp_path: Path) -> None:
    config = variants(dialects.small)[name]
    model = dialects.make_model(config)
    state = dict(model.state_dict())
    folder = to_transformers(state, config, CLASSES, tmp_path / "folder")
    loaded = load_any(folder)
    again = loaded.state()
    frozen = {
        key
        for key in state
        if config.backbone.freeze_norms and key.startswith("backbone.") and "num_batches" in key
    }
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state.keys() - frozen)
    assert loaded.classes == CLASSES
    for section in ("encoder", "head"):
        assert getattr(loaded.config, section) == getattr(config, section)
    assert (loaded.config.backbone.name, loaded.config.image_size) == (
        config.backbone.name,
        config.image_size,
    )
    height, width = 192, 160  # transformers needs at least as many tokens as queries
    image = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        ours, other = model(image).final, theirs(folder)(image)
    # Queries are a set, as rounding may swap two of them; discrete sampling jumps where rounding decides the cell.
    distance = (ours.boxes[0][:, None] - other.pred_boxes[0][None]).abs().amax(-1)
    nearest = distance.argmin(1)
    close = distance.amin(1) < 1e-4
    close &= (ours.logits[0] - other.logits[0][nearest]).abs().amax(-1) < 1e-3
    assert close.float().mean() >= (0.8 if name == "v2 discrete" else 1.0)


def test_golden_weights_through_transformers(golden: ModuleType, tmp_path: Path) -> None:
    """Paddle's file -> ours -> transformers' layout -> transformers' model -> Paddle's answer."""
    case = "paddledet_rtdetr_r18vd"
    loaded = load_any(golden.write(case, tmp_path))
    folder = to_transformers(loaded.state(), loaded.config, loaded.classes, tmp_path / "folder")
    with torch.inference_mode():
        output = theirs(folder)(torch.from_numpy(golden.inputs(case)))
    difference = golden.compare_queries(output.logits[0].numpy(), output.pred_boxes[0].numpy(), case)
    limit = golden.cases()[case]["tolerance"]
    assert difference["hit"] == 300
    assert difference["logits"] <= limit["logits"]
    assert difference["boxes"] <= limit["boxes"]


@pytest.mark.parametrize("case", ["dfine_n", pytest.param("dfine_m", marks=pytest.mark.slow)])
def test_dfine_through_transformers(case: str, golden: ModuleType, tmp_path: Path) -> None:
    """D-FINE's file -> ours -> transformers' d_fine and back, bit for bit; its model gives D-FINE's answer."""
    loaded = load_any(golden.write(case, tmp_path))
    state = loaded.state()
    folder = to_transformers(state, loaded.config, loaded.classes, tmp_path / "folder")
    model = theirs(folder)
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.inputs(case)))
    difference = golden.compare_queries(output.logits[0].numpy(), output.pred_boxes[0].numpy(), case)
    limit = golden.cases()[case]["tolerance"]
    assert difference["hit"] == 300
    assert difference["logits"] <= limit["logits"]
    assert difference["boxes"] <= limit["boxes"]
    model.save_pretrained(tmp_path / "theirs")
    for again in (load_any(folder), load_any(tmp_path / "theirs")):
        read = again.state()
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], state[name]) for name in state)
        assert (again.config.encoder, again.config.head) == (loaded.config.encoder, loaded.config.head)
        assert again.report.title == "transformers D-FINE"
    assert load_any(folder).config == loaded.config


def test_what_transformers_dfine_does_not_have(golden: ModuleType, tmp_path: Path) -> None:
    loaded = load_any(golden.write("deim_n", tmp_path))
    with pytest.raises(WeightsError, match=r"head.activation=silu \(it computes with relu\)"):
        to_transformers(loaded.state(), loaded.config, loaded.classes, tmp_path / "folder")
    folder = tmp_path / "folder"
    assert not folder.exists()
    plain = load_any(golden.write("dfine_n", tmp_path))
    to_transformers(plain.state(), plain.config, plain.classes, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in {"lqe_hidden_dim": 32, "layer_scale": 2, "reg_scale": 0}.items():
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(WeightsError, match=key):
            load_any(folder)


def test_other_eps_become_the_same_function(dialects: SimpleNamespace, tmp_path: Path) -> None:
    model = dialects.make_model()
    for eps in ({"": 1e-3}, {"encoder": 2e-3, "head": 2e-3}, {"backbone.stem": 1e-2, "backbone": 1e-4}):
        set_norm_eps(model, {"": 1e-5})
        set_norm_eps(model, eps)
        folder = to_transformers(
            model.state_dict(), dialects.small, CLASSES, tmp_path / "folder", norm_eps=eps
        )
        again = load_any(folder).build()
        image = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            ours = model.encoder(model.backbone(image))
            other = again.encoder(again.backbone(image))
        for level, expected in zip(other, ours, strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_layers_that_do_not_run_are_not_written(dialects: SimpleNamespace, tmp_path: Path) -> None:
    config = build(merge(dialects.small.model_dump(), {"head": {"eval_layers": 1}}))
    model = dialects.make_model(config)
    loaded = load_any(to_transformers(model.state_dict(), config, CLASSES, tmp_path / "folder"))
    assert (loaded.config.head.layers, loaded.config.head.eval_layers) == (1, None)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.build()(image).final.boxes, model(image).final.boxes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "ghostnetv3_100"}, "backbone ghostnetv3_100"),
        ({"encoder": {"depth": 0.67}}, "encoder.depth=0.67"),
        ({"encoder": {"intra": "sppf"}}, "encoder.intra=sppf"),
        ({"encoder": {"strides": (16, 32)}}, r"encoder.strides=\[16, 32\]"),
        ({"head": {"points": (3, 6, 3)}}, "head.points"),
        ({"attention": {"backbone.16": "ese"}}, "attention inserts"),
        ({"backbone": {"name": "hgnetv2_b0", "options": {"pool_padding": "paddle"}}}, "pool_padding"),
    ],
)
def test_what_transformers_does_not_have(
    change: dict, said: str, dialects: SimpleNamespace, tmp_path: Path
) -> None:
    config = build(merge(dialects.small.model_dump(), change))
    with pytest.raises(WeightsError, match=said):
        to_transformers({}, config, CLASSES, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("name", [name for name in PRESETS if name in PUBLISHED])
def test_every_published_preset_has_a_place_for_every_tensor(name: str, tmp_path: Path) -> None:
    from flexdetr.weights.transformers_export import describe, renamed_state

    config = PRESETS[name]
    with torch.device("meta"):
        state = {key: torch.empty(value.shape) for key, value in skeleton(config, 5).state_dict().items()}
    described = describe(config, CLASSES)
    layers = config.head.eval_layers or config.head.layers
    names = renamed_state(state, layers, frozen=described["freeze_backbone_batch_norms"])
    assert f"model.decoder.class_embed.{layers - 1}.weight" in names
    assert f"model.decoder.class_embed.{layers}.weight" not in names


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_feature_levels", 10**12),
        ("num_feature_levels", "3"),
        ("feat_strides", None),
        ("decoder_attention_heads", 0),
        ("decoder_n_points", [4, "4"]),
        ("encoder_layers", [1]),
        ("backbone_config", "resnet"),
        ("batch_norm_eps", "small"),
        ("eval_size", [640]),
    ],
)
def test_entries_of_another_type_are_told(tmp_path: Path, entry: str, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rt_detr", entry: value}))
    with pytest.raises(WeightsError, match=rf"config\.json: {entry}"):
        read_config(tmp_path)
