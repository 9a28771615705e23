"""Fixtures that all tests share: reference outputs, and the folder of real data beside the repository."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock
from hypothesis import settings

import vectors
from flexdetr.runtime.artifact import Artifact, open_artifact

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


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Artifact]], Artifact]:
    """(name, what makes it at a path) -> an artifact that one of xdist's processes makes and all of them read."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "artifacts"
    folder.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], Artifact]) -> Artifact:
        with FileLock(folder / f"{name}.lock"):
            there = (folder / name).exists()  # an export is put in its place whole
            return open_artifact(folder / name, verify=False) if there else make(folder / name)

    return get
