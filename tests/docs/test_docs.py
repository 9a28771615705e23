"""What the documentation shows is true: Python blocks run, commands name verbs and options that exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from flexdetr.cli import GROUPS, VERBS, make_app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "examples" / "finetune.ipynb"
ZENSICAL = Path(sys.executable).with_name("zensical")
BCCD = ROOT.parent / "shared" / "data" / "bccd"
# The pages show lengths that are worth training; here the code runs at lengths that are worth waiting for.
SHORTER = {
    "train=400, val=50, test=100": "train=6, val=3, test=3",
    "train=1600, val=60, test=150": "train=1, val=1, test=1",
    "image_size=256": 'image_size=64, data={"workers": 0}',
    "epochs=40": "epochs=1, batch_size=3",
    "flexdetr_nano": "flexdetr_atto",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "README.md" and blocks(page, "python")], ids=name
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    for shown, shorter in SHORTER.items():
        code = code.replace(shown, shorter)
    exec(compile(code, name(page), "exec"), {"__name__": "page"})


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for shown, shorter in SHORTER.items():
        code = code.replace(shown, shorter)
    assert "epochs=1" in code
    assert "train=6," in code, "the notebook would run at its full length"
    exec(compile(code, NOTEBOOK.name, "exec"), {"__name__": "notebook"})
    assert (tmp_path / "scenes-openvino" / "metadata.json").is_file()


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


@pytest.mark.slow
@pytest.mark.skipif(not ZENSICAL.exists(), reason="zensical is missing: pip install 'flexdetr[docs]'")
def test_the_site_builds_without_a_dead_link() -> None:
    built = subprocess.run(
        [ZENSICAL, "build", "--strict"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.is_dir(), reason=f"{BCCD} is missing")
def test_readme_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bccd").symlink_to(BCCD)
    (tmp_path / "cell.jpg").symlink_to(next((BCCD / "JPEGImages").glob("*.jpg")))
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    code = code.replace("flexdetr_lite0", "flexdetr_pico").replace(
        'weights="backbone"', "weights=None, image_size=64"
    )
    code = code.replace("show()", "load()").replace(
        '"int8"', '"fp32"'
    )  # one epoch leaves nothing that int8 could keep
    exec(compile(code.replace("epochs=50", "epochs=1"), "README.md", "exec"), {"__name__": "page"})


@cache
def verbs() -> dict[str, Any]:
    """Every verb, or group of verbs, of the command line."""
    return typer.main.get_command(make_app()).commands  # type: ignore[attr-defined]


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    fenced = [line.strip() for block in blocks(page, "sh") for line in block.splitlines()]
    inline = re.findall(r"`((?:flexdetr) [^`]*)`", text)
    lines = [line.removeprefix(".venv/bin/") for line in [*fenced, *inline]]
    return [line.replace("\\|", "|") for line in lines if line.startswith("flexdetr ")]


@pytest.mark.parametrize(
    ("page", "line"),
    [(name(page), line) for page in PAGES for line in commands(page)],
    ids=str,
)
def test_commands_exist(page: str, line: str) -> None:
    words = [word.strip("[]") for word in shlex.split(line, comments=True)]
    verb = words[1]
    if verb in ("VERB", "--help", "--version"):
        return
    assert verb in VERBS or verb in GROUPS, f"{page} names a verb that does not exist"
    command = verbs()[verb]
    if verb in GROUPS:
        if len(words) == 2:
            return
        verb = f"{verb} {words[2]}"
        assert words[2] in command.commands, f"{page} names a verb that does not exist: {verb}"
        command = command.commands[words[2]]
    given = [option for one in command.params for option in (*one.opts, *one.secondary_opts)]
    known = {*given, "--help"}
    used = {word for word in words[2:] if word.startswith("--")}
    assert used <= known, f"{page} names options that {verb} does not have"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
