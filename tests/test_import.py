"""Importing the package, and asking the command line for help, load no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flexdetr

HEAVY = ("torch", "torchvision", "timm", "scipy", "faster_coco_eval", "openvino", "transformers", "nncf")


def loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import flexdetr; flexdetr.__version__; dir(flexdetr)") == set()


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\nfrom flexdetr.cli import main\nsys.argv = ['flexdetr', '--help']\nassert main() == 0"
    assert loaded_after(code) == set()


@pytest.mark.parametrize("name", flexdetr.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(flexdetr, name) is not None
    assert name in dir(flexdetr)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean 'Detector'"):
        flexdetr.Detektor  # noqa: B018
