"""Pictures out of requests: raw, in a form, or as base64 in JSON; all of it with limits."""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from flexdetr.data.images import ImageError, pixels
from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.picture_formats import picture_formats
from flexdetr.serve.limits import Limits, RefusedError

_FIELDS = 8  # of a form
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError)


async def read_body(request: Request, limits: Limits) -> bytes:
    """A request's body.

    Raises:
        RefusedError: 413 where it is larger than the limit; what is too large is not read to its end.
    """
    return b"".join([chunk async for chunk in _limited(request, limits)])


async def read_upload(request: Request, limits: Limits) -> bytes:
    """The bytes of the one picture that a request brings.

    A form (``multipart/form-data``) holds it as its only file; JSON as base64 under ``image``; any other body is the
    picture itself.

    Raises:
        RefusedError: if there is none, or it is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, limits)
    body = await read_body(request, limits)
    if kind == "application/json":
        document = read_json(body)
        return decode_base64(document.get("image"), "image")
    if not body:
        raise RefusedError(
            400, "the request has no body: send a picture, as it is, in a form, or as base64 in JSON"
        )
    return body


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RefusedError: 400 where it is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RefusedError(400, f"the body must be a JSON object; got {type(document).__name__}")
    return document


def decode_base64(text: object, name: str) -> bytes:
    """The bytes of a base64 text, also as a ``data:`` address.

    Raises:
        RefusedError: 400 where it is something else.
    """
    if not isinstance(text, str):
        raise RefusedError(400, f"{name!r} must be a picture's bytes as base64 text")
    content = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, f"{name!r} is not base64: {error}") from error


def decode_picture(content: bytes, limits: Limits, form: PixelForm = RGB) -> NDArray[np.uint8]:
    """A picture's pixels as it looks upright, (H, W, C) uint8 in the form that the detector takes.

    Its size is read first, and nothing is decoded where that is too large.

    Raises:
        RefusedError: 413 where it has too many pixels, 415 where it is no picture, 422 where it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the limit here is the server's own
            image = Image.open(io.BytesIO(content), formats=picture_formats())
    except Image.DecompressionBombError as error:
        raise RefusedError(413, f"the picture is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise RefusedError(
            415, "the upload is not a picture that can be read; send JPEG, PNG, WebP or the like"
        ) from error
    except _BROKEN as error:
        raise RefusedError(422, f"the picture is damaged: {_one_line(error)}") from error
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise RefusedError(
                413,
                f"the picture has {width} x {height} = {width * height:,} pixels; at most "
                f"{limits.max_pixels:,} are taken: send it smaller",
            )
        try:
            return pixels(ImageOps.exif_transpose(image), form)
        except (*_BROKEN, ImageError, Image.DecompressionBombError) as error:
            raise RefusedError(422, f"the picture is damaged: {_one_line(error)}") from error


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The chunks of a body, as long as they are few enough."""
    too_large = RefusedError(
        413, f"the request has more than {limits.max_bytes:,} bytes: send a smaller picture"
    )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limits.max_bytes:
        raise too_large
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > limits.max_bytes:
            raise too_large
        yield chunk


async def _from_form(request: Request, limits: Limits) -> bytes:
    parser = MultiPartParser(
        request.headers,
        _limited(request, limits),
        max_files=1,
        max_fields=_FIELDS,
        max_part_size=limits.max_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = getattr(error, "message", "") or "its content type states no boundary"
        raise RefusedError(400, f"the form cannot be read: {reason}") from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise RefusedError(400, "the form has no file: send the picture as one, in a field like 'image'")
        content: bytes = await files[0].read()
    finally:
        await form.close()
    if not content:
        raise RefusedError(400, "the form's file is empty")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
