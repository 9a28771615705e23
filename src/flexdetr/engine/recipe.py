"""Schedules that fit the data: every length is a share of the run, every rate follows from images x epochs / batch."""

from __future__ import annotations

import math
from typing import NamedTuple

from flexdetr.config import Config
from flexdetr.data.batches import Phase
from flexdetr.recipes import run_of, warmup_steps
from flexdetr.weights.trained import TrainedParts

# Image views below which a detector trained from random weights has not settled (measured on bccd, docs/results.md).
_VIEWS = 20_000
_EPOCHS = (50, 200)
# Below this many images more, smaller steps are worth more than smooth ones.
_FEW = 5_000
# Peak rates at 16 images per step, by what a part starts from.
_RANDOM_RATE, _TRAINED_RATE = 1.2e-3, 1e-4


class Recipe(NamedTuple):
    """A configuration without gaps, and why each gap was filled as it was.

    Attributes:
        config: the configuration; no ``None`` is left in the schedule.
        steps_per_epoch: optimisation steps of an epoch.
        reasons: one sentence for each derived value.
    """

    config: Config
    steps_per_epoch: int
    reasons: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Optimisation steps of the whole run."""
        return self.steps_per_epoch * (self.config.train.epochs or 0)


def derive(
    config: Config, num_images: int, parts: TrainedParts, own_rate: float, *, samples: int | None = None
) -> Recipe:
    """Fill what the configuration leaves open.

    Args:
        config: the run's configuration; ``train.batch_size`` is a number.
        num_images: training images.
        parts: what starts from trained weights.
        own_rate: a trained backbone's own learning rate relative to the detector's; the configuration's wins.
        samples: what an epoch shows, where that is not each image once.

    Returns:
        The recipe. Values that the user set are kept.
    """
    train, data, loss = config.train, config.data, config.loss
    reasons: list[str] = []
    few = num_images < _FEW
    if config.recipe != "auto":
        run = run_of(config.recipe, config.model)
        other = "" if run == config.model else f"; none of {config.model} was published"
        reasons.append(f"recipe {config.recipe}: the published run of {run}{other}")
    wanted = (8 if few else 16) if train.batch_size is None else int(train.batch_size)
    samples = samples or num_images
    if samples != num_images:
        reasons.append(
            f"{samples} samples an epoch: images with rare classes are shown again (data.repeat_threshold)"
        )
    batch = min(wanted, samples)
    steps_per_epoch = max(1, samples // batch)
    train_changes: dict[str, object] = {"batch_size": batch}
    data_changes: dict[str, object] = {}
    loss_changes: dict[str, object] = {}
    if batch != train.batch_size:
        reasons.append(f"batch_size {batch}: {num_images} images are {'few' if few else 'many'}")

    def settle(changes: dict[str, object], key: str, current: object, value: object, reason: str) -> None:
        if current is None:
            changes[key] = value
            reasons.append(
                f"{key} {value:.4g}: {reason}" if isinstance(value, float) else f"{key} {value}: {reason}"
            )

    low, high = _EPOCHS
    epochs = min(high, max(low, math.ceil(_VIEWS / samples)))
    settle(
        train_changes, "epochs", train.epochs, epochs, f"about {_VIEWS:,} image views, {low} to {high} epochs"
    )
    epochs = train.epochs or epochs
    steps = steps_per_epoch * epochs
    base = _TRAINED_RATE if parts.all_trained else _RANDOM_RATE
    lr = base * min(2.0, math.sqrt(batch / 16))
    why = f"{parts}; {base:g} at 16 images per step, scaled by the root of the batch"
    settle(train_changes, "lr", train.lr, lr, why)
    slower = config.backbone.lr_mult if config.backbone.lr_mult is not None else own_rate
    reasons += _rates(parts, slower, train.lr or lr)
    part = config.backbone
    if "backbone" not in parts.trained and (part.freeze_stem or part.freeze_stages or part.freeze_norms):
        reasons.append("nothing is frozen: the backbone is not trained yet")
    published = warmup_steps(config.recipe, config.model)
    warmup = min(0.5, published / steps) if published else min(0.1, max(200, 0.02 * steps) / steps)
    settle(train_changes, "warmup", train.warmup, warmup, f"{warmup * steps:.0f} of {steps} steps")
    trained = parts.all_trained
    why = "the weights are trained" if trained else "random weights learn faster on whole images first"
    settle(train_changes, "augment_from", train.augment_from, 0.0 if trained else 0.15, why)
    if trained:
        copies, why = 1, "the weights are trained"
    elif "backbone" in parts.trained:  # measured on bccd: 0.212 AP after three epochs, with four copies 0.153
        copies, why = 1, "on a trained backbone one answer for each object is learned faster"
    else:
        copies, why = 4, "random weights learn faster from more positives"
    settle(loss_changes, "encoder_copies", loss.encoder_copies, copies, why)
    horizon = max(10.0, 0.04 * steps)
    decay = min(0.9999, 1 - 1 / horizon)
    settle(train_changes, "ema", train.ema, decay, f"averages over about {horizon:.0f} of {steps} steps")
    every = max(1, round(epochs / 25))
    settle(train_changes, "eval_every", train.eval_every, every, f"about 25 evaluations in {epochs} epochs")
    why = f"{num_images} images are {'few' if few else 'many'}"
    settle(data_changes, "mosaic", data.mosaic, 0.5, why)
    settle(data_changes, "mixup", data.mixup, 0.0 if few else 0.3, why)
    filled = config.having(
        train=train_changes, data=data_changes, loss=loss_changes, backbone={"lr_mult": slower}
    )
    return Recipe(filled, steps_per_epoch, tuple(reasons))


def multipliers(parts: TrainedParts, backbone: float) -> dict[str, float]:
    """Learning rate of each part relative to the peak.

    A part from random weights learns at the peak. Where one does, the peak is higher than a trained detector bears:
    parts that were trained for detection keep the rate that they would have in a detector that is trained as a whole.
    A backbone that was not (trained by itself, say on ImageNet) has more to learn, and follows the peak.

    Args:
        parts: what starts from trained weights.
        backbone: rate of a trained backbone relative to the detector's.
    """
    tuned = _TRAINED_RATE / _RANDOM_RATE if parts.random else 1.0
    rates = dict.fromkeys(parts.random, 1.0) | dict.fromkeys(parts.trained, tuned)
    if "backbone" in parts.trained:
        rates["backbone"] = backbone * (tuned if len(parts.trained) > 1 else 1.0)
    return rates


def _rates(parts: TrainedParts, backbone: float, lr: float) -> list[str]:
    """The peak rate of each part that does not learn at the detector's, and what does in parts that are trained."""
    count = len(parts.fresh)
    fresh = f"new weights in trained parts learn at lr, and are never frozen: {count}"
    return ([fresh] if parts.fresh else []) + [
        f"rate of the {part} {lr * rate:.4g}: {rate:.3g} of lr, because it is trained"
        for part, rate in multipliers(parts, backbone).items()
        if rate != 1
    ]


def phase(config: Config, epoch: int) -> Phase:
    """The augmentation of an epoch (counted from 0): "mosaic", "strong" or "plain"."""
    done = epoch / (config.train.epochs or 1)
    if not (config.train.augment_from or 0.0) <= done < config.train.augment_until:
        return "plain"
    return (
        "mosaic"
        if done < config.train.mosaic_until
        and (config.data.mosaic or config.data.mixup or config.data.copy_blend)
        else "strong"
    )


def rate_factor(config: Config, step: int, steps: int) -> float:
    """Learning rate of a step relative to the peak: warm-up, flat, a cosine fall (flat-cosine), flat at the lowest."""
    train = config.train
    done = (step + 1) / steps
    if train.warmup and done < train.warmup:
        return (done / train.warmup) ** train.warmup_power
    if done <= train.flat:
        return 1.0
    fall = (done - train.flat) / max(1e-9, train.fall_until - train.flat)
    return train.final_lr + (1 - train.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
