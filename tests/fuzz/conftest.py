"""One set of files and one process that answers, for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .answering import Product
from .material import Material, make


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The process at work."""
    folder = tmp_path_factory.mktemp("product")
    interpreter = folder / "bin" / "gs"  # Pillow would hand PostScript to it
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {folder / 'interpreted'}\n")
    interpreter.chmod(0o755)
    environment = {
        "FLEXDETR_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}",
    }
    product = Product(folder / "stderr.txt", environment)
    product.start()
    yield product
    product.stop()
    assert not (folder / "interpreted").exists()


@pytest.fixture(scope="session")
def material(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Whole files of every kind; the process imports what it needs meanwhile."""
    return make(tmp_path_factory.mktemp("material") / "originals")
