"""Numpy arrays and plain data in pickles: a whole Paddle checkpoint, and what lies beside torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred, from_bytes
from flexdetr.weights.unpickle import Allowed, Global, Value

_NUMPY_TYPES: Final = {
    "f2": "float16", "f4": "float32", "f8": "float64", "i1": "int8", "i2": "int16", "i4": "int32",
    "i8": "int64", "u1": "uint8", "b1": "bool",
}  # fmt: skip


@dataclass(eq=False)
class _Array:
    """A numpy array under construction, or a numpy type (``text``)."""

    text: str = ""
    order: str = "<"
    value: Deferred | None = None


def array_pickles() -> Allowed:
    """Arrays of numpy 1 and 2, and the containers of plain data."""
    calls: dict[Global, Callable[..., Any]] = {
        Global("collections", "OrderedDict"): _mapping,
        Global("collections", "defaultdict"): lambda *_: {},
        Global("collections", "Counter"): _mapping,
        Global("_codecs", "encode"): _encode,
        Global("numpy", "dtype"): lambda text, *_: _Array(text=_text(text)),
    }
    names = {Global("numpy", "ndarray"), Global("numpy", "generic")}
    for module in ("builtins", "__builtin__"):
        calls[Global(module, "set")] = lambda items=(): list(items)
        calls[Global(module, "frozenset")] = lambda items=(): list(items)
        calls[Global(module, "bytes")] = lambda *_: b""  # how protocol 2 spells an empty one
        calls[Global(module, "bytearray")] = lambda raw=b"", *_: raw
        calls[Global(module, "complex")] = lambda *parts: parts
        calls[Global(module, "slice")] = lambda *parts: parts
        calls[Global(module, "tuple")] = lambda items=(): tuple(
            items
        )  # Paddle: a named tensor is (name, array)
        names |= {Global(module, kind) for kind in ("list", "dict", "int", "float", "str", "object", "bool")}
    for package in ("numpy.core", "numpy._core"):
        calls[Global(f"{package}.multiarray", "_reconstruct")] = lambda *_: _Array()
        calls[Global(f"{package}.multiarray", "scalar")] = _scalar
        calls[Global(f"{package}.numeric", "_frombuffer")] = _from_buffer
    return Allowed(calls, {_Array: _set_array_state}, names=names.__contains__)


def _mapping(pairs: Value = ()) -> dict[Any, Any]:
    plain = (str, int, float, bytes, bool, type(None))
    items = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
    if not all(len(item) == 2 and isinstance(item[0], plain) for item in items):
        raise TypeError("pairs that are none")
    return dict(items)


def _encode(text: str, encoding: str = "latin1", *_: Value) -> bytes:
    """Bytes as protocol 2 spells them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin-1")


def _text(value: Value) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _raw(value: Value) -> bytes | memoryview:
    return value.encode("latin-1") if isinstance(value, str) else value


def _numpy_type(dtype: Value) -> str:
    """The torch name of a numpy type that was read."""
    if not isinstance(dtype, _Array) or not dtype.text:
        raise TypeError("a numpy type that is none")
    text = dtype.text.lstrip("<|=")
    if dtype.order == ">" or text.startswith(">") or text not in _NUMPY_TYPES:
        raise WeightsError(
            f"it holds an array of numpy type {dtype.order}{dtype.text}, which FlexDETR does not read"
        )
    return _NUMPY_TYPES[text]


def _set_array_state(target: _Array, state: Value) -> None:
    if target.text:  # a type: (version, byte order, ...)
        target.order = _text(state[1])
        return
    _, shape, dtype, column_major, raw = state
    target.value = from_bytes(
        _raw(raw), _numpy_type(dtype), tuple(map(int, shape)), column_major=bool(column_major)
    )


def _from_buffer(raw: Value, dtype: Value, shape: Value, order: str, *_: Value) -> _Array:
    return _Array(
        value=from_bytes(raw, _numpy_type(dtype), tuple(map(int, shape)), column_major=order == "F")
    )


def _scalar(dtype: Value, raw: Value = b"") -> _Array:
    return _Array(value=from_bytes(_raw(raw), _numpy_type(dtype), ()))


def as_tensor(value: Value) -> Deferred | None:
    """A value of a pickle as a tensor: itself, an array, Paddle's (name, array); None if it is none."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if isinstance(value, _Array):
        value = value.value
    return value if isinstance(value, Deferred) else None
