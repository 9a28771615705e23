"""Pictures that are arrays of numbers in a file: .npy, and TIFF of any number of channels. No torch here."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.folders import NPY

_TIFF: Final = (".tif", ".tiff")
_ORIENTATION: Final = 274


class StoredArrayError(ValueError):
    """A file of numbers that cannot be read; the message says why, and does not name the file."""


def is_tiff(path: Path) -> bool:
    """Whether a file's name is one of a TIFF."""
    return path.suffix.lower() in _TIFF


def stores_numbers(path: Path) -> bool:
    """Whether a file's name is one that ``read_array`` can read."""
    return path.suffix.lower() == NPY or is_tiff(path)


def holds_numbers(path: Path, form: PixelForm = RGB) -> bool:
    """Whether ``read_array`` is to read a file, and not Pillow: it knows neither .npy nor more channels than four."""
    plain = form.photographic and form.value_range is None
    return path.suffix.lower() == NPY or (is_tiff(path) and not plain)


def read_array(path: Path) -> NDArray[Any]:
    """The numbers of a file, upright, as they are stored.

    Of a TIFF all pages of the first picture's shape are taken: some programs write a page for each channel.

    Raises:
        StoredArrayError: if it is damaged, or something else, or needs a package that is not there.
        OSError: if it cannot be opened.
    """
    if path.suffix.lower() != NPY:
        return _read_tiff(path)
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, EOFError, SyntaxError) as error:
        raise StoredArrayError(f"is not an array that numpy can read: {error}") from error


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) of a file's picture when it is upright, from its header.

    Raises:
        StoredArrayError: as ``read_array``.
        OSError: if it cannot be opened.
    """
    shape = _npy_shape(path) if path.suffix.lower() == NPY else _tiff_shape(path)
    if len(shape) == 2:
        return shape[1], shape[0]
    if len(shape) != 3:
        raise StoredArrayError(
            f"holds an array of shape {shape}, and no picture (H, W), (H, W, C) or (C, H, W)"
        )
    return (shape[2], shape[1]) if shape[0] < shape[2] else (shape[1], shape[0])


def _npy_shape(path: Path) -> tuple[int, ...]:
    try:
        return tuple(np.lib.format.open_memmap(path, mode="r").shape)
    except (ValueError, EOFError, SyntaxError) as error:
        raise StoredArrayError(f"is not an array that numpy can read: {error}") from error


def _read_tiff(path: Path) -> NDArray[Any]:
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(path) as file:
            return _upright(np.asarray(file.series[0].asarray()), _orientation(file))
    except OSError:
        raise
    except (
        Exception
    ) as error:  # tifffile answers damage and missing codecs in a dozen ways without a common base
        raise StoredArrayError(f"is not a TIFF that can be read: {error}") from error


def _tiff_shape(path: Path) -> tuple[int, ...]:
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(path) as file:
            shape: tuple[int, ...] = tuple(file.series[0].shape)
            empty = np.broadcast_to(np.uint8(0), shape)
            return tuple(_upright(empty, _orientation(file)).shape)
    except OSError:
        raise
    except Exception as error:
        raise StoredArrayError(f"is not a TIFF that can be read: {error}") from error


def _orientation(file: Any) -> int:  # noqa: ANN401 - tifffile.TiffFile
    tag = file.pages[0].tags.get(_ORIENTATION)
    value = 1 if tag is None else int(tag.value)
    return value if value in range(1, 9) else 1


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An array as it looks upright, by the EXIF orientation."""
    if orientation == 1 or array.ndim not in (2, 3):
        return array
    rows = 1 if array.ndim == 3 and array.shape[0] < array.shape[2] else 0
    columns = rows + 1
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, rows, columns)
    if orientation in (2, 3, 6, 7):
        array = np.flip(array, columns)
    if orientation in (3, 4, 7, 8):
        array = np.flip(array, rows)
    return array


def _tifffile() -> ModuleType:
    try:
        import tifffile
    except ImportError as error:
        raise StoredArrayError(
            "is a TIFF whose channels tifffile reads: pip install 'flexdetr[tiff]', or store it as .npy"
        ) from error
    module: ModuleType = tifffile
    return module
