"""RT-DETR of PaddleDetection (.pdparams): other prefixes, transposed linear layers, Paddle's names of the norms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from flexdetr.weights.deferred import Deferred
from flexdetr.weights.lyuwenyu import rename_detector
from flexdetr.weights.renaming import Renamed, norm_names, transposed

NAME_TABLE: Final = "StructuredToParameterName@@"  # paddle.save's table of internal names beside the tensors
_PREFIXES: Final = {"neck.": "encoder.", "transformer.": "decoder."}
_EMBEDDING: Final = re.compile(r"embed(?:ding)?\.weight$")


def untranspose(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Linear layers as torch has them: every matrix but an embedding table is (in, out) in Paddle."""
    return {
        name: transposed(tensor) if len(tensor.shape) == 2 and not _EMBEDDING.search(name) else tensor
        for name, tensor in tensors.items()
    }


def rename_paddle(tensors: Mapping[str, Deferred]) -> Renamed:
    """A PaddleDetection detector under our names.

    ``tensors`` are ``backbone.*``, ``neck.*`` and ``transformer.*``.
    """
    moved = {}
    for name, tensor in norm_names(untranspose(tensors)).items():
        for old, new in _PREFIXES.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        moved[name] = tensor
    return rename_detector(moved)
