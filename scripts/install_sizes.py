"""Print what the base install and each extra on top of it weigh on disk, as a Markdown table.

Every install gets an environment of its own, from this folder and the package index; uv must be installed.

python scripts/install_sizes.py
python scripts/install_sizes.py base train --keep build/sizes
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_BASE = "base"


def extras() -> list[str]:
    """The names that stand in pyproject.toml's optional dependencies, without the developers' own."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return [name for name in tomllib.loads(text)["project"]["optional-dependencies"] if name != "dev"]


def install(extra: str, environment: Path) -> Path:
    """Install the package into a new environment.

    Args:
        extra: A name of ``extras()``, or ``base`` for none.
        environment: A folder, which is written anew.

    Returns:
        Its folder of packages.

    Raises:
        RuntimeError: uv is missing, or it cannot install; the message is uv's.
    """
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv was not found: pip install uv")
    wanted = str(_ROOT) if extra == _BASE else f"{_ROOT}[{extra}]"
    for words in (
        ["venv", "--clear", "--python", sys.executable, str(environment)],
        ["pip", "install", "--python", str(environment), wanted],
    ):
        done = subprocess.run([uv, "--quiet", *words], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))


def packages(folder: Path) -> dict[str, int]:
    """Bytes of each top-level entry of a folder of packages, without the bytecode that a first import adds."""
    sizes = {}
    for entry in folder.iterdir():
        files = entry.rglob("*") if entry.is_dir() else [entry]
        sizes[entry.name] = sum(
            file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc"
        )
    return sizes


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("extras", nargs="*", help="base or extras; all but dev where none is named")
    parser.add_argument("--keep", type=Path, help="a folder in which the environments stay")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.keep or Path(temporary)
        print("| install | MB | on top of the base | most of it |\n|---|---|---|---|")  # noqa: T201
        base = packages(install(_BASE, place / _BASE))
        for extra in options.extras or [_BASE, *extras()]:
            sizes = base
            if extra != _BASE:
                try:
                    sizes = packages(install(extra, place / extra))
                except RuntimeError as problem:
                    print(f"{extra}: {problem}", file=sys.stderr)  # noqa: T201
                    continue
            print(row(extra, sizes, base), flush=True)  # noqa: T201
            if not options.keep and extra != _BASE:
                shutil.rmtree(place / extra)


def row(extra: str, sizes: dict[str, int], base: dict[str, int]) -> str:
    """A line of the table, with the three largest of the packages that the base does not have."""
    if extra == _BASE:
        name, more, new = "`flexdetr`", "", sizes
    else:
        new = {one: size for one, size in sizes.items() if one not in base}
        name, more = f"`flexdetr[{extra}]`", f"+{_mb(sum(sizes.values()) - sum(base.values()))}"
    largest = sorted(new, key=lambda one: -new[one])[:3]
    shown = ", ".join(f"{one} {_mb(new[one])}" for one in largest if new[one] >= 1e6)
    return f"| {name} | {_mb(sum(sizes.values()))} | {more} | {shown} |"


def _mb(count: int) -> str:
    """Whole megabytes of a million bytes; tenths below ten."""
    return f"{count / 1e6:,.1f}" if abs(count) < 1e7 else f"{count / 1e6:,.0f}"


if __name__ == "__main__":
    main()
