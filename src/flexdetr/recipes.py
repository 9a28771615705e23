"""The published COCO recipes of RT-DETR and RT-DETRv2 as values; ``recipe=auto`` derives its own from the data.

Sources: the releases of RT-DETR (arXiv 2304.08069) and RT-DETRv2 (arXiv 2407.17140). One thing differs: their
rule for weight decay looks for "norm" in names and so decays some norms; here none is decayed.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flexdetr.config_values import ConfigError


class Published(NamedTuple):
    """What differs between the published runs.

    Attributes:
        epochs: of the run.
        backbone_rate: learning rate of the backbone relative to the detector's.
        plain_from: epoch from which images are no longer augmented; None where there is none.
        warmup_steps: steps during which the learning rate rises.
    """

    epochs: int
    backbone_rate: float
    plain_from: int | None = None
    warmup_steps: int = 0


COCO: Final[dict[str, Published]] = {
    "rtdetr_r18": Published(72, 0.1),
    "rtdetr_r34": Published(72, 0.1),
    "rtdetr_r50m": Published(72, 0.1),
    "rtdetr_r50": Published(72, 0.1),
    "rtdetr_r101": Published(72, 0.01),
    # On PP-HGNetV2 the first version was trained with Paddle alone, which warms up.
    "rtdetr_hgnetv2_l": Published(72, 0.05, warmup_steps=2000),
    "rtdetr_hgnetv2_x": Published(72, 0.01, warmup_steps=2000),
    "rtdetr_hgnetv2_h": Published(72, 0.01, warmup_steps=2000),
    "rtdetrv2_s": Published(120, 1.0, 117, 2000),
    "rtdetrv2_m": Published(120, 0.5, 117, 2000),
    "rtdetrv2_ml": Published(84, 0.1, 81, 2000),
    "rtdetrv2_l": Published(72, 0.1, 71, 2000),
    "rtdetrv2_x": Published(72, 0.01, 71, 2000),
}


def coco(model: str) -> dict[str, Any]:
    """The configuration keys of the published run of a preset.

    Raises:
        ConfigError: where none was published.
    """
    if model not in COCO:
        raise ConfigError(
            f"recipe=coco: no run of {model} was published; use recipe=auto, or one of {', '.join(COCO)}"
        )
    run = COCO[model]
    return {
        "image_size": (640, 640),
        "backbone": {"lr_mult": run.backbone_rate},
        "loss": {"encoder_copies": 1},
        "data": {
            "photometric": 0.5,
            "zoom_out": 0.5,
            "iou_crop": 0.8,
            "flip": 0.5,
            "mosaic": 0.0,
            "mixup": 0.0,
            "multi_scale": True,
        },
        "train": {
            "epochs": run.epochs,
            "batch_size": 16,
            "lr": 1e-4,
            "weight_decay": 1e-4,
            "clip": 0.1,
            "flat": 1.0,  # the rate never falls
            "final_lr": 1.0,
            "augment_from": 0.0,
            "augment_until": 1.0 if run.plain_from is None else run.plain_from / run.epochs,
            "mosaic_until": 0.0,
            "ema": 0.9999,
            "ema_horizon": 2000,
            "eval_every": 1,
            "warmup": None if run.warmup_steps else 0.0,  # a share of the steps, which depend on the data
        },
    }


def warmup_steps(model: str) -> int:
    """Steps of the published warm-up; 0 where there is none."""
    return COCO[model].warmup_steps if model in COCO else 0
