"""Name rules of published classifiers: what lies behind a backbone, for every project that has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flexdetr.classes import Classes
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import Rules, norm_names, rename, rules

# PaddleClas and timm of PP-HGNet and PP-HGNetV2, timm and Huawei of the GhostNets, and a linear layer by any name.
_CLASSIFIER: Final[Rules] = rules(
    (r"last_conv\.|head\.last_conv\.0\.", "head.hidden."),
    (r"lab\.|head\.last_conv\.2\.", "head.lab."),
    (r"blocks\.9\.0\.conv\.", "head.features.conv."),
    (r"blocks\.9\.0\.(?:bn1|norm)\.", "head.features.norm."),
    (r"conv_head\.", "head.hidden."),
    (r"fc\.|head\.fc\.|classifier\.1\.|classifier\.|head\.", "head.linear."),
)
_EFFICIENTNET: Final[Rules] = rules(
    (r"conv_head\.", "head.features.conv."),
    (r"bn2\.", "head.features.norm."),
    (r"classifier\.", "head.linear."),
)
_NEEDED: Final = ("head.linear.weight", "head.linear.bias")


def classifier_tensors(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """A classifier's own layers under our names.

    ``tensors`` are without a prefix, matrices (out, in).

    Returns:
        Nothing if there is no whole classifier, or one with layers that ours does not have.
    """
    # EfficientNets pool behind their last convolution, which has a norm there; the others before theirs.
    table = _EFFICIENTNET if "bn2.weight" in tensors else _CLASSIFIER
    found = rename(norm_names(tensors), table).state
    known = ("head.hidden.", "head.lab.", "head.features.conv.", "head.features.norm.", "head.linear.")
    wrong = any(not name.startswith(known) for name in found)
    ranks = {name: len(tensor.shape) for name, tensor in found.items()}
    whole = all(name in found for name in _NEEDED) and ranks["head.linear.weight"] == 2
    convolutions = ("head.hidden.weight", "head.features.conv.weight")
    return found if whole and not wrong and all(ranks.get(name, 4) == 4 for name in convolutions) else {}


def head_values(tensors: Mapping[str, Deferred]) -> dict[str, Any]:
    """Options of the classifier that the shapes of ``classifier_tensors`` show."""
    features, hidden = (
        tensors[name].shape[0] if name in tensors else None
        for name in ("head.features.conv.weight", "head.hidden.weight")
    )
    return {
        "features": features,
        "hidden": hidden,
        "hidden_bias": "head.hidden.bias" in tensors,
        "hidden_lab": "head.lab.scale" in tensors,
    }


def norm_eps(backbone: str) -> dict[str, float]:
    """Eps of the classifier's own norm, by module path, where it is not 1e-5: TensorFlow's networks have 1e-3."""
    return {"head.features": 1e-3} if backbone.startswith("efficientnet_lite") else {}


def published_classes(count: int) -> tuple[Classes, str]:
    """Names for the classes of a file that names none, and where they come from: ImageNet's where there are 1000."""
    if count != 1000:
        return Classes(
            tuple(f"class {place}" for place in range(count)), tuple(range(count))
        ), "not named in the file"
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names: list[str] = []
    for place in range(count):
        whole = info.index_to_description(place)
        short = whole.partition(",")[0].strip()
        names.append(short if short not in names else whole if whole not in names else f"{whole} ({place})")
    return Classes(tuple(names), tuple(range(count))), "ImageNet's, by their number"
