"""Golden classifiers as backbone starts: the file in its own container, loaded by name, then compared.

A detector needs no classifier, so that the loader leaves it out; here it is taken from the reference's state dict to
get from our backbone's last level to the reference's logits.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flexdetr.model.backbones import build_backbone
from flexdetr.weights.loading import Loaded, load_any

CASES = {
    "paddleclas_hgnet_tiny": "hgnet_tiny",
    "paddleclas_hgnetv2_b0": "hgnetv2_b0",
    "paddleclas_hgnetv2_b4": "hgnetv2_l",
    "timm_hgnetv2_b0": "hgnetv2_b0",
    "timm_hgnet_tiny": "hgnet_tiny",
    "timm_ghostnet_100": "ghostnet_100",
    "timm_ghostnetv3_100": "ghostnetv3_100",
    "timm_mobilenetv1_100": "mobilenetv1_100",
    "huawei_ghostnetv3_100": "ghostnetv3_100",
}
# timm taps the first block of each stride in its GhostNets; our levels are the last ones.
OTHER_TAPS = {"timm_ghostnet_100", "timm_ghostnetv3_100"}


def backbone_of(loaded: Loaded) -> torch.nn.Module:
    backbone = build_backbone(loaded.config.backbone, (4, 8, 16, 32))
    state = {name.removeprefix("backbone."): tensor for name, tensor in loaded.state().items()}
    backbone.load_state_dict(state)  # strict: nothing is missing, nothing is left
    return backbone.eval()


def classify(level: Tensor, head: dict[str, Tensor]) -> Tensor:
    """The reference's logits from a backbone's last level."""
    if "blocks.9.0.conv.weight" in head:
        x = F.conv2d(level, head["blocks.9.0.conv.weight"])
        norm = [head[f"blocks.9.0.bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *norm).relu().mean((2, 3), keepdim=True)
        x = F.conv2d(x, head["conv_head.weight"], head["conv_head.bias"]).relu()
        return F.linear(x.flatten(1), head["classifier.weight"], head["classifier.bias"])
    pooled = level.mean((2, 3), keepdim=True)
    if "classifier.weight" in head:
        return F.linear(pooled.flatten(1), head["classifier.weight"], head["classifier.bias"])
    names = {
        "conv": ("last_conv.weight", "head.last_conv.0.weight"),
        "scale": ("lab.scale", "head.last_conv.2.scale"),
        "shift": ("lab.bias", "head.last_conv.2.bias"),
        "weight": ("fc.weight", "head.fc.weight"),
        "bias": ("fc.bias", "head.fc.bias"),
    }
    found = {key: next((head[name] for name in both if name in head), None) for key, both in names.items()}
    x = F.conv2d(pooled, found["conv"]).relu()
    if found["scale"] is not None:
        x = x * found["scale"] + found["shift"]
    weight = found["weight"] if found["weight"].shape[1] == x.shape[1] else found["weight"].T
    return F.linear(x.flatten(1), weight, found["bias"])


@pytest.mark.parametrize("case", CASES)
def test_same_features_and_logits(case: str, golden: ModuleType, tmp_path: Path) -> None:
    loaded = load_any(golden.write(case, tmp_path))
    assert loaded.is_backbone
    assert loaded.config.backbone.name == CASES[case]
    assert loaded.report.left
    assert all(reason.startswith("the classifier") for reason in loaded.report.left.values())
    with torch.inference_mode():
        levels = backbone_of(loaded)(torch.from_numpy(golden.inputs(case)))
        head = {name: torch.from_numpy(np.array(value)) for name, value in golden.checkpoint(case).items()}
        logits = classify(levels[-1], head).numpy()
    limit = golden.cases()[case]["tolerance"]
    expected = golden.expected(case)
    assert np.abs(logits - expected["logits"]).max() <= limit["logits"]
    if case not in OTHER_TAPS:
        for stride, level in zip((4, 8, 16, 32), levels, strict=True):
            sketch = expected[f"stride{stride}.sketch"]
            difference = np.abs(golden.sketch(level.numpy()) - sketch).max()
            assert difference <= limit["features_relative"] * np.abs(sketch).max(), stride


def test_paddle_padding_is_known_from_the_source(golden: ModuleType, tmp_path: Path) -> None:
    options = load_any(golden.write("paddleclas_hgnetv2_b0", tmp_path)).config.backbone.options
    assert options == {"pool_padding": "paddle"}
    assert not load_any(golden.write("timm_hgnetv2_b0", tmp_path)).config.backbone.options
