"""D-FINE's and DEIM's PyTorch checkpoints: their names, what their tensors say, and which of the two a file is.

Both projects train the same graph, and their files have the same names and shapes. They differ in the activations of
the decoder, ReLU in D-FINE and SiLU in DEIM, of which a file holds nothing: its name has to tell, or the person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flexdetr.weights import lyuwenyu
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.lyuwenyu import DECODER, ENCODER, points_per_level
from flexdetr.weights.renaming import Renamed, Rules, rules

_FUSION: Final[Rules] = rules(
    *(
        row
        for theirs, ours in (("fpn_blocks", "top_down"), ("pan_blocks", "bottom_up"))
        for row in (
            (rf"{theirs}\.(\d+)\.cv1\.", rf"{ours}.\1.split."),
            (rf"{theirs}\.(\d+)\.cv2\.(\d)\.", rf"{ours}.\1.steps.0.\2."),
            (rf"{theirs}\.(\d+)\.cv3\.(\d)\.", rf"{ours}.\1.steps.1.\2."),
            (rf"{theirs}\.(\d+)\.cv4\.", rf"{ours}.\1.project."),
        )
    ),
    (r"downsample_convs\.(\d+)\.0\.cv1\.", r"downsample.\1.0."),
    (r"downsample_convs\.(\d+)\.0\.cv2\.", r"downsample.\1.1."),
)
_HEAD: Final[Rules] = rules(
    (r"(?:decoder\.)?(?:up|reg_scale)$", None),
    (r"decoder\.layers\.(\d+)\.gateway\.", r"layers.\1.gate."),
    (r"decoder\.lqe_layers\.(\d+)\.reg_conf\.", r"scores.\1.quality.mlp."),
    (r"dec_score_head\.(\d+)\.", r"scores.\1.linear."),
    (r"pre_bbox_head\.", "pre_box."),
)
# Through this layer RT-DETRv4 learns from another network.
_PROJECTOR: Final = "encoder.feature_projector."
# RT-DETRv4 trains DEIM's graph; "deim_dfine_..." is DEIM's.
_DEIM: Final = re.compile(r"deim|rt-?_?(?:detr)?v4", re.IGNORECASE)
_DFINE: Final = re.compile(r"d-?_?fine", re.IGNORECASE)
# DEIM's X, where it was fine-tuned from Objects365, is the one that kept ReLU.
_FINE_TUNED_X: Final = re.compile(r"(?:^|[_-])x(?:[_-].*)?obj(?:ects)?(?:365)?2coco", re.IGNORECASE)


def is_dfine(tensors: Mapping[str, Deferred]) -> bool:
    """Whether a state dict is that of a D-FINE or DEIM detector, under their names."""
    return any(name.startswith("decoder.pre_bbox_head.") for name in tensors)


def rename_dfine(tensors: Mapping[str, Deferred]) -> Renamed:
    """A whole detector under our names.

    ``tensors`` are ``backbone.*``, ``encoder.*`` and ``decoder.*`` as D-FINE and DEIM name them.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_PROJECTOR)}
    renamed = rename_detector(kept)
    renamed.left |= {name: "used in training only" for name in tensors if name not in kept}
    return renamed


def rename_detector(tensors: Mapping[str, Deferred], encoder: Rules = (), head: Rules = ()) -> Renamed:
    """A detector of D-FINE's kind under our names.

    ``tensors`` are ``backbone.*``, ``encoder.*`` and ``decoder.*``; the rules are of names that D-FINE does not
    have, or go before D-FINE's.
    """
    return lyuwenyu.rename_detector(tensors, [*encoder, *_FUSION, *ENCODER], [*head, *_HEAD, *DECODER])


def head_values(tensors: Mapping[str, Deferred]) -> dict[str, Any]:
    """What the tensors say about the head beside its shapes."""
    points = points_per_level(tensors)
    return {**({} if points is None else {"points": points}), **constants_of(tensors, "decoder.")}


def constants_of(tensors: Mapping[str, Deferred], prefix: str) -> dict[str, float]:
    """``up`` and ``reg_scale``, which files of this head hold as tensors; their sign does not count.

    Raises:
        WeightsError: if one is not a number other than 0.
    """
    values: dict[str, float] = {}
    for name in ("up", "reg_scale"):
        if (tensor := tensors.get(f"{prefix}{name}")) is not None:
            numbers = tensor.read().flatten().tolist()
            if len(numbers) != 1 or not numbers[0]:
                raise WeightsError(f"{prefix}{name} is not a number other than 0")
            values[name] = abs(float(numbers[0]))
    return values


def is_rtdetrv4(tensors: Mapping[str, Deferred]) -> bool:
    """Whether a training checkpoint holds the layer through which only RT-DETRv4 learns from another network."""
    return any(name.startswith(_PROJECTOR) for name in tensors)


def project_of(name: str) -> str | None:
    """Which project a file is of by its name: "deim", "dfine", or None if the name does not tell."""
    if _DEIM.search(name):
        return "deim"
    return "dfine" if _DFINE.search(name) else None


def activation_of(project: str, name: str) -> str:
    """The activation of a project's decoders.

    The ``project`` is "deim" or "dfine"; the file's name tells the one model of DEIM that is different.
    """
    return "relu" if project == "dfine" or _FINE_TUNED_X.search(name) else "silu"
