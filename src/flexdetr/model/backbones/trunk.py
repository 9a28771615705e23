"""A backbone of our own as a value: a stem, stages, and what the detector has to know about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from torch import Tensor, nn

from flexdetr.config import ConfigError
from flexdetr.model.backbones.base import (
    NO_MEAN,
    NO_STD,
    Colour,
    affine_block_multipliers,
    freeze_parameters,
    hold_frozen_norms,
    norm_parameters,
)
from flexdetr.model.backbones.levels import LevelFit
from flexdetr.model.blocks import init_weights
from flexdetr.model.inserts import build_insert


class Stage(NamedTuple):
    """One stage of a trunk.

    ``channels`` and ``stride`` are those of the output of ``module``.
    """

    module: nn.Module
    channels: int
    stride: int


class Trunk(nn.Module):
    """Stem, then stages; each wanted level is the output of the stage with its stride. A ``Backbone``.

    Stages beyond the coarsest wanted level are left out. State-dict keys: ``stem.*``, ``stages.N.*``,
    ``inserts.STRIDE.*``, and ``levels.made.STRIDE.*`` for levels that the stages do not have.

    Args:
        name: for messages.
        stem: from images to the first stage's input.
        stages: in order; strides do not repeat.
        strides: of the wanted levels.
        inserts: names of attention inserts by stride; an insert feeds both the next stage and the encoder.
        mean: see ``Backbone``.
        std: see ``Backbone``.
        lr_mult: see ``Backbone``.
        lab_lr: learning rate of learnable affine blocks relative to the other parameters.
        stage_lr: learning rates of stem and stages, relative to the backbone's; none for 1 everywhere.

    Raises:
        ConfigError: if a level, an insert or a rate does not fit.
    """

    def __init__(
        self,
        name: str,
        stem: nn.Module,
        stages: Sequence[Stage],
        *,
        strides: Sequence[int],
        inserts: Mapping[int, str],
        mean: Colour = NO_MEAN,
        std: Colour = NO_STD,
        lr_mult: float = 0.1,
        lab_lr: float = 0.01,
        stage_lr: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if stage_lr and len(stage_lr) != len(stages) + 1:
            raise ConfigError(
                f"backbone {name}: stage_lr needs {len(stages) + 1} rates, one for the stem and one for each "
                f"stage; got {len(stage_lr)}"
            )
        used = [stage for stage in stages if stage.stride <= max(strides)] or list(stages[:1])
        self.name = name
        self.stem = stem
        self.stages = nn.ModuleList(stage.module for stage in used)
        self.levels = LevelFit(
            [stage.channels for stage in used], [stage.stride for stage in used], strides, name
        )
        self.inserts = _inserts(name, used, inserts)
        init_weights(self)
        self.channels = self.levels.channels
        self.strides = tuple(strides)
        self.mean, self.std = mean, std
        self.lr_mult, self.lab_lr, self.stage_lr = lr_mult, lab_lr, tuple(stage_lr)
        self._stage_strides = tuple(str(stage.stride) for stage in used)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_l, H / s_l, W / s_l) map per level, rounded up, finest first."""
        x = self.stem(images)
        maps = []
        for stage, stride in zip(self.stages, self._stage_strides, strict=True):
            x = stage(x)
            if stride in self.inserts:
                x = self.inserts[stride](x)
            maps.append(x)
        return self.levels(maps)

    def train(self, mode: bool = True) -> Self:
        """Like ``nn.Module.train``; frozen norms stay in evaluation mode."""
        super().train(mode)
        hold_frozen_norms(self)
        return self

    def freeze(self, *, stem: bool = False, stages: int = 0, norms: bool = False) -> None:
        """Keep parts as they are; see ``Backbone.freeze``."""
        if stages > len(self.stages):
            raise ConfigError(
                f"backbone.freeze_stages={stages}: {self.name} runs {len(self.stages)} stages for strides "
                f"{list(self.strides)}"
            )
        frozen = [self.stem] if stem or stages else []
        for part in (*frozen, *self.stages[:stages]):
            freeze_parameters(part.parameters())
        if norms:
            freeze_parameters(norm_parameters(self))
        hold_frozen_norms(self)

    def lr_multipliers(self) -> dict[str, float]:
        """Rates of the affine blocks and of the stages; see ``Backbone.lr_multipliers``."""
        rates = affine_block_multipliers(self, self.lab_lr)
        parts = {"stem": self.stem, **{f"stages.{i}": stage for i, stage in enumerate(self.stages)}}
        for rate, (prefix, part) in zip(self.stage_lr, parts.items(), strict=False):
            for name, _ in part.named_parameters(prefix):
                rates[name] = rate * rates.get(name, 1.0)
        return {name: rate for name, rate in rates.items() if rate != 1}


def _inserts(name: str, stages: Sequence[Stage], inserts: Mapping[int, str]) -> nn.ModuleDict:
    widths = {stage.stride: stage.channels for stage in stages}
    unknown = [stride for stride in inserts if stride not in widths]
    if unknown:
        raise ConfigError(
            f"attention.backbone.{unknown[0]}: {name} runs no stage of stride {unknown[0]}; "
            f"it has {', '.join(map(str, widths))}"
        )
    return nn.ModuleDict(
        {str(stride): build_insert(insert, widths[stride]) for stride, insert in inserts.items()}
    )
