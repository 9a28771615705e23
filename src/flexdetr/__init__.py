"""FlexDETR: train, check, shrink and ship real-time end-to-end detectors of the RT-DETR family.

Public names are resolved when they are first used: importing the package stays fast and loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexdetr.api import Detector
    from flexdetr.classifier import Classifier
    from flexdetr.loading import load
    from flexdetr.model.fuse import fuse
    from flexdetr.pruning import prune
    from flexdetr.runtime.classification import Classification
    from flexdetr.runtime.detections import Detections

__version__ = "0.1.0"

# OpenVINO and NNCF would report imports and conversions to Google Analytics, without asking, in processes of their own;
# where this package of theirs is missing they use stubs instead. Nobody who runs a detector has agreed to that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# Public name -> the module that defines it.
_HOMES = {
    "Classification": "flexdetr.runtime.classification",
    "Classifier": "flexdetr.classifier",
    "Detections": "flexdetr.runtime.detections",
    "Detector": "flexdetr.api",
    "fuse": "flexdetr.model.fuse",
    "load": "flexdetr.loading",
    "prune": "flexdetr.pruning",
}

__all__ = ["Classification", "Classifier", "Detections", "Detector", "__version__", "fuse", "load", "prune"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name.startswith("_"):  # Python and its tools ask for these by themselves
        raise AttributeError(f"module 'flexdetr' has no attribute {name!r}")
    from flexdetr.config import nearest

    raise AttributeError(f"module 'flexdetr': {nearest(name, _HOMES)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
