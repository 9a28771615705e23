"""The IoU family of box losses: one table, one signature, the formulas of the papers without any epsilon.

A loss is picked by name: a row of :data:`BOX_LOSSES`, on its own or behind the prefixes ``inner_`` and
``focaler_``, which replace the IoU inside any of them: ``inner_shape_iou``, ``focaler_ciou``,
``inner_focaler_siou``. The same names serve as the matcher's cost. Where the published code departs from its
paper, the paper is followed and the function says so. All are finite with finite gradients for identical,
disjoint, nested, touching, thin and empty boxes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flexdetr.boxes import Pair, compare, ratio, scaled_iou
from flexdetr.config import ConfigError, nearest

_INNER_RATIO = 0.7
_FOCALER_BOUNDS = (0.0, 0.95)
_WIOU_MOMENTUM = 0.01


def _iou(pair: Pair) -> Tensor:
    """1 - IoU."""
    return 1 - pair.iou


def _giou(pair: Pair) -> Tensor:
    """1 - IoU + (C - U) / C with the enclosing box's area C (GIoU, arXiv 1902.09630, algorithm 1)."""
    enclosing = pair.enclosing_width * pair.enclosing_height
    return 1 - pair.iou + ratio(enclosing - pair.union, enclosing)


def _diou(pair: Pair) -> Tensor:
    """1 - IoU + d^2 / c^2, centre distance over the enclosing diagonal (DIoU, arXiv 1911.08287, eq. 7)."""
    return 1 - pair.iou + ratio(_centre_distance(pair), _diagonal(pair))


def _ciou(pair: Pair) -> Tensor:
    """DIoU + a v, v = 4 / pi^2 of the squared difference of aspect angles (CIoU, arXiv 1911.08287, eq. 8-11).

    The paper's trade-off a = v / (1 - IoU + v) is a constant for the gradient, as in the authors' code.
    """
    difference = _angle(pair.target_width, pair.target_height) - _angle(pair.width, pair.height)
    aspect = 4 / math.pi**2 * difference.square()
    with torch.no_grad():
        trade_off = ratio(aspect, 1 - pair.iou + aspect)
    return _diou(pair) + trade_off * aspect


def _eiou(pair: Pair) -> Tensor:
    """DIoU + squared differences of the sides over the enclosing box's sides (EIoU, arXiv 2101.08158)."""
    width = ratio(pair.width - pair.target_width, pair.enclosing_width)
    height = ratio(pair.height - pair.target_height, pair.enclosing_height)
    return _diou(pair) + width.square() + height.square()


def _siou(pair: Pair) -> Tensor:
    """1 - IoU + (distance + shape) / 2 (SIoU, arXiv 2205.12740).

    The paper's angle cost sin(2 asin(min(|dx|, |dy|) / d)) is computed as 2 |dx dy| / d^2, which it equals.
    """
    angle = ratio(2 * (pair.dx * pair.dy).abs(), _centre_distance(pair))
    distance = sum(
        -torch.expm1((angle - 2) * ratio(offset, side).square())
        for offset, side in ((pair.dx, pair.enclosing_width), (pair.dy, pair.enclosing_height))
    )
    return 1 - pair.iou + (distance + _shape_difference(pair, 1.0, 1.0)) / 2


def _mpdiou(pair: Pair, *, image_width: float = 1.0, image_height: float = 1.0) -> Tensor:
    """1 - IoU + squared corner distances over the image's squared diagonal (MPDIoU, arXiv 2307.07662).

    Only the ratio of ``image_width`` to ``image_height`` matters; 1 and 1 measure in fractions of the image.
    """
    # Both corners: (d -+ difference / 2)^2 summed is 2 d^2 + difference^2 / 2.
    horizontal = 2 * pair.dx.square() + (pair.width - pair.target_width).square() / 2
    vertical = 2 * pair.dy.square() + (pair.height - pair.target_height).square() / 2
    diagonal = image_width**2 + image_height**2
    return 1 - pair.iou + horizontal * (image_width**2 / diagonal) + vertical * (image_height**2 / diagonal)


def _wiou_v1(pair: Pair) -> Tensor:
    """exp(d^2 / c^2) (1 - IoU) with a constant c (Wise-IoU v1, arXiv 2301.10051)."""
    return torch.exp(ratio(_centre_distance(pair), _diagonal(pair).detach())) * (1 - pair.iou)


def _wiou_v2(pair: Pair, *, mean: Tensor, gamma: float = 0.5) -> Tensor:
    """WIoU v1 times the relative IoU loss to the power gamma (Wise-IoU v2, arXiv 2301.10051).

    ``mean`` () is the running mean of 1 - IoU, ``gamma`` the strength of the focus on hard pairs.
    """
    return ratio(1 - pair.iou.detach(), mean) ** gamma * _wiou_v1(pair)


def _wiou_v3(pair: Pair, *, mean: Tensor, alpha: float = 1.9, delta: float = 3.0) -> Tensor:
    """WIoU v1 times b / (delta alpha^(b - delta)): focus on ordinary pairs (Wise-IoU v3, arXiv 2301.10051).

    ``mean`` () is the running mean of 1 - IoU, b = (1 - IoU) / mean; where b = delta the factor is 1. The paper
    has alpha 1.9 and delta 3, the authors' code 1.7 and 2.7.
    """
    outlier = ratio(1 - pair.iou.detach(), mean)
    return outlier / (delta * alpha ** (outlier - delta)) * _wiou_v1(pair)


def _shape_iou(pair: Pair, *, scale: float = 0.0) -> Tensor:
    """1 - IoU + distance and shape costs weighted by the target's shape (Shape-IoU, arXiv 2312.17663).

    ``scale`` is the exponent of the target's sides, larger for data sets of small objects.
    """
    wide, high = pair.target_width**scale, pair.target_height**scale
    horizontal, vertical = ratio(2 * wide, wide + high), ratio(2 * high, wide + high)
    distance = ratio(vertical * pair.dx.square() + horizontal * pair.dy.square(), _diagonal(pair))
    return 1 - pair.iou + distance + _shape_difference(pair, vertical, horizontal) / 2


def _piou_v1(pair: Pair) -> Tensor:
    """2 - IoU - exp(-P^2), P the mean gap of the edges (PIoU, doi 10.1016/j.neunet.2023.11.041)."""
    return 2 - pair.iou - torch.exp(-_edge_gap(pair).square())


def _piou_v2(pair: Pair, *, lam: float = 1.3) -> Tensor:
    """3 x exp(-x^2) PIoU v1, x = lam exp(-P) with gradient (PIoU v2, doi 10.1016/j.neunet.2023.11.041).

    ``lam`` is the paper's lambda, which sets the quality that gets the most attention.
    """
    attention = lam * torch.exp(-_edge_gap(pair))
    return 3 * attention * torch.exp(-attention.square()) * _piou_v1(pair)


def _nwd(pair: Pair, *, constant: float = 0.016) -> Tensor:
    """1 - exp(-W / constant), W the Wasserstein distance of Gaussian boxes (NWD, arXiv 2110.13389).

    ``constant`` is the mean object size of the data in the boxes' unit; the paper's 12.8 pixels of 800 are
    0.016.
    """
    width, height = pair.width - pair.target_width, pair.height - pair.target_height
    squared = _centre_distance(pair) + (width.square() + height.square()) / 4
    same = squared <= torch.finfo(squared.dtype).tiny ** 0.5  # the root has no gradient at 0
    distance = squared.masked_fill(same, 1).sqrt().masked_fill(same, 0)
    return -torch.expm1(-distance / constant)


BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": _iou,
    "giou": _giou,
    "diou": _diou,
    "ciou": _ciou,
    "eiou": _eiou,
    "siou": _siou,
    "mpdiou": _mpdiou,
    "wiou_v1": _wiou_v1,
    "wiou_v2": _wiou_v2,
    "wiou_v3": _wiou_v3,
    "shape_iou": _shape_iou,
    "piou_v1": _piou_v1,
    "piou_v2": _piou_v2,
    "nwd": _nwd,
}
"""Each row is ``(Pair, **options) -> (...)`` losses; :class:`BoxLoss` takes ``(predicted, target)``."""

_PREFIX_OPTIONS: dict[str, tuple[str, ...]] = {"inner": ("ratio",), "focaler": ("d", "u")}


class BoxLoss(nn.Module):
    """A loss of the family, by name: ``(predicted, target)`` (..., 4) cxcywh -> (...) losses, not reduced.

    The prefixes ``inner_`` and ``focaler_`` turn a loss L into L + IoU - f(IoU), as their papers write it,
    where f measures the IoU of boxes scaled about their centres by ``ratio`` (Inner-IoU, arXiv 2311.02877),
    or stretches the range [d, u] of the IoU to [0, 1] (Focaler-IoU, arXiv 2401.10525). With both, in either
    order, the scaled IoU is stretched.

    WIoU v2 and v3 compare a pair with the running mean of 1 - IoU. It is a buffer, so that it is saved with
    the criterion; it starts at 1 and moves in training mode only, by ``momentum`` a call. Each process keeps
    its own.

    Args:
        name: a row of ``BOX_LOSSES``, with or without prefixes.
        options: the row's and the prefixes' keyword arguments: ``ratio`` (inner), ``d``, ``u`` (focaler),
            ``momentum`` (WIoU v2, v3), ``scale`` (Shape-IoU), ``image_width``, ``image_height`` (MPDIoU), ...

    Raises:
        ConfigError: if the name or an option is unknown, or the value of an option cannot work.

    Example:
        >>> import torch
        >>> loss = BoxLoss("inner_shape_iou", ratio=0.8, scale=1.0)
        >>> loss(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
        tensor([0.])
    """

    mean: Tensor

    def __init__(self, name: str, **options: float) -> None:
        super().__init__()
        prefixes, base = parse_name(name)
        unknown = sorted(set(options) - set(option_names(name)))
        if unknown:
            raise ConfigError(unknown_option(unknown[0], (name,)))
        self.name = name
        self.ratio = options.pop("ratio", _INNER_RATIO) if "inner" in prefixes else None
        self.bounds = (
            (options.pop("d", _FOCALER_BOUNDS[0]), options.pop("u", _FOCALER_BOUNDS[1]))
            if "focaler" in prefixes
            else None
        )
        if self.ratio is not None and self.ratio <= 0:
            raise ConfigError(f"box loss {name!r}: ratio must be above 0; got {self.ratio}")
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise ConfigError(
                f"box loss {name!r}: d must be below u; got d={self.bounds[0]}, u={self.bounds[1]}"
            )
        self.momentum = options.pop("momentum", _WIOU_MOMENTUM) if _has_mean(base) else None
        if self.momentum is not None:
            self.register_buffer("mean", torch.ones(()))
        self.base = partial(BOX_LOSSES[base], **options)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Losses (...) of boxes (..., 4) cxcywh in fractions of the image, element by element."""
        return self.measure(compare(predicted, target))

    def measure(self, pair: Pair) -> Tensor:
        """Losses (...) of boxes that have been compared already."""
        if self.momentum is None:
            loss: Tensor = self.base(pair)
        else:
            if self.training and pair.iou.numel():
                with torch.no_grad():
                    self.mean.lerp_((1 - pair.iou).mean().to(self.mean), self.momentum)
            loss = self.base(pair, mean=self.mean)
        if self.ratio is None and self.bounds is None:
            return loss
        overlap = pair.iou if self.ratio is None else scaled_iou(pair, self.ratio)
        if self.bounds is not None:
            low, high = self.bounds
            overlap = ((overlap - low) / (high - low)).clamp(0, 1)
        return loss + pair.iou - overlap

    def extra_repr(self) -> str:
        """The name, as ``print(criterion)`` shows it."""
        return repr(self.name)


def parse_name(name: str) -> tuple[tuple[str, ...], str]:
    """``inner_focaler_siou`` -> (("inner", "focaler"), "siou").

    Raises:
        ConfigError: if no such loss exists; the message names the nearest ones.
    """
    prefixes: list[str] = []
    base = name
    while base not in BOX_LOSSES:
        prefix, _, rest = base.partition("_")
        if prefix not in _PREFIX_OPTIONS or prefix in prefixes or not rest:
            raise ConfigError(nearest(name, box_loss_names(), "box loss"))
        prefixes.append(prefix)
        base = rest
    return tuple(prefixes), base


def box_loss_names() -> tuple[str, ...]:
    """Every name that a box loss can have: each row alone, behind each prefix, and behind both."""
    prefixes = ("", *(f"{prefix}_" for prefix in _PREFIX_OPTIONS), "_".join([*_PREFIX_OPTIONS, ""]))
    return tuple(prefix + base for prefix in prefixes for base in BOX_LOSSES)


def option_names(name: str) -> tuple[str, ...]:
    """The options that a box loss takes.

    Raises:
        ConfigError: if no such loss exists.
    """
    prefixes, base = parse_name(name)
    own = [option for option in _keywords(base) if option != "mean"]
    if _has_mean(base):
        own.append("momentum")
    return tuple(own + [option for prefix in prefixes for option in _PREFIX_OPTIONS[prefix]])


def known_options(name: str, options: Mapping[str, float]) -> dict[str, float]:
    """Those of the options that the box loss takes."""
    return {key: value for key, value in options.items() if key in option_names(name)}


def unknown_option(option: str, names: Collection[str]) -> str:
    """The sentence that answers an option which none of the named box losses takes."""
    shown = " and ".join(repr(name) for name in names)
    known = [known for name in names for known in option_names(name)]
    if not known:
        return f"unknown option {option!r} of box loss {shown}, which takes none"
    return f"box loss {shown}: {nearest(option, known, 'option')}"


def _keywords(base: str) -> list[str]:
    parameters: dict[str, Any] = dict(inspect.signature(BOX_LOSSES[base]).parameters)
    return [key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]


def _has_mean(base: str) -> bool:
    return "mean" in _keywords(base)


def _centre_distance(pair: Pair) -> Tensor:
    """Squared distance of the centres."""
    return pair.dx.square() + pair.dy.square()


def _diagonal(pair: Pair) -> Tensor:
    """Squared diagonal of the enclosing box."""
    return pair.enclosing_width.square() + pair.enclosing_height.square()


def _angle(width: Tensor, height: Tensor) -> Tensor:
    """atan(width / height); of a box without size that of a square, without gradient."""
    nothing = width.square() + height.square() <= torch.finfo(width.dtype).tiny ** 0.5
    return torch.atan2(width.masked_fill(nothing, 1), height.masked_fill(nothing, 1))


def _shape_difference(pair: Pair, width_weight: Tensor | float, height_weight: Tensor | float) -> Tensor:
    """Sum over both sides of (1 - exp(-weight |difference| / larger))^4, as SIoU and Shape-IoU have it."""
    width = ratio((pair.width - pair.target_width).abs(), torch.maximum(pair.width, pair.target_width))
    height = ratio((pair.height - pair.target_height).abs(), torch.maximum(pair.height, pair.target_height))
    return torch.expm1(-width_weight * width) ** 4 + torch.expm1(-height_weight * height) ** 4


def _edge_gap(pair: Pair) -> Tensor:
    """PIoU's P: mean distance of the four edges, left and right in target widths, the others in heights."""
    half_width, half_height = (pair.width - pair.target_width) / 2, (pair.height - pair.target_height) / 2
    horizontal = ratio((pair.dx - half_width).abs() + (pair.dx + half_width).abs(), pair.target_width)
    vertical = ratio((pair.dy - half_height).abs() + (pair.dy + half_height).abs(), pair.target_height)
    return (horizontal + vertical) / 4
