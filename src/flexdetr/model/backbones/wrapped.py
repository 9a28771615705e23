"""A network that was written elsewhere, as a backbone: its maps are picked, checked, permuted and fitted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import ConfigError
from flexdetr.model.backbones.base import (
    NO_MEAN,
    NO_STD,
    Colour,
    freeze_parameters,
    hold_frozen_norms,
    norm_parameters,
)
from flexdetr.model.backbones.levels import LevelFit

PROBE_SIZE = (96, 160)  # not square, with odd sides at stride 32, and small: shapes are all that is asked


_INSERT = "attention_insert"  # a child name that no network has


class FeatureMap(NamedTuple):
    """One feature map of a network.

    ``stride`` is in pixels of the detector's image; ``module`` is the path of the module that it leaves, None
    if that is unknown.
    """

    channels: int
    stride: int
    module: str | None = None


class WrappedBackbone(nn.Module):
    """A ``Backbone`` around a network that returns feature maps. State-dict keys: ``body.*``, ``levels.made.*``.

    Args:
        name: for messages.
        body: from (B, 3, H, W) images to a sequence (or mapping) of feature maps, finest first.
        stages: all known feature maps, in order.
        outputs: which of ``stages`` the body returns.
        strides: of the wanted levels.
        plain: see ``LevelFit``.
        channels_last: the maps are (B, H, W, C).
        scale: images are resized by this factor before the body; brings a patch size like 14 to a stride of
            16.
        mean: see ``Backbone``.
        std: see ``Backbone``.
        lr_mult: see ``Backbone``.

    Raises:
        ConfigError: if a level does not fit.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        stages: Sequence[FeatureMap],
        outputs: Sequence[int],
        *,
        strides: Sequence[int],
        plain: bool = False,
        channels_last: bool = False,
        scale: float = 1.0,
        mean: Colour = NO_MEAN,
        std: Colour = NO_STD,
        lr_mult: float = 0.1,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        maps = [stages[index] for index in outputs]
        self.levels = LevelFit([m.channels for m in maps], [m.stride for m in maps], strides, name, plain)
        self.channels = self.levels.channels
        self.strides = tuple(strides)
        self.mean, self.std, self.lr_mult = mean, std, lr_mult
        self.channels_last, self.scale = channels_last, scale
        self._stages, self._plain = tuple(stages), plain

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_l, H / s_l, W / s_l) map per level, rounded up, finest first."""
        if self.scale != 1:
            size = [round(side * self.scale) for side in images.shape[2:]]
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        maps = as_maps(self.body(images))
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return self.levels(maps)

    def train(self, mode: bool = True) -> Self:
        """Like ``nn.Module.train``; frozen norms stay in evaluation mode."""
        super().train(mode)
        hold_frozen_norms(self)
        return self

    def freeze(self, *, stem: bool = False, stages: int = 0, norms: bool = False) -> None:
        """Keep parts as they are; see ``Backbone.freeze``. The stem ends where maps of stride 2 do."""
        if stem or stages:
            before = _modules_before(self.body, self._last_frozen(stages))
            freeze_parameters(parameter for part in before for parameter in part.parameters(recurse=False))
        if norms:
            freeze_parameters(norm_parameters(self))
        hold_frozen_norms(self)

    def _last_frozen(self, stages: int) -> tuple[str, bool]:
        """(path of a module, whether it is frozen itself); all modules before it are."""
        deep = [each for each in self._stages if each.stride > 2]
        paths = [each.module for each in deep]
        if None in paths or not paths:
            raise ConfigError(
                f"backbone {self.name} does not say where its stem and stages end: only norms can freeze"
            )
        if stages and (self._plain or stages > len(deep)):
            has = "is a plain network without stages" if self._plain else f"has {len(deep)} stages"
            raise ConfigError(f"backbone.freeze_stages={stages}: {self.name} {has}")
        if stages:
            return str(paths[stages - 1]), True
        shallow = [each.module for each in self._stages if each.stride <= 2 and each.module is not None]
        if shallow:
            return shallow[-1], True
        return (re.sub(r"\d+$", "0", str(paths[0])) if self._plain else str(paths[0])), False

    def lr_multipliers(self) -> dict[str, float]:
        """What the network itself says, if it does; see ``Backbone.lr_multipliers``."""
        own = getattr(self.body, "lr_multipliers", None)
        return {f"body.{name}": rate for name, rate in own().items()} if callable(own) else {}


def as_maps(returned: Any) -> list[Tensor]:  # noqa: ANN401 - whatever a foreign network returns
    """The feature maps among a network's returned value: a sequence's items or a mapping's values.

    Raises:
        ConfigError: if these are no 4-D tensors.
    """
    maps = list(returned.values()) if isinstance(returned, Mapping) else returned
    if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
        raise ConfigError(
            f"a backbone must return a list of feature maps; this one returned {type(returned).__name__}"
        )
    wrong = [each for each in maps if not isinstance(each, Tensor) or each.ndim != 4]
    if wrong or not maps:
        got = (
            f"one of shape {tuple(wrong[0].shape)}"
            if wrong and isinstance(wrong[0], Tensor)
            else "something else"
        )
        raise ConfigError(f"a backbone must return feature maps (B, C, H, W); this one returned {got}")
    return list(maps)


def probe(body: nn.Module, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes of the maps that ``body`` returns for one blank image; nothing in it changes."""
    parameter = next(body.parameters(), torch.zeros(()))
    modes = {part: part.training for part in body.modules()}
    body.eval()
    try:
        with torch.no_grad():
            image = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
            return [tuple(each.shape) for each in as_maps(body(image))]
    finally:
        for part, mode in modes.items():
            part.training = mode


class Permuted(nn.Module):
    """An insert for channels-last maps.

    ``insert`` takes and returns (B, C, H, W).
    """

    def __init__(self, insert: nn.Module) -> None:
        super().__init__()
        self.insert = insert

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.insert(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def place_insert(body: nn.Module, path: str, insert: nn.Module) -> None:
    """Makes ``insert`` the last part of the module at ``path``, so that all that follows sees its output.

    It becomes a child called ``attention_insert``. A plain ``nn.Sequential`` runs it by itself; any other
    module gets a hook that finds the child in the module that it is called for, so that copies of the network
    use their own.

    Raises:
        ConfigError: if the module would take the child for one of its layers.
    """
    module = body.get_submodule(path)
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        raise ConfigError(
            f"no attention insert can stand after {path!r}: a {type(module).__name__} runs its children"
        )
    module.add_module(_INSERT, insert)
    if type(module).forward is not nn.Sequential.forward:
        # First among the hooks: those that collect feature maps then see the changed one.
        module.register_forward_hook(_run_insert, prepend=True)


def probe_inserts(body: nn.Module, size: tuple[int, int]) -> None:
    """Runs ``body`` on one blank image to see that each insert in it runs exactly once.

    Raises:
        ConfigError: if one does not, as a module may loop over its children or never be called itself; or
            where what it gets is no feature map.
    """
    runs = {name: 0 for name, _ in body.named_modules() if name.endswith(f".{_INSERT}")}

    def count(name: str) -> None:
        runs[name] += 1

    handles = [
        body.get_submodule(name).register_forward_hook(lambda *_, name=name: count(name)) for name in runs
    ]
    try:
        probe(body, size)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"an attention insert does not fit it: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    wrong = [name.removesuffix(f".{_INSERT}") for name, number in runs.items() if number != 1]
    if wrong:
        raise ConfigError(
            f"no attention insert can stand after {wrong[0]!r}: its network does not call it once"
        )


def _run_insert(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:  # noqa: ANN401, ARG001
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ConfigError(
            f"its {type(module).__name__} returns no feature map that an attention insert could change"
        )
    return module.get_submodule(_INSERT)(output)


def _modules_before(body: nn.Module, last: tuple[str, bool]) -> list[nn.Module]:
    """Modules up to the one at a path, in the order in which they are registered, which is that of running."""
    path, included = last
    names = [name for name, _ in body.named_modules()]
    inside = [i for i, name in enumerate(names) if name == path or name.startswith(f"{path}.")]
    if not inside:
        raise ConfigError(f"the backbone has no module {path!r}")
    end = inside[-1] + 1 if included else inside[0]
    # Inserts are new: they learn even where the stage before them is kept. A module that contains the end
    # counts with its own parameters only, like a class token: those come before its children.
    return [body.get_submodule(name) for name in names[:end] if _INSERT not in name.split(".")]
