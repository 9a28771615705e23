"""ExecuTorch's programs are opened by another process first, which may die of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from flexdetr.runtime.artifact import ArtifactError


@pytest.fixture(scope="module")
def executorch() -> ModuleType:
    """The runtime: importing it takes seconds, which a process that only collects the tests has no use for."""
    return pytest.importorskip("flexdetr.runtime.executorch", reason="pip install 'flexdetr[executorch]'")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEXDETR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "encode.pte"
    path.write_bytes(b"a program")
    return path


def test_a_file_that_kills_its_reader_is_refused(
    executorch: ModuleType, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        executorch, "_OPEN", "import os, sys; print('no', file=sys.stderr, flush=True); os.abort()"
    )
    with pytest.raises(ArtifactError, match=r"encode\.pte is damaged.*no\); copy the artifact again"):
        executorch._open_elsewhere(program)
    assert not (program.parent / "cache").exists()


def test_a_file_that_opens_is_tried_once(
    executorch: ModuleType, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "_OPEN", "import sys; print(*sys.argv[1:], sep='\\n')")
    executorch._open_elsewhere(program)
    monkeypatch.setattr(executorch, "_OPEN", "import os; os.abort()")
    executorch._open_elsewhere(program)
    program.write_bytes(b"another program")
    with pytest.raises(ArtifactError, match="damaged"):
        executorch._open_elsewhere(program)


def test_a_file_that_takes_too_long_is_refused(
    executorch: ModuleType, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "_OPEN", "import time; time.sleep(60)")
    monkeypatch.setattr(executorch, "_LIMIT", 0.2)
    with pytest.raises(ArtifactError, match="not opened by ExecuTorch within"):
        executorch._open_elsewhere(program)


def test_both_programs_are_opened_in_one_process(
    executorch: ModuleType, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = program.with_name("decode.pte")
    other.write_bytes(b"another program")
    monkeypatch.setattr(executorch, "_OPEN", "import sys; print(*sys.argv[1:], sep='\\n')")
    executorch._open_elsewhere(program)
    monkeypatch.setattr(executorch, "_OPEN", "import os; os.abort()")
    executorch._open_elsewhere(other)


def test_the_damaged_one_of_two_is_named(
    executorch: ModuleType, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.with_name("decode.pte").write_bytes(b"another program")
    words = "import os, sys; print(*sys.argv[1:], sep='\\n', flush=True); os.abort()"
    monkeypatch.setattr(executorch, "_OPEN", words)
    with pytest.raises(ArtifactError, match=r"decode\.pte is damaged"):
        executorch._open_elsewhere(program)
