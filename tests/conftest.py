"""Fixtures that all tests share: the folder of reference data beside the repository."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

# No test fetches published weights, or finds any that lie on this machine: "auto" starts as it does without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = os.environ["FLEXDETR_CACHE"] = str(
    Path(tempfile.gettempdir()) / "flexdetr-tests"
)

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> ModuleType:
    """The module ``golden.py`` that rebuilds reference checkpoints, inputs and outputs."""
    path = shared / "golden" / "golden.py"
    if not path.is_file():
        pytest.skip(f"no golden vectors: {path} is missing")
    spec = importlib.util.spec_from_file_location("golden", path)
    if spec is None or spec.loader is None:
        pytest.fail(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    return module
