"""Pictures of more than eight bits whose values do not fill the range that they are read in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_log = logging.getLogger(__name__)

# Of 65,535: up to 14 bits, as cameras have them, a picture is at most a quarter as bright as it should be.
_DARK: Final = 1 << 14
_told: set[tuple[Path, str]] = set()


def tell_range(path: Path, image: Image.Image) -> None:
    """Warn of values that do not fill their range, once for each folder and mode: other pictures there are alike."""
    reason = range_warning(image)
    key = (path.parent, image.mode)
    if reason is not None and key not in _told:
        _told.add(key)
        _log.warning("%s: %s (reported once per folder)", path, reason)


def tell_dim(path: Path, values: NDArray[Any]) -> None:
    """The same of the numbers that a file of them holds."""
    key = (path.parent, str(values.dtype))
    if values.dtype == np.uint16 and key not in _told and 0 < (brightest := int(values.max())) < _DARK:
        _told.add(key)
        _log.warning(
            "%s: its brightest value is %d of 65535, so that it is read as nearly black: state the range of its "
            "values, as in data.value_range=[0, %d] (reported once per folder)",
            path,
            brightest,
            brightest,
        )


def range_warning(image: Image.Image) -> str | None:
    """What is wrong with the range of a picture's values, to stand behind its name; None if nothing seems to be.

    16-bit values keep their high byte and floats are taken as 0..1 or 0..255 (see ``data.images.read_image``): 12 bits
    in a file of 16 become nearly black, and floats of physical units white.

    The picture is as it was opened, before its pixels were asked for.
    """
    colours = any(
        ";16" in str(tile) for tile in getattr(image, "tile", ())
    )  # Pillow keeps their high byte alone
    whole = image.mode.startswith("I")
    if not (whole or colours or image.mode == "F"):
        return None
    values = np.asarray(image)
    if not values.size:
        return None
    if image.mode == "F":
        brightest = float(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).max())
        if brightest <= 255:
            return None
        return _sentence(f"{brightest:g}, and what is above 255 is read as white", "0 to 1, or to 0 to 255")
    high = int(values.max())
    brightest = high if whole else high << 8
    if brightest > 65535:
        return _sentence(f"{brightest}, and what is above 65535 is read as white", "0 to 65535")
    if 0 < brightest < _DARK:
        about = "" if whole else "about "
        return _sentence(f"{about}{brightest} of 65535, so that it is read as nearly black", "0 to 65535")
    return None


def _sentence(brightest: str, fitting: str) -> str:
    return f"its brightest value is {brightest}: scale its values to {fitting}, as in the training"
