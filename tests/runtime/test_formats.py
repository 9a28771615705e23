"""Every row of the table of formats: what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from flexdetr.cli import main
from flexdetr.cli.answers import explain
from flexdetr.export.formats import format_of, quantiser_of, writer_of
from flexdetr.part_table import load_part
from flexdetr.runtime.artifact import is_artifact
from flexdetr.runtime.formats import ENGINES, FORMATS, NAMED

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ROWS = pytest.mark.parametrize("name", FORMATS)


def requires(extra: str) -> set[str]:
    """Packages of an extra, and of those that it takes in, as Python calls them."""
    found = set()
    for line in EXTRAS[extra]:
        others = re.match(r"flexdetr\[(.+?)\]", line)
        words = others[1].split(",") if others else []
        found |= set().union(*map(requires, words)) if words else {re.split(r"[><=\[]", line)[0]}
    return {package.replace("-", "_") for package in found}


@ROWS
def test_the_writer_offers_what_its_row_says(name: str) -> None:
    row = FORMATS[name]
    missing = [package for package in row.packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"pip install 'flexdetr[{row.extra}]': {', '.join(missing)}")
    writer = writer_of(format_of(name))
    assert all(callable(part) for part in (writer.write, writer.layers, writer.read_values))
    assert callable(getattr(quantiser_of(row), "quantise", None)) or not row.int8


@ROWS
def test_the_extra_brings_what_the_writer_needs(name: str) -> None:
    row = FORMATS[name]
    assert set(row.packages) <= requires(row.extra)
    for package in row.packages:
        assert explain(ModuleNotFoundError(name=package)) == (
            1,
            f"Error: this needs {package}: install it with pip install 'flexdetr[{row.extra}]'",
        )


@ROWS
def test_every_engine_of_a_row_opens_something(name: str) -> None:
    assert FORMATS[name].runtimes
    for engine, place in FORMATS[name].runtimes.items():
        if find_spec(ENGINES[engine].package) is not None:
            assert callable(load_part(place))


@pytest.mark.parametrize("name", ENGINES)
def test_the_extra_brings_the_engine(name: str) -> None:
    engine = ENGINES[name]
    if engine.extra:
        assert engine.package in requires(engine.extra)
    else:
        base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        assert any(line.startswith(engine.package) for line in base)


@ROWS
def test_the_suffixes_mean_an_artifact(name: str) -> None:
    assert FORMATS[name].suffixes
    assert all(is_artifact(f"somewhere/model{suffix}") for suffix in FORMATS[name].suffixes)


@ROWS
def test_the_command_line_and_the_docs_name_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["export", "--help"]) == 0
    assert (name if name in NAMED else "--target") in capsys.readouterr().out
    assert name in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").lower()


def test_the_table_imports_nothing_heavy() -> None:
    code = "import sys, flexdetr.runtime.formats; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
