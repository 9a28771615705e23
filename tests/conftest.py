"""Fixtures that all tests share: reference outputs, and the folder of real data beside the repository."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

import vectors

# On a busy machine a deadline is a matter of luck: half a millisecond took half a minute once.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# No test fetches published weights, or finds any that lie on this machine: "auto" starts as it does without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = os.environ["FLEXDETR_CACHE"] = str(
    Path(tempfile.gettempdir()) / "flexdetr-tests"
)

SHARED = Path(__file__).parents[1].parent / "shared"
PHOTOGRAPHS = Path(__file__).parent / "data" / "photographs"


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A COCO folder of 20 real photographs; its README says whose they are."""
    return PHOTOGRAPHS


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository; tests that need it are skipped if it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """The module that rebuilds reference checkpoints, inputs and outputs."""
    return vectors
