"""One set of files and one process that answers, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .answering import Product
from .material import Material, make


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The process at work."""
    folder = tmp_path_factory.mktemp("product")
    product = Product(folder / "stderr.txt", {"FLEXDETR_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"})
    product.start()
    yield product
    product.stop()


@pytest.fixture(scope="session")
def material(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Whole files of every kind; the process imports what it needs meanwhile."""
    return make(tmp_path_factory.mktemp("material") / "originals")
