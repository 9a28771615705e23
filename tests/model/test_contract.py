"""The contract of every part that a configuration can name, in a whole detector: a new row is tested at once.

Each builds, learns from square and other images and from one alone, fuses, comes back from its file, exports to ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.cli import main
from flexdetr.config import Config, build, merge
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine.checkpoint import blank
from flexdetr.loss.box_family import BOX_LOSSES
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.criterion import build_criterion
from flexdetr.model.backbones import BACKBONES
from flexdetr.model.fuse import fuse
from flexdetr.model.fusion import FUSIONS
from flexdetr.model.heads import heads_of, shared_options
from flexdetr.model.inserts import INSERTS
from flexdetr.model.intra import INTRA
from flexdetr.model.outputs import Prediction, Targets
from flexdetr.weights import store
from flexdetr.weights.loading import load_any

CLASSES = Classes(("cat", "dog", "owl", "yak"), (1, 2, 5, 7))
TINY: dict[str, Any] = {
    "image_size": [64, 96],
    "backbone": {"name": "hgnetv2_atto"},
    "encoder": {"strides": [16, 32], "width": 32, "ffn": 48, "heads": 4, "expansion": 0.5, "depth": 0.34},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 10, "denoising": 4},
}
# Another size of a row that is not here, or another name for one; most take over a second for each step.
HEAVY = {
    *(f"hgnetv2_{size}" for size in ("b1", "b3", "b5", "b6", "m", "l", "x", "h")),
    *(f"hgnet_{size}" for size in ("small", "base")),
    *(f"resnet{depth}_vd" for depth in (34, 101)),
    *(f"ghostnetv3_{width}" for width in ("100", "130", "160")),
    *("ghostnet_100", "ghostnet_130", "ghostnetv2_130", "ghostnetv2_160", "mobilenetv1_125"),
    *(f"cspdarknet_c2f_{size}" for size in "smlx"),
}


DEIMV2: dict[str, Any] = {
    "name": "dfine",
    "activation": "silu",
    "norm": "rms",
    "feed_forward": "swiglu",
    "gate": False,
    "project_tokens": False,
    "position_layers": 3,
    "position_once": True,
    "shared_boxes": True,
}
PARTS: dict[str, dict[str, Any]] = {
    **{name: {"attention": {"backbone.16": name, "encoder.32": name}} for name in INSERTS},
    **{name: {"encoder": {"fusion": name}} for name in FUSIONS},
    **{name: {"encoder": {"intra": name}} for name in INTRA},
    "stride 4": {"encoder": {"strides": [4, 8, 16]}},
    **{f"head {name}": {"head": {"name": name}} for name in heads_of("detect")},
    "discrete": {"head": {"sampling": "discrete"}},
    "discrete dfine": {"head": {"name": "dfine", "sampling": "discrete", "activation": "silu"}},
    "deim": {"head": {"activation": "silu", "position_layers": 3}},
    "head of deimv2_pico": {"head": DEIMV2},
}
LOSSES: dict[str, dict[str, Any]] = {
    **{name: {"loss": {"box": name, "matcher_box": name}} for name in BOX_LOSSES},
    **{name: {"loss": {"box": name}} for name in ("inner_ciou", "focaler_eiou", "inner_shape_iou")},
    **{name: {"loss": {"classification": name}} for name in CLASS_LOSSES},
}
BACKBONE_ROWS = {name: {"backbone": name} for name in BACKBONES}
ROWS = {**BACKBONE_ROWS, **PARTS, **LOSSES}
# Every part once in few exports, which take seconds each.
TOGETHER: dict[str, dict[str, Any]] = {
    "hgnetv2": {
        "attention": {"backbone.4": "ese", "backbone.8": "se", "backbone.16": "eca", "encoder.16": "cbam"},
        "encoder": {"fusion": "csprep", "intra": "aifi"},
    },
    "ghostnetv3": {
        "backbone": "ghostnetv3_050",
        "attention": {"backbone.16": "coordinate", "encoder.16": "simam", "encoder.32": "ema"},
        "encoder": {"fusion": "gelan", "intra": "sppf"},
    },
    "yolov8": {
        "backbone": "cspdarknet_c2f_n",
        "encoder": {"fusion": "pan_c2f", "intra": "sppf", "project": False},
    },
    "timm": {"backbone": "mobilenetv1_100", "encoder": {"fusion": "ghost", "intra": "none"}},
    "deimv2": {"encoder": {"fusion": "lite", "intra": "gap"}, "head": DEIMV2},
    "deimv2 hybrid": {"encoder": {"fusion": "gelan_sum", "intra": "none"}},
}


def sections(changes: dict[str, Any]) -> dict[str, Any]:
    """The small detector's sections with a row's changes; another head takes over the options that it has too."""
    name = changes.get("head", {}).get("name", "rtdetr")
    return merge({**TINY, "head": shared_options(TINY["head"], name)}, changes)


def config(changes: dict[str, Any]) -> Config:
    return build(sections(changes))


def rows(table: dict[str, dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(changes, id=name, marks=pytest.mark.slow if name in HEAVY else ())
        for name, changes in table.items()
    ]


def test_the_tables_are_whole() -> None:
    assert BACKBONES.keys() > HEAVY
    together = [name for changes in TOGETHER.values() for name in changes.get("attention", {}).values()]
    assert sorted(together) == sorted(INSERTS)
    fusions, intra = ({row["encoder"][key] for row in TOGETHER.values()} for key in ("fusion", "intra"))
    assert fusions | {"gelan_lean"} == FUSIONS.keys()  # gelan_sum without a convolution
    assert intra == INTRA.keys()


@pytest.mark.parametrize("changes", rows(ROWS))
def test_every_part_learns(
    changes: dict[str, Any], image: Callable[..., Tensor], objects: Callable[..., Targets]
) -> None:
    """From two images that are not square, one without objects, and from a square one alone.

    Of 128 pixels: GhostNetV3's gates see half of the coarsest map, and a batch norm needs more than one value.
    """
    torch.manual_seed(0)
    chosen = config(changes)
    model = blank(chosen, CLASSES).model.train()
    criterion = build_criterion(chosen.loss, chosen.head, len(CLASSES))
    for images, targets in ((image(2, 64, 96), objects(3, 0)), (image(1, 128, 128), objects(2))):
        losses = criterion(model(images, targets), targets)
        assert torch.isfinite(losses.total)
        losses.total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    untaught = [name for name, grad in gradients.items() if grad is None]
    # Sampling at whole pixels has no gradient for where it samples (RT-DETRv2).
    discrete = getattr(chosen.head, "sampling", None) == "discrete"
    assert not [name for name in untaught if not discrete or ".offsets." not in name]
    assert all(torch.isfinite(grad).all() for grad in gradients.values() if grad is not None)
    first = next(grad for name, grad in gradients.items() if name.startswith("backbone."))
    assert first is not None
    assert first.any()


@pytest.mark.parametrize("changes", rows({**BACKBONE_ROWS, **PARTS}))
def test_every_part_fuses_and_comes_back_from_its_file(
    changes: dict[str, Any],
    image: Callable[..., Tensor],
    randomise: Callable[..., nn.Module],
    query_difference: Callable[[Prediction, Prediction], float],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    starting = blank(config(changes), CLASSES)
    model = randomise(starting.model, image(2)).eval()
    loaded = load_any(store.save(tmp_path / "part.safetensors", model.state_dict(), starting.metadata))
    again = loaded.build().eval()
    assert loaded.classes == CLASSES
    with torch.no_grad():
        want = model(image()).final
        assert torch.equal(again(image()).final.boxes, want.boxes)
        exact = model.double()(image().double()).final
        assert query_difference(fuse(model)(image().double()).final, exact) <= 1e-10


@pytest.mark.slow
def test_nothing_else_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One string swaps the backbone of a published preset, and a typing error is answered."""
    data = draw_scenes(tmp_path / "data", train=4, val=2, test=2, size=(96, 96))
    command = ["train", str(data), "--model", "rtdetr_r18", "--image-size", "64", "--epochs", "1"]
    assert main([*command, "--set", "backbone=timm/convnext_atto", "--out", str(tmp_path / "run")]) == 0
    assert main([*command, "--set", "backbone=timm/convnext_ato", "--out", str(tmp_path / "other")]) == 2
    assert "timm/convnext_atto" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def exported(changes: dict[str, Any], randomise: Callable[..., nn.Module], folder: Path) -> None:
    """Exports, and lets the export prove itself against the model on a few pictures."""
    torch.manual_seed(0)
    detector = Detector("flexdetr_pico", classes=CLASSES, **sections(changes))
    images = torch.rand(2, 3, *detector.config.image_size)
    randomise(detector.model, images).eval()
    artifact = detector.export("onnx", folder / "part")
    assert artifact.parity is not None
    assert artifact.parity.passed


@pytest.mark.slow
@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in TOGETHER.items()])
def test_the_parts_export(
    changes: dict[str, Any], randomise: Callable[..., nn.Module], tmp_path: Path
) -> None:
    exported(changes, randomise, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [pytest.param(changes, id=name) for name, changes in {**BACKBONE_ROWS, **PARTS}.items()]
)
def test_every_part_exports(
    changes: dict[str, Any], randomise: Callable[..., nn.Module], tmp_path: Path
) -> None:
    exported(changes, randomise, tmp_path)
