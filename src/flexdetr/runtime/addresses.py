"""Pictures and streams that an address names: fetched with limits on size and time, passwords never shown."""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from flexdetr.runtime.films import HEAD, VIDEO_SUFFIXES, is_film

MAX_BYTES: Final = 100_000_000
"""Of a picture that is fetched."""
SECONDS: Final = 30.0
"""For all of a picture, and for a stream to answer."""

_WEB: Final = ("http", "https")
_STREAMS: Final = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp")
_STREAM_KINDS: Final = ("video/", "multipart/x-mixed-replace", "application/vnd.apple.mpegurl", "application/x-mpegurl",
                        "audio/mpegurl", "audio/x-mpegurl", "application/dash+xml")  # fmt: skip
_PIECE: Final = 1 << 16


class AddressError(ValueError):
    """An address that gives no picture; the message is a reason to stand behind its name."""


class Address(NamedTuple):
    """What lies on another machine.

    Attributes:
        url: with its password, where it has one.
    """

    url: str

    @property
    def shown(self) -> str:
        """The address as messages and results have it: without its password."""
        return shown(self.url)

    @property
    def streams(self) -> bool:
        """Whether it can be nothing but a stream, by its scheme."""
        return urlsplit(self.url).scheme.lower() in _STREAMS

    @property
    def looks_like_film(self) -> bool:
        """Whether many pictures are to be expected of it, by its scheme or its path's suffix."""
        path = urlsplit(self.url).path.lower()
        return self.streams or path.endswith((".m3u8", *VIDEO_SUFFIXES))


def is_address(text: str) -> bool:
    """Whether a text is an address, and no path: ``http://``, ``https://``, ``rtsp://`` and the like."""
    scheme, mark, rest = text.partition("://")
    return bool(mark and rest) and scheme.lower() in (*_WEB, *_STREAMS)


def shown(url: str) -> str:
    """An address without its password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    name, mark, _ = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}{mark and ':***'}@{host}"))


def fetch(address: Address, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> io.BytesIO | None:
    """The bytes that an address gives; None if it gives a stream or a film.

    Args:
        address: http or https; redirections to other schemes are not followed.
        max_bytes: more are refused, and not read.
        seconds: for all of it.

    Raises:
        AddressError: if it cannot be reached, refuses, takes too long or is too large.
    """
    if address.streams:
        return None
    end = time.monotonic() + seconds
    bare = _without_user(address.url)
    request = urllib.request.Request(bare, headers={"user-agent": "flexdetr"})  # noqa: S310 - see is_address
    ask = _opener(address.url).open
    try:
        with ask(request, timeout=seconds) as answer:
            kind = answer.headers.get("content-type", "").lower()
            head: bytes = b"" if kind.startswith(_STREAM_KINDS) else answer.read(HEAD)
            if kind.startswith(_STREAM_KINDS) or is_film(head) or head.startswith(b"#EXTM3U"):
                return None
            stated = answer.headers.get("content-length", "")
            if stated.isdecimal() and int(stated) > max_bytes:
                raise AddressError(f"has {int(stated):,} bytes; at most {max_bytes:,} are fetched")
            content = bytearray(head)
            while piece := answer.read1(_PIECE):
                content += piece
                if len(content) > max_bytes:
                    raise AddressError(f"has more than {max_bytes:,} bytes, which are not fetched")
                if time.monotonic() > end:
                    raise AddressError(f"took more than {seconds:g} seconds")
    except urllib.error.HTTPError as error:
        error.close()
        raise AddressError(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, AddressError):
            raise
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise AddressError(f"cannot be reached: {reason}") from error
    if not content:
        raise AddressError("the server answered with nothing")
    return io.BytesIO(bytes(content))


def _opener(url: str) -> urllib.request.OpenerDirector:
    """An opener of http and https alone, whatever it is led to, which sends the address's own user and password."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    parts = urlsplit(url)
    if parts.username is not None:
        known = urllib.request.HTTPPasswordMgrWithPriorAuth()
        user, password = unquote(parts.username), unquote(parts.password or "")
        known.add_password(None, _without_user(url), user, password, is_authenticated=True)
        opener.add_handler(urllib.request.HTTPBasicAuthHandler(known))
    return opener


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
