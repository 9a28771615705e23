"""Reference classifiers: their weights under our names, and the heads that we do not ship."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flexdetr.model.blocks import LearnableAffineBlock

_SIDES = ((r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var"), (r"\.bn1?\.", ".norm."))
_HG = (
    (r"^stem\.stem\.", "stem."),
    (r"\.aggregation_conv\.", ".aggregation.0."),
    (r"\.att\.conv\.", ".aggregation.1.conv."),
    (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
    (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
    (r"^head\.last_conv\.0\.", "last_conv."),
    (r"^head\.last_conv\.2\.", "lab."),
    (r"^head\.fc\.", "fc."),
)
_GHOST = (
    (r"\.(primary|cheap)_rpr_conv\.", r".\1.branches."),
    (r"\.(primary|cheap)_rpr_scale\.", r".\1.scale."),
    (r"\.(primary|cheap)_rpr_skip\.", r".\1.identity."),
    (r"\.dw_rpr_conv\.", ".depthwise.branches."),
    (r"\.dw_rpr_scale\.", ".depthwise.scale."),
    (r"\.se\.conv_", ".se."),
    (r"^conv_stem\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^blocks\.9\.0\.", "last."),
)


def our_name(key: str) -> str:
    """A reference's name as ours; names of the classifier as in ``Classifier``."""
    for pattern, place in (*_GHOST, *_HG, *_SIDES):
        key = re.sub(pattern, place, key)
    if block := re.match(
        r"blocks\.(\d)\.(\d)\.(.*)", key
    ):  # two groups of blocks for each stride, but the first
        group, number, rest = int(block[1]), int(block[2]), block[3]
        key = f"stages.{(group + 1) // 2}.{number + (group > 0 and group % 2 == 0)}.{rest}"
    if pair := re.match(r"(.*\.(?:gate|short_conv|shortcut))\.(\d)\.(.*)", key):  # conv, norm, conv, norm ...
        kind = "norm" if int(pair[2]) % 2 else "conv"
        key = f"{pair[1].replace('short_conv', 'gate')}.{int(pair[2]) // 2}.{kind}.{pair[3]}"
    return key


class Classifier(nn.Module):
    """The head of PP-HGNet and PP-HGNetV2, or of the GhostNets, on a backbone's coarsest level."""

    def __init__(
        self, backbone: nn.Module, features: int, *, ghost: bool = False, use_lab: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.last: nn.Module = nn.Identity()
        if ghost:
            wide = features * 6
            self.last = nn.Sequential()
            self.last.conv = nn.Conv2d(features, wide, 1, bias=False)
            self.last.norm = nn.BatchNorm2d(wide)
            self.last.act = nn.ReLU()
            self.conv_head, self.classifier = nn.Conv2d(wide, 1280, 1), nn.Linear(1280, 1000)
        else:
            self.last_conv = nn.Conv2d(features, 2048, 1, bias=False)
            self.lab: nn.Module = LearnableAffineBlock() if use_lab else nn.Identity()
            self.fc = nn.Linear(2048, 1000)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        levels = self.backbone(images)
        pooled = self.last(levels[-1]).mean((2, 3), keepdim=True)
        if isinstance(self.last, nn.Identity):
            return self.fc(self.lab(self.last_conv(pooled).relu()).flatten(1)), levels
        return self.classifier(self.conv_head(pooled).relu().flatten(1)), levels


@pytest.fixture(scope="session")
def load_reference(golden: ModuleType) -> Callable[[str, nn.Module], None]:
    """A function (case, classifier) that puts a case's weights in; every tensor must find its place."""

    def load(case: str, classifier: nn.Module) -> None:
        inside = {name for name in classifier.state_dict() if name.startswith("backbone.")}
        state = {}
        for key, kind, value in _rows(golden, case):
            name = our_name(key)
            name = f"backbone.{name}" if f"backbone.{name}" in inside else name
            state[name] = torch.from_numpy(value.T.copy() if kind == "weight_t" else value)
        missing, unexpected = classifier.load_state_dict(state, strict=False)
        assert not unexpected
        assert not [name for name in missing if not name.endswith("num_batches_tracked")]

    return load


def _rows(golden: ModuleType, case: str) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    state = golden.checkpoint(case)
    return [(key, kind, state[key]) for key, _, kind in golden.keys(case)]


@pytest.fixture(scope="session")
def assert_golden(golden: ModuleType) -> Callable[[str, Mapping[str, Tensor]], None]:
    """A function (case, {output: tensor}) that compares logits and sketches of feature maps with the reference's."""

    def check(case: str, outputs: Mapping[str, Tensor]) -> None:
        expected, tolerance = golden.expected(case), golden.cases()[case]["tolerance"]
        for name, tensor in outputs.items():
            got = tensor.detach().numpy()
            if name.startswith("logits"):
                assert np.abs(got - expected[name]).max() <= tolerance["logits"], name
            else:
                want = expected[f"{name}.sketch"]
                error = np.abs(golden.sketch(got) - want).max() / np.abs(want).max()
                assert error <= tolerance["features_relative"], name

    return check


@pytest.fixture(scope="session")
def classifier_type() -> type[Classifier]:
    """The class ``Classifier``."""
    return Classifier
