"""Importing the package, and asking the command line for help, load no torch."""

from __future__ import annotations

import os
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


def test_nothing_is_reported_to_anybody() -> None:
    code = """
import flexdetr, openvino.tools.ovc
print(type(openvino.tools.ovc.telemetry).__module__)
import nncf.telemetry
print(type(nncf.telemetry.telemetry).__module__)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("NNCF_", "PYTEST_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.split()[-2:] == ["openvino.tools.ovc.telemetry_stub", "unittest.mock"]


@pytest.mark.parametrize("name", flexdetr.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(flexdetr, name) is not None
    assert name in dir(flexdetr)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean 'Detector'"):
        flexdetr.Detektor  # noqa: B018
