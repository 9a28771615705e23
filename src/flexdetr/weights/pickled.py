"""Files that are pickles: torch.save's two formats and Paddle's, read without running anything in them."""

from __future__ import annotations

import functools
import mmap
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import ITEM_BYTES, Deferred, strided
from flexdetr.weights.pickled_arrays import array_pickles
from flexdetr.weights.unpickle import Allowed, Global, Instance, Value, unpickle

_STORAGE_TYPES: Final = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
# Classes whose instances are taken apart as data: Ultralytics and YOLO modules, and what hangs on them.
_CLASS_PACKAGES: Final = ("ultralytics.", "models.", "torch.nn.modules.", "torch.nn.parallel.")
_CLASSES: Final = frozenset(
    Global(*text.rsplit(".", 1))
    for text in (
        "argparse.Namespace", "types.SimpleNamespace", "pathlib.Path", "pathlib.PosixPath",
        "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib._local.Path", "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath", "datetime.datetime", "datetime.date", "datetime.timedelta",
        "torch.optim.adamw.AdamW", "torch.optim.sgd.SGD",
    )
)  # fmt: skip
_TORCH_TYPES: Final = frozenset(
    {*ITEM_BYTES, "half", "float", "double", "long", "int", "short", "qint8", "quint8"}
)


@dataclass(frozen=True)
class _Storage:
    """Where a storage's bytes are: filled in late for the legacy format, where they follow the pickle."""

    dtype: str
    items: int
    locate: Callable[[], int]


def read_pickled(path: Path, container: str) -> Value:
    """The content of a .pth, .pt or .pdparams file: plain data, ``Deferred`` tensors, inert ``Instance``s.

    ``container`` is what ``sniff`` said, "zip" or "pickle".

    Raises:
        WeightsError: if the file is damaged, truncated, or asks for more than tensors and plain data.
    """
    try:
        return _read_zip(path) if container == "zip" else _read_plain(path)
    except WeightsError as error:
        raise type(error)(f"{path} cannot be loaded: {error}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_zip(path: Path) -> Value:
    try:
        with zipfile.ZipFile(path) as archive:
            records = {record.filename: record for record in archive.infolist()}
            root = _root(records)
            if (order := records.get(f"{root}/byteorder")) is not None and archive.read(order) != b"little":
                raise WeightsError("it was saved on a big-endian machine")
            pickle = records[f"{root}/data.pkl"]
            if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
                raise WeightsError("its records are compressed, which torch.save never does")
            content = archive.read(pickle)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"its zip archive is damaged or truncated ({error})") from error

    def storage(reference: Value) -> _Storage:
        dtype, key, items = _storage_id(reference)
        record = records.get(f"{root}/data/{key}")
        if record is None or record.file_size < items * ITEM_BYTES[dtype]:
            raise WeightsError(f"damaged: the storage {key!r} is missing or too short")
        return _Storage(dtype, items, lambda: starts()[record.header_offset])

    starts = functools.cache(lambda: _record_starts(path, [one.header_offset for one in records.values()]))
    return unpickle(content, _torch_allowed(path, storage))[0]


def _root(records: dict[str, zipfile.ZipInfo]) -> str:
    """The archive's top folder."""
    if any(name.endswith("/constants.pkl") and "/code/" in "".join(records) for name in records):
        raise WeightsError("it is a TorchScript program (torch.jit.save), not a checkpoint")
    roots = [
        name.removesuffix("/data.pkl")
        for name in records
        if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        what = "a numpy archive" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise WeightsError(f"it is {what}, but not one that torch.save wrote")
    return roots[0]


def _record_starts(path: Path, headers: Iterable[int]) -> dict[int, int]:
    """Where stored records' bytes begin: each after a local header with lengths of its own."""
    starts = {}
    with path.open("rb", buffering=0) as file:
        for header in headers:
            file.seek(header)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise WeightsError(f"{path} is a damaged zip archive")
            lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            starts[header] = header + 30 + lengths
    return starts


def _read_plain(path: Path) -> Value:
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    first, position = unpickle(data, array_pickles())
    return _read_legacy(path, data, position) if first == _LEGACY_MAGIC else first


def _read_legacy(path: Path, data: memoryview, position: int) -> Value:
    """torch.save before 1.6: magic, version, machine, the pickle, the storages' keys, then their bytes."""
    version, position = unpickle(data, Allowed(), position)
    machine, position = unpickle(data, Allowed(), position)
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError("its legacy torch format is of another version or byte order")
    places: dict[str, int] = {}
    known: dict[str, _Storage] = {}

    def storage(reference: Value) -> _Storage:
        dtype, key, items = _storage_id(reference)
        return known.setdefault(key, _Storage(dtype, items, lambda: places[key]))

    value, position = unpickle(data, _torch_allowed(path, storage), position)
    keys, position = unpickle(data, Allowed(), position)
    if not isinstance(keys, list) or set(keys) != known.keys():
        raise WeightsError("damaged: the list of its storages does not fit them")
    for key in keys:
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        places[key] = position + 8
        position += 8 + count * ITEM_BYTES[known[key].dtype]
        if count < known[key].items or position > len(data):
            raise WeightsError("truncated: the bytes of its storages end early")
    return value


def _storage_id(reference: Value) -> tuple[str, str, int]:
    """(dtype, key, items) of torch's persistent id ('storage', type, key, device, items, ...)."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise WeightsError("damaged: a reference that is not a storage")
    kind, key, items = reference[1], reference[2], reference[4]
    if not isinstance(kind, Global) or kind.name not in _STORAGE_TYPES or not isinstance(key, str):
        raise WeightsError(f"it holds a storage of type {kind}, which FlexDETR does not read")
    if not isinstance(items, int) or items < 0:
        raise WeightsError("damaged: a storage of negative size")
    return _STORAGE_TYPES[kind.name], key, items


def _torch_allowed(path: Path, storage: Callable[[Value], _Storage]) -> Allowed:
    def view(
        kept: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Value
    ) -> Deferred:
        return _strided(path, kept, kept.dtype, offset, shape, stride)

    def typed_view(
        kept: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: Value
    ) -> Deferred:  # the rest: requires_grad, hooks, type
        return _strided(path, kept, rest[2].name, offset, shape, stride)

    def subclass(function: Global, kind: Global, arguments: tuple[Any, ...], _: Value) -> Deferred:
        if function not in views or kind.module.partition(".")[0] != "torch":
            raise WeightsError(f"it holds a tensor of class {kind}, which FlexDETR does not read")
        return views[function](*arguments)

    views: dict[Global, Callable[..., Any]] = {
        Global("torch._utils", "_rebuild_tensor"): view,
        Global("torch._utils", "_rebuild_tensor_v2"): view,
        Global("torch._utils", "_rebuild_tensor_v3"): typed_view,
    }
    calls: dict[Global, Callable[..., Any]] = {
        **views,
        Global("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        Global("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        Global("torch._tensor", "_rebuild_from_type_v2"): subclass,
        Global("torch", "Size"): lambda sides=(): tuple(sides),
        Global("torch", "device"): lambda *parts: ":".join(map(str, parts)),
        Global("torch.serialization", "_get_layout"): str,
    }
    numpy = array_pickles()
    return Allowed({**numpy.calls, **calls}, numpy.states, _is_class, _is_torch_name, storage)


def _strided(
    path: Path, kept: _Storage, dtype: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> Deferred:
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(kept, _Storage)
        or not all(type(number) is int for number in numbers)
        or len(shape) != len(stride)
    ):
        raise WeightsError("damaged: a tensor's description is none")
    if dtype not in ITEM_BYTES:
        raise WeightsError(f"it holds a tensor of type {dtype}, which FlexDETR does not read")
    items = kept.items * ITEM_BYTES[kept.dtype] // ITEM_BYTES[dtype]
    return strided(path, kept.locate, items, dtype, offset, shape, stride)


def _is_class(name: Global) -> bool:
    """Classes that are data here: modules, paths, records; no function of the standard library."""
    return name in _CLASSES or f"{name.module}.".startswith(_CLASS_PACKAGES)


def _is_torch_name(name: Global) -> bool:
    """Storage types, torch's types and tensor classes, which appear as arguments."""
    if name.module in ("torch", "torch.storage", "torch.cuda"):
        return name.name in _STORAGE_TYPES or name.name in _TORCH_TYPES or name.name == "Tensor"
    return name in (
        Global("torch.nn.parameter", "Parameter"),
        Global("torch.nn.parameter", "Buffer"),
        Global("torch.nn.functional", "relu"),
        Global("torch.nn.functional", "silu"),
        Global("torch.nn.functional", "gelu"),
        Global("torch._C._nn", "gelu"),
        Global("torch._C._nn", "silu"),
        Global("torch", "relu"),
    )


def attributes(value: Value) -> dict[str, Any]:
    """The attributes of an inert object; empty if it has none."""
    state = value.state if isinstance(value, Instance) else None
    if isinstance(state, tuple) and state:  # (attributes, slots)
        state = state[0]
    return state if isinstance(state, dict) else {}
