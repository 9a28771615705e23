"""A checkpoint may name Python code as its backbone; that code runs only where the person says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flexdetr.config import Config
from flexdetr.weights.container import WeightsError

VARIABLE: Final = "FLEXDETR_TRUST"


def refuse_foreign_code(config: Config, overrides: Mapping[str, Any], path: str | Path) -> None:
    """Let a file name a part of ours or of timm's, and nothing else that could be imported and called.

    ``my_pkg.my_mod:factory`` is fine where a person typed it. From a file it could be any function of any installed
    package, with arguments of the file's choice: loading weights would run what the file's author wants.

    Args:
        config: what the file says, with the overrides laid over it.
        overrides: what the person typed; naming the same backbone there is consent.
        path: of the file, for the message.

    Raises:
        WeightsError: where the backbone is such a name and nobody has consented.
    """
    name = config.backbone.name
    if ":" not in name:
        return
    typed = overrides.get("backbone")
    typed = typed.get("name") if isinstance(typed, Mapping) else typed
    if name == typed or name in os.environ.get(VARIABLE, "").split(","):
        return
    raise WeightsError(
        f"{path} was made with the backbone {name}: code outside of the file, which would be imported and run. "
        f"If you trust it, say so: flexdetr.load(path, backbone={name!r}), or {VARIABLE}={name} in the environment"
    )
