"""Thresholds: one number, or what the detector carries for each class."""

from __future__ import annotations

import numpy as np
import pytest

from flexdetr.config import ConfigError
from flexdetr.runtime.process import THRESHOLD
from flexdetr.runtime.thresholds import limits

NAMES = ("cat", "dog")


@pytest.mark.parametrize("asked", [0, 0.25, 1.0, np.float32(0.5)])
def test_a_number_is_for_all_classes(asked: float) -> None:
    assert limits(asked, {"cat": 0.9}, NAMES) == asked


def test_auto_takes_each_class_s_own() -> None:
    assert limits("auto", {"dog": 0.7, "default": 0.2}, NAMES) == [0.2, 0.7]
    assert limits("auto", {"dog": 0.7}, NAMES) == [THRESHOLD, 0.7]


def test_auto_without_any_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a threshold between 0 and 1"):
        limits("auto", {}, NAMES)


@pytest.mark.parametrize("asked", [-0.1, 1.5, float("nan"), "0.4", None])
def test_others_are_refused(asked: object) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        limits(asked, {"default": 0.4}, NAMES)  # type: ignore[arg-type]
