"""Image files as arrays, RGB unless another form is asked for, whatever they hold. No torch here."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.addresses import Address, AddressError, fetch, is_address
from flexdetr.runtime.arrays import ArrayError, as_picture, formed, is_array, stored_picture
from flexdetr.runtime.deep_pixels import tell_dim, tell_range
from flexdetr.runtime.films import has_pages
from flexdetr.runtime.folders import NPY
from flexdetr.runtime.picture_formats import picture_formats
from flexdetr.runtime.process import resize_planes
from flexdetr.runtime.stored_arrays import StoredArrayError, holds_numbers, is_tiff, read_array, stored_size

_log = logging.getLogger(__name__)
_told: set[tuple[Path, str | None]] = set()
_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)
# A 16-bit picture without a value above this is a 14-bit one or less: it is read in less than a quarter of the range.
_DIM = 2**14


class ImageError(ValueError):
    """An image file that cannot be read; the message names it and the reason."""


@dataclass(frozen=True)
class ImageInfo:
    """What an image's header says.

    Width and height are pixels as stored; the EXIF orientation is 1 if the file states none or nonsense.
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def transposed(self) -> bool:
        """Whether showing the image upright exchanges width and height."""
        return self.orientation in _TRANSPOSED

    @property
    def oriented(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return (self.height, self.width) if self.transposed else (self.width, self.height)


def probe(path: Path) -> ImageInfo:
    """Size and orientation from the header alone.

    Raises:
        ImageError: if the file is missing or is no image.
    """
    try:
        if path.suffix.lower() == NPY:
            return ImageInfo(*stored_size(path))
        with _open(path) as image:
            orientation = 1
            if image.format != "PNG" or _states_orientation(path, image):
                orientation = image.getexif().get(_ORIENTATION, 1)
            if orientation not in range(1, 9):
                orientation = 1
            width, height = image.size
            if image.format == "TIFF" and orientation in _TRANSPOSED:  # Pillow states a TIFF's size upright
                width, height = height, width
            return ImageInfo(width, height, orientation)
    except UnidentifiedImageError as error:
        if not is_tiff(path):
            raise _failure(path, error) from error
        return _probe_tiff(path)
    except _FAILURES as error:
        raise _failure(path, error) from error


def _probe_tiff(path: Path) -> ImageInfo:
    """Of a TIFF that Pillow does not know, like one of five channels."""
    try:
        return ImageInfo(*stored_size(path))
    except (OSError, StoredArrayError) as error:
        raise _failure(path, error) from error


def _states_orientation(path: Path, image: Image.Image) -> bool:
    """Whether a PNG file may be turned; Pillow would decode all of it to look for EXIF data behind the pixels."""
    if any("exif" in str(key).lower() or "xm" in str(key).lower() for key in image.info):
        return True
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8 and header[4:] != b"IEND":
            if header[4:] == b"eXIf":
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, 1)
    return False


def read_image(path: str | Path, form: PixelForm = RGB) -> NDArray[np.uint8]:
    """An image file as it looks upright.

    Grey is repeated over three channels; transparency is laid over black; 16-bit values keep their high byte;
    floats are taken as 0..1 if none is above 1 and as 0..255 otherwise, with a warning where values do not fill that
    range; of several frames the first is taken. Colours become their luma where the form is grey. Of .npy, and of TIFF
    where the form asks for other channels or a range of values, the numbers are taken as they are stored.

    Returns:
        (H, W, ``form.channels``) uint8.

    Raises:
        ImageError: if the file is missing, truncated or no image, or has other channels.
    """
    return _read(Path(path), None, form)


def read_reduced(path: str | Path, at_least: tuple[int, int], form: PixelForm = RGB) -> NDArray[np.uint8]:
    """An image no larger than needed: the smallest of its shape that covers ``at_least``, never enlarged.

    JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that suffices, which saves most of the work.

    Both sides still reach ``at_least`` (height, width), unless the file itself is smaller.

    Returns:
        (h, w, ``form.channels``) uint8 with (nearly) the file's aspect ratio.

    Raises:
        ImageError: as ``read_image``.
    """
    return _read(Path(path), at_least, form)


def read_part(
    path: str | Path,
    window: tuple[int, int, int, int],
    at_least: tuple[int, int],
    form: PixelForm = RGB,
) -> NDArray[np.uint8]:
    """A part of an image no larger than needed; the last images are kept, since their other parts are read next.

    ``window`` is xyxy pixels of the upright image; both sides still reach ``at_least`` (height, width), unless
    the part itself is smaller.

    Returns:
        (h, w, ``form.channels``) uint8.

    Raises:
        ImageError: as ``read_image``.
    """
    x0, y0, x1, y1 = window
    cut = _recent(Path(path), form)[y0:y1, x0:x1]
    size = covering((x1 - x0, y1 - y0), at_least)
    if size == (cut.shape[1], cut.shape[0]):
        return cut.copy()
    return resize_planes(cut, size, reducing_gap=2.0)


@functools.lru_cache(maxsize=2)
def _recent(path: Path, form: PixelForm) -> NDArray[np.uint8]:
    return read_image(path, form)


def halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) uint8 at half its size, rounded up; each pixel is the mean of four."""
    if image.shape[2] == 3:
        return np.array(Image.fromarray(image).reduce(2), dtype=np.uint8)
    planes = (np.asarray(Image.fromarray(plane).reduce(2)) for plane in np.moveaxis(image, 2, 0))
    return np.stack([*planes], axis=2)


def verify(path: Path, form: PixelForm = RGB) -> str | None:
    """Decodes the whole file at the smallest scale that its format allows.

    Returns:
        what is odd about the range of its values, with the brightest one: most of it would be black or white. None
        if nothing is.

    Raises:
        ImageError: if the file is missing, truncated or no image, or has other channels.
    """
    if holds_numbers(path, form) or not form.photographic:
        read_image(path, form)
        return None
    try:
        with _open(path) as image:
            image.draft("RGB", (1, 1))
            image.load()
            return None if form.value_range is not None else _odd_range(image)
    except _FAILURES as error:
        raise _failure(path, error) from error


def _odd_range(image: Image.Image) -> str | None:
    """What is odd about the values of a picture of more than eight bits a channel."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    values = np.asarray(image)
    brightest, darkest = float(np.nanmax(values)), float(np.nanmin(values))
    if image.mode == "F":
        if 1 < brightest <= 2 or brightest > 255 or darkest < 0:
            return (
                f"its values go from {darkest:g} to {brightest:g}: floats are taken as 0 to 1, or 0 to 255 where one "
                "is above 1, and are cut off there; convert it to 8 bits first"
            )
    elif 0 < brightest < _DIM:
        return (
            f"its brightest value is {brightest:g} of 65535, so that it is read nearly black; it seems to have fewer "
            "than 16 bits: convert it to 8 bits first"
        )
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as mode RGB, by the rules of ``read_image``."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def to_form(image: Image.Image, form: PixelForm) -> NDArray[np.uint8]:
    """Any Pillow image as (H, W, ``form.channels``) uint8, by the rules of ``read_image``.

    Raises:
        ImageError: if it has other channels.
    """
    if form == RGB:
        return np.array(to_rgb(image), dtype=np.uint8)
    deep = image.mode.startswith("I") or image.mode == "F"
    if form.photographic and not deep:
        seen = to_rgb(image)
        stored = np.asarray(seen if form.channels == 3 else seen.convert("L"))
    else:
        stored = np.asarray(image)
    if image.mode.startswith("I"):  # 32 bits wide, but files that open as it hold 16
        stored = np.clip(stored.astype(np.int64), 0, 65535).astype(np.uint16)
    elif image.mode == "F" and form.value_range is None:
        stored = _eight_bits(stored, "F")
    try:
        return formed(stored if stored.ndim == 3 else stored[:, :, None], form)
    except ArrayError as error:
        raise ImageError(str(error)) from error


def _refuse_lost_bits(image: Image.Image) -> None:
    """Of 16-bit colours Pillow keeps the high byte alone; asked before its pixels are."""
    deep = image.mode.startswith("I") or image.mode == "F"
    if not deep and any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        raise ImageError(
            "its colours have 16 bits, of which Pillow keeps the high byte alone, and data.value_range needs both: "
            "store it as TIFF or .npy"
        )


def pixels(picture: Any, form: PixelForm = RGB) -> NDArray[np.uint8]:  # noqa: ANN401 - see below
    """(H, W, ``form.channels``) uint8 of anything that counts as a picture.

    Args:
        picture: a file's path or its bytes, an http(s) address, a Pillow image, or an array or tensor as
            ``runtime.arrays.as_picture`` takes it.
        form: what the picture becomes.

    Raises:
        ImageError: if it cannot be read, or is something else.
    """
    if isinstance(picture, str) and is_address(picture):
        address = Address(picture)
        try:
            fetched = fetch(address)
        except AddressError as error:
            raise ImageError(f"{address.shown}: {error}") from error
        if fetched is None:
            raise ImageError(f"{address.shown}: is a stream or a film, not a picture")
        return _read(fetched, None, form, name=address.shown)
    if isinstance(picture, str | Path):
        return read_image(picture, form)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _read(io.BytesIO(picture), None, form, name="the bytes given")
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(picture)) if form == RGB else to_form(picture, form)
    if not is_array(picture):
        kinds = "a path, an address, bytes, a Pillow image, an array or a tensor"
        raise ImageError(f"a picture is {kinds}; got {type(picture).__name__}")
    try:
        return as_picture(picture, form)
    except ArrayError as error:
        raise ImageError(str(error)) from error


def _eight_bits(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    if mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.size and values.max() <= 1 else 1.0
        return np.clip(values * scale, 0, 255).astype(np.uint8)
    # Mode I is 32 bits wide, but files that open as it hold 16; a fixed shift keeps images of a set
    # comparable, which stretching each by its own maximum would not.
    return (np.clip(values.astype(np.int64), 0, 65535) >> 8).astype(np.uint8)


def _read(
    file: Path | io.BytesIO, at_least: tuple[int, int] | None, form: PixelForm, *, name: str = ""
) -> NDArray[np.uint8]:
    try:
        if isinstance(file, Path) and holds_numbers(file, form):
            return _read_numbers(file, at_least, form)
        with _open(file) as image:
            if at_least is not None:
                _reduce(image, at_least)
            if isinstance(file, Path):
                if form.value_range is None:
                    tell_range(file, image)
                else:
                    _refuse_lost_bits(image)
                _tell_frames(file, image)
            if form != RGB:
                return _reduced(to_form(ImageOps.exif_transpose(image), form), at_least)
            upright = to_rgb(ImageOps.exif_transpose(image))
            if at_least is not None:
                size = covering(upright.size, at_least)
                if size != upright.size:
                    upright = upright.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            return np.array(upright, dtype=np.uint8)
    except _FAILURES as error:
        raise _failure(name or file, error) from error


def _read_numbers(path: Path, at_least: tuple[int, int] | None, form: PixelForm) -> NDArray[np.uint8]:
    array = read_array(path)
    picture = stored_picture(array, form)
    if form.value_range is None:
        tell_dim(path, array)
    return _reduced(picture, at_least)


def _reduced(picture: NDArray[np.uint8], at_least: tuple[int, int] | None) -> NDArray[np.uint8]:
    """(H, W, C) uint8 no larger than needed."""
    if at_least is None:
        return picture
    size = covering((picture.shape[1], picture.shape[0]), at_least)
    return resize_planes(picture, size, reducing_gap=2.0)


def _tell_frames(path: Path, image: Image.Image) -> None:
    """Say that one frame of several is taken, once for each folder and format."""
    key = (path.parent, image.format)
    if key not in _told and getattr(image, "is_animated", False) and has_pages(path):
        _told.add(key)
        _log.warning(
            "%s: holds several frames or pages, of which the first is taken (reported once per folder)", path
        )


def _reduce(image: Image.Image, at_least: tuple[int, int]) -> None:
    """Asks the JPEG decoder for a smaller image; other formats ignore it."""
    height, width = at_least
    if image.getexif().get(_ORIENTATION, 1) in _TRANSPOSED:
        height, width = width, height
    image.draft("RGB" if image.mode == "RGB" else None, covering(image.size, (height, width)))


def covering(size: tuple[int, int], at_least: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the smallest image shaped like ``size`` that reaches (height, width) ``at_least``."""
    width, height = size
    factor = max(at_least[0] / height, at_least[1] / width)
    return size if factor >= 1 else (max(1, round(width * factor)), max(1, round(height * factor)))


_FAILURES = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, Image.DecompressionBombError)


def _open(path: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large photographs are legitimate
        return Image.open(path, formats=picture_formats())


def _failure(path: object, error: Exception) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{path}: image not found")
    if isinstance(error, UnidentifiedImageError):
        many = isinstance(path, Path) and is_tiff(path)
        more = "; a TIFF of more channels than three is read with data.channels" if many else ""
        return ImageError(f"{path}: is not an image that can be read{more}")
    if isinstance(error, StoredArrayError | ArrayError | ImageError):
        return ImageError(f"{path}: {error}")
    return ImageError(f"{path}: cannot be read: {error}")
