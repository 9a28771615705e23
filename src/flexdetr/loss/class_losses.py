"""Classification losses by name; the table imports no torch, and the configuration takes its choices from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# The ``ClassLoss`` of each; ``flexdetr.loss.terms.class_loss`` finds it.
CLASS_LOSSES: Final[Mapping[str, str]] = {
    "varifocal": "flexdetr.loss.terms:VARIFOCAL",
    "focal": "flexdetr.loss.terms:FOCAL",
    "mal": "flexdetr.loss.terms:MAL",
}
