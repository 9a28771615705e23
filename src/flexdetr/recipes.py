"""Published training runs as values; ``recipe=auto`` derives its own from the data (see ``engine.recipe``).

Sources: the releases of RT-DETR (arXiv 2304.08069), RT-DETRv2 (2407.17140), D-FINE (2410.13842), DEIM (2412.04234) and
DEIMv2 (2509.20787). What differs here, in all of them: no norm, bias or affine block is decayed, where their rules look
for "norm" in names and so decay some; the moving average is not restarted from the best checkpoint when augmentation
stops; objects of any size are learned, where DEIMv2 leaves out the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from flexdetr.config_values import ConfigError, nearest


class PublishedRecipe(NamedTuple):
    """A published run.

    Attributes:
        epochs: of the run.
        backbone_rate: learning rate of the backbone relative to the detector's.
        plain_from: epoch from which images are no longer augmented; None if there is none.
        warmup_steps: steps during which the learning rate rises.
        batch: images of a step.
        lr: learning rate of the detector.
        weight_decay: AdamW's.
        strong_from: epoch before which there is no strong augmentation.
        mosaic_until: epoch from which there is no mosaic, mixup and copy-blend.
        mosaic: probability of a mosaic until then.
        mixup: probability of mixup until then.
        copy_blend: probability of copy-blend until then.
        zoom_out: probability of pasting the image on a larger canvas.
        multi_scale: whether sizes are drawn.
        warmup_power: the rate rises with this power of the step.
        flat: epoch from which the rate falls along a cosine; None if it never falls.
        low: epochs at the end that keep the lowest rate.
        final: the lowest rate relative to the peak.
        ema_horizon: updates over which the moving average's decay rises.
        late_matcher: epoch from which the late matcher is used; None if it never is.
        classification: the class loss.
        frozen: whether the backbone's stem and norms are frozen.
        image_size: (height, width); None leaves the model's own.
    """

    epochs: int
    backbone_rate: float
    plain_from: int | None = None
    warmup_steps: int = 0
    batch: int = 16
    lr: float = 1e-4
    weight_decay: float = 1e-4
    strong_from: int = 0
    mosaic_until: int = 0
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_blend: float = 0.0
    zoom_out: float = 0.5
    multi_scale: bool = True
    warmup_power: int = 1
    flat: int | None = None
    low: int = 0
    final: float = 1.0
    ema_horizon: int = 2000
    late_matcher: int | None = None
    classification: str = "varifocal"
    frozen: bool = False
    image_size: tuple[int, int] = (640, 640)


_COCO: Final[dict[str, PublishedRecipe]] = {
    "rtdetr_r18": PublishedRecipe(72, 0.1),
    "rtdetr_r34": PublishedRecipe(72, 0.1),
    "rtdetr_r50m": PublishedRecipe(72, 0.1),
    "rtdetr_r50": PublishedRecipe(72, 0.1),
    "rtdetr_r101": PublishedRecipe(72, 0.01),
    # On PP-HGNetV2 the first version was trained with Paddle alone, which warms up.
    "rtdetr_hgnetv2_l": PublishedRecipe(72, 0.05, warmup_steps=2000),
    "rtdetr_hgnetv2_x": PublishedRecipe(72, 0.01, warmup_steps=2000),
    "rtdetr_hgnetv2_h": PublishedRecipe(72, 0.01, warmup_steps=2000),
    "rtdetrv2_s": PublishedRecipe(120, 1.0, 117, 2000),
    "rtdetrv2_m": PublishedRecipe(120, 0.5, 117, 2000),
    "rtdetrv2_ml": PublishedRecipe(84, 0.1, 81, 2000),
    "rtdetrv2_l": PublishedRecipe(72, 0.1, 71, 2000),
    "rtdetrv2_x": PublishedRecipe(72, 0.01, 71, 2000),
}


def _dfine(epochs: int, plain_from: int, lr: float, backbone: float, **more: Any) -> PublishedRecipe:  # noqa: ANN401
    """A run of D-FINE: a short warm-up, then a rate that never falls."""
    return PublishedRecipe(
        epochs, backbone, plain_from, 500, lr=lr, ema_horizon=1000, **{"batch": 32, **more}
    )


_DFINE: Final[dict[str, PublishedRecipe]] = {
    "dfine_n": _dfine(160, 148, 8e-4, 0.5, batch=128, multi_scale=False),
    "dfine_s": _dfine(132, 120, 2e-4, 0.5),
    "dfine_m": _dfine(132, 120, 2e-4, 0.1),
    "dfine_l": _dfine(80, 72, 2.5e-4, 0.05, weight_decay=1.25e-4, frozen=True),
    "dfine_x": _dfine(80, 72, 2.5e-4, 0.01, weight_decay=1.25e-4, frozen=True),
}


def _deim(epochs: int, middle: int, low: int, lr: float, backbone: float, **more: Any) -> PublishedRecipe:  # noqa: ANN401
    """A run of DEIM: mosaic and mixup until the rate falls, plain images while it is lowest."""
    usual: dict[str, Any] = {
        "plain_from": epochs - low,
        "warmup_steps": 2000,
        "batch": 32,
        "strong_from": 4,
        "mosaic_until": middle,
        "mosaic": 0.5,
        "mixup": 0.5,
        "warmup_power": 2,
        "flat": middle,
        "low": low,
        "final": 0.5,
        "ema_horizon": 1000,
        "classification": "mal",
    }
    return PublishedRecipe(epochs, backbone, lr=lr, **{**usual, **more})


# N keeps its rate: a lowest rate of 1.0 is no fall.
_DEIM_N: Final = {"multi_scale": False, "final": 1.0, "flat": None}
_RTDETRV2: Final = {"batch": 16, "ema_horizon": 2000}
_LITE: Final = {
    "batch": 128,
    "warmup_steps": 4000,
    "plain_from": 400,
    "mixup": 0.0,
    "multi_scale": False,
    "late_matcher": 450,
}
_DEIM: Final[dict[str, PublishedRecipe]] = {
    "deim_n": _deim(160, 78, 12, 8e-4, 0.5, batch=128, **_DEIM_N),
    "deim_s": _deim(132, 64, 12, 4e-4, 0.5),
    "deim_m": _deim(102, 49, 12, 4e-4, 0.1),
    "deim_l": _deim(58, 29, 8, 5e-4, 0.05, weight_decay=1.25e-4),
    "deim_x": _deim(58, 29, 8, 5e-4, 0.01, weight_decay=1.25e-4),
    "deim_rtdetrv2_s": _deim(120, 64, 3, 2e-4, 1.0, **_RTDETRV2),
    "deim_rtdetrv2_m": _deim(120, 64, 3, 2e-4, 0.5, **_RTDETRV2),
    "deim_rtdetrv2_ml": _deim(60, 34, 2, 2e-4, 0.1, **_RTDETRV2),
    "deim_rtdetrv2_l": _deim(60, 34, 2, 2e-4, 0.1, **_RTDETRV2),
    "deim_rtdetrv2_x": _deim(60, 34, 2, 2e-4, 0.01, **_RTDETRV2),
    "deimv2_atto": _deim(500, 250, 32, 2e-3, 0.5, **{**_LITE, "mosaic": 0.3, "image_size": (320, 320)}),
    "deimv2_femto": _deim(500, 250, 32, 1.6e-3, 0.5, **{**_LITE, "image_size": (416, 416)}),
    "deimv2_pico": _deim(500, 250, 32, 1.6e-3, 0.5, **_LITE),
    "deimv2_n": _deim(160, 78, 12, 8e-4, 0.5, **_DEIM_N, late_matcher=136, copy_blend=0.4),
}

# By the recipe's name; "auto" has no published run.
RECIPES: Final[Mapping[str, Mapping[str, PublishedRecipe]]] = {
    "auto": {},
    "coco": _COCO,
    "dfine": _DFINE,
    "deim": _DEIM,
}
# Whose numbers a model without a published run takes, where the recipe is for a head and not for a model.
_STANDS_FOR: Final[Mapping[str, str]] = {"dfine": "dfine_n", "deim": "deim_n"}


def run_of(recipe: str, model: str) -> str:
    """The preset whose published run a recipe takes for a model: its own, or the smallest of D-FINE or DEIM.

    Raises:
        ConfigError: if the recipe is unknown, or no run was published.
    """
    if recipe not in RECIPES:
        raise ConfigError(nearest(recipe, RECIPES, "recipe"))
    runs = RECIPES[recipe]
    if model in runs:
        return model
    if recipe in _STANDS_FOR:
        return _STANDS_FOR[recipe]
    raise ConfigError(
        f"recipe={recipe}: no run of {model} was published; use recipe=auto, or one of {', '.join(runs)}"
    )


def published(recipe: str, model: str) -> dict[str, Any]:
    """The configuration keys of a recipe; none for "auto".

    Args:
        recipe: a key of ``RECIPES``.
        model: a preset. The image size is that of the published run, unless it is another model's.

    Raises:
        ConfigError: if the recipe is unknown, or no run was published.
    """
    if recipe == "auto":
        return {}
    name = run_of(recipe, model)
    run = RECIPES[recipe][name]
    size = {"image_size": run.image_size} if name == model else {}
    frozen = {"freeze_stem": True, "freeze_norms": True} if run.frozen else {}
    return {
        **size,
        "backbone": {"lr_mult": run.backbone_rate, **frozen},
        "loss": {
            "classification": run.classification,
            "encoder_copies": 1,
            "late_matcher": None if run.late_matcher is None else run.late_matcher / run.epochs,
        },
        "data": {
            "photometric": 0.5,
            "zoom_out": run.zoom_out,
            "iou_crop": 0.8,
            "flip": 0.5,
            "mosaic": run.mosaic,
            "mixup": run.mixup,
            "copy_blend": run.copy_blend,
            "multi_scale": run.multi_scale,
        },
        "train": {
            "epochs": run.epochs,
            "batch_size": run.batch,
            "lr": run.lr,
            "weight_decay": run.weight_decay,
            "clip": 0.1,
            "flat": 1.0 if run.flat is None else run.flat / run.epochs,
            "fall_until": 1.0 if run.flat is None else 1 - run.low / run.epochs,
            "final_lr": run.final,
            "augment_from": run.strong_from / run.epochs,
            "augment_until": 1.0 if run.plain_from is None else run.plain_from / run.epochs,
            "mosaic_until": run.mosaic_until / run.epochs,
            "ema": 0.9999,
            "ema_horizon": run.ema_horizon,
            "eval_every": 1,
            "warmup": None if run.warmup_steps else 0.0,  # a share of the steps, which depend on the data
            "warmup_power": run.warmup_power,
        },
    }


def warmup_steps(recipe: str, model: str) -> int:
    """Steps of the published warm-up; 0 if there is none."""
    if recipe == "auto":
        return 0
    return RECIPES[recipe][run_of(recipe, model)].warmup_steps
