"""Named models, and the order in which a file, keywords and overrides change them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexdetr.config import ConfigError
from flexdetr.presets import PRESETS, preset, resolve

PROMISED = {
    *(
        f"rtdetr_{size}"
        for size in ("r18", "r34", "r50m", "r50", "r101", "hgnetv2_l", "hgnetv2_x", "hgnetv2_h")
    ),
    *(f"rtdetrv2_{size}" for size in ("s", "m", "ml", "l", "x")),
    *(f"rtdetr_ghostnetv3_{width}" for width in ("050", "100", "130", "160")),
    *(f"rtdetr_{backbone}" for backbone in ("ghostnet_100", "mobilenetv1_100")),
    *(f"rtdetr_hgnet_{size}" for size in ("tiny", "small", "base")),
    *(f"yolov8_{size}" for size in ("n", "s", "m", "hgnetv2_b0", "hgnetv2_l")),
    *(f"{family}_{size}" for family in ("dfine", "deim") for size in ("n", "s", "m", "l", "x")),
    *(f"deimv2_{size}" for size in ("atto", "femto", "pico", "n")),
    *(f"deim_rtdetrv2_{size}" for size in ("s", "m", "l")),
    *(f"flexdetr_{size}" for size in ("atto", "femto", "pico", "nano", "small")),
}


def test_the_promised_models_are_there() -> None:
    assert set(PRESETS) >= PROMISED


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_its_name(name: str) -> None:
    assert preset(name).model == name
    assert resolve(name) == preset(name)


@pytest.mark.parametrize("call", [preset, resolve])
def test_unknown_models_get_the_nearest(call: object) -> None:
    with pytest.raises(ConfigError, match="unknown model 'rtdetr_r81'; did you mean 'rtdetr_r18'"):
        call("rtdetr_r81")  # type: ignore[operator]


def test_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no model was named; choose one of rtdetr_r18, "):
        resolve()


def test_order_of_precedence(tmp_path: Path) -> None:
    """Preset, file, keywords, overrides: each later one wins, key by key."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "train: {lr: 1e-3, epochs: 2, clip: 0.2}\nseed: 1\ndecoder: {queries: 50}\n", encoding="utf-8"
    )
    config = resolve("rtdetr_r18", file, ["train.lr=1e-5", "seed=3"], train={"lr": 1e-4, "epochs": 5}, seed=2)
    assert (config.train.lr, config.train.epochs, config.train.clip, config.seed) == (1e-5, 5, 0.2, 3)
    assert config.head.queries == 50
    assert config.head.layers == preset("rtdetr_r18").head.layers
    assert config.backbone == preset("rtdetr_r18").backbone


def test_who_names_the_model(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: rtdetr_r34\n", encoding="utf-8")
    assert resolve(config_file=file).model == "rtdetr_r34"
    assert resolve("rtdetr_r50", file).model == "rtdetr_r50"
    chosen = resolve("rtdetr_r50", file, ["model=rtdetr_r18"])
    assert chosen == preset("rtdetr_r18")


def test_presets_do_not_leak(tmp_path: Path) -> None:
    before = preset("rtdetr_r50").model_dump()
    resolve(
        "rtdetr_r50", overrides=["backbone.options.x=1", "attention.encoder.8=se", "loss.box_options.ratio=2"]
    )
    assert preset("rtdetr_r50").model_dump() == before
    assert resolve("rtdetr_r50") == preset("rtdetr_r50")


@pytest.mark.parametrize("text", ["backbone=timm/convnext_atto", "backbone.name=timm/convnext_atto"])
def test_another_backbone_is_not_frozen_like_the_former(text: str) -> None:
    """rtdetr_r50 freezes its pretrained stem and norms: random weights must not inherit that."""
    changed = resolve("rtdetr_r50", overrides=[text])
    assert changed.backbone.name == "timm/convnext_atto"
    assert changed.backbone.lr_mult is None
    assert not changed.backbone.freeze_stem
    assert not changed.backbone.freeze_norms
    assert resolve("rtdetr_r50", backbone="timm/convnext_atto") == changed
    assert changed.head == preset("rtdetr_r50").head


def test_published_architectures() -> None:
    """Expansion, widths and layers of FACTS 7.1."""
    facts = {
        name: (c.encoder.width, c.encoder.ffn, c.encoder.intra_layers, c.encoder.expansion, c.head.layers)
        for name, c in PRESETS.items()
        if name.startswith("rtdetr")
    }
    small, full, wide = (256, 1024, 1, 0.5), (256, 1024, 1, 1.0), (384, 2048, 1, 1.0)
    assert facts["rtdetr_r18"] == facts["rtdetrv2_s"] == (*small, 3)
    assert facts["rtdetr_r34"] == facts["rtdetrv2_m"] == (*small, 4)
    assert facts["rtdetr_r50m"] == facts["rtdetrv2_ml"] == (*small, 6)
    assert facts["rtdetr_r50"] == facts["rtdetrv2_l"] == facts["rtdetr_hgnetv2_l"] == (*full, 6)
    assert facts["rtdetr_r101"] == facts["rtdetrv2_x"] == facts["rtdetr_hgnetv2_x"] == (*wide, 6)
    assert facts["rtdetr_hgnetv2_h"] == (512, 2048, 2, 1.0, 6)
    assert preset("rtdetr_r50m").head.eval_layers == 3
    for name in facts:  # ours on other backbones too
        head = preset(name).head
        assert (head.width, head.ffn, head.queries, head.heads) == (256, 1024, 300, 8)
        assert (head.denoising, head.label_noise, head.box_noise) == (100, 0.5, 1.0)


def test_deim_changes_activations_and_how_it_is_trained() -> None:
    for size in ("n", "s", "m", "l", "x"):
        dfine, deim = preset(f"dfine_{size}"), preset(f"deim_{size}")
        assert deim.head == dfine.head.model_copy(update={"activation": "silu"})
        assert deim.encoder == dfine.encoder
        assert not deim.backbone.freeze_norms
        assert dfine.backbone.freeze_norms is (size in ("l", "x"))
        assert (dfine.loss.classification, deim.loss.classification) == ("varifocal", "mal")
    for size in ("s", "m", "l"):
        second, deim = preset(f"rtdetrv2_{size}"), preset(f"deim_rtdetrv2_{size}")
        assert deim.head == second.head.model_copy(update={"activation": "silu", "position_layers": 3})
        assert (deim.encoder, deim.backbone.name) == (second.encoder, second.backbone.name)


def test_light_backbones_differ_in_nothing_else() -> None:
    """What compares these presets compares their backbones."""
    wanted = preset("rtdetr_r18")
    for name in ("ghostnetv3_050", "ghostnetv3_160", "ghostnet_100", "mobilenetv1_100", "hgnet_tiny"):
        found = preset(f"rtdetr_{name}")
        assert (found.encoder, found.head, found.train) == (wanted.encoder, wanted.head, wanted.train)
        assert found.backbone.name == name


def test_the_cuts_have_the_sizes_of_their_source() -> None:
    """DEIMv2's image sizes; the level that its cuts lack is made from the last one (FACTS 2)."""
    assert preset("flexdetr_atto").image_size == (320, 320)
    assert preset("flexdetr_femto").image_size == (416, 416)
