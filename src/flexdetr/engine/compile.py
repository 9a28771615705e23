"""Training with parts of the network compiled by ``torch.compile``."""

from __future__ import annotations

import os
import shutil

import torch

from flexdetr.config import ConfigError
from flexdetr.model.detector import DetectionModel

# A part is compiled for the size and batch of the first step, and once more for all others when a second one comes;
# what asks for more goes on uncompiled, and torch warns.
_GRAPHS = 4


def compile_parts(model: DetectionModel, device: torch.device) -> None:
    """Compile the backbone and the encoder in place, each on its own; names of weights stay as they are.

    The head is left as it is: the number of its queries follows the objects of each batch, and it would be compiled
    again and again. Compiled kernels are kept on disk (``TORCHINDUCTOR_CACHE_DIR``), so that a resumed run starts at
    once.

    Args:
        model: to train, on its device, frozen where it is to be.
        device: where it is.

    Raises:
        ConfigError: if there is no C++ compiler for a CPU.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile needs a C++ compiler on a CPU, and there is no {compiler!r}: install g++, name another in "
            "CXX, or leave train.compile out"
        )
    torch._dynamo.config.recompile_limit = _GRAPHS
    for part in (model.backbone, model.encoder):
        part.compile()
