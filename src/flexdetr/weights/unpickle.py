"""A pickle reader that executes nothing: it knows the opcodes, and refuses every name that is not on a list.

Python's ``pickle`` imports and calls whatever a file names. This is another machine. A name becomes an inert
``Global``; only functions of the reader's own table are ever called, and they build plain data and deferred
tensors. An instance of a listed class becomes an ``Instance``: its class's name and its state, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from flexdetr.weights.container import WeightsError

Value: TypeAlias = Any  # what a pickle holds: plain data, deferred tensors, names, instances


class Global(NamedTuple):
    """A name that a pickle mentions; nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Instance:
    """An object of a listed class, as data.

    Attributes:
        kind: its class.
        arguments: what its constructor would have been given.
        state: what its ``__setstate__`` would have been given (a dictionary of its attributes, as a rule).
    """

    kind: Global
    arguments: tuple[Any, ...] = ()
    state: Value = None


@dataclass(frozen=True)
class Allowed:
    """What a pickle may ask for.

    Attributes:
        calls: functions by the name that the file gives them; they get the file's arguments.
        states: functions that take (object, state) when the file sets the state of an object of this type.
        classes: whether a name is a class whose instances are wanted as data.
        names: names that may be mentioned as values.
        persistent: turns a persistent id (how torch.save refers to a storage) into a value.
    """

    calls: Mapping[Global, Callable[..., Any]] = field(default_factory=dict)
    states: Mapping[type, Callable[[Value, Value], None]] = field(default_factory=dict)
    classes: Callable[[Global], bool] = lambda _: False
    names: Callable[[Global], bool] = lambda _: False
    persistent: Callable[[Value], Value] | None = None


class UnsafePickleError(WeightsError):
    """A pickle that asks for something that is not on the list."""


class _Mark:
    """What the opcode MARK pushes."""


def _as_bytes(raw: memoryview) -> bytes | memoryview:
    """Short ones are copied; an array's stay in the file until it is read."""
    return bytes(raw) if len(raw) < 1024 else raw


_MARK: Final = _Mark()
_KEY_TYPES: Final = (str, int, float, bytes, bool, type(None))
_INT_OPS: Final = {ord("J"): 4, ord("K"): 1, ord("M"): 2}  # bytes; the longest one has a sign
# opcode: (bytes of the length, how the content becomes a value)
_SIZED: Final[dict[int, tuple[int, Callable[[memoryview], Any]]]] = {
    ord("X"): (4, lambda raw: str(raw, "utf-8", "surrogatepass")),
    0x8C: (1, lambda raw: str(raw, "utf-8", "surrogatepass")),
    0x8D: (8, lambda raw: str(raw, "utf-8", "surrogatepass")),
    ord("T"): (
        4,
        lambda raw: str(raw, "latin-1"),
    ),  # Python 2 strings: text or bytes, and latin-1 loses neither
    ord("U"): (1, lambda raw: str(raw, "latin-1")),
    ord("B"): (4, _as_bytes),
    ord("C"): (1, _as_bytes),
    0x8E: (8, _as_bytes),
    0x96: (8, _as_bytes),
    0x8A: (1, lambda raw: int.from_bytes(raw, "little", signed=True)),
    0x8B: (4, lambda raw: int.from_bytes(raw, "little", signed=True)),
}
_CONSTANTS: Final[dict[int, Callable[[], Any]]] = {
    ord("N"): lambda: None,
    0x88: lambda: True,
    0x89: lambda: False,
    ord("]"): list,
    ord(")"): tuple,
    ord("}"): dict,
    0x8F: set,
}


def unpickle(data: bytes | memoryview, allowed: Allowed, start: int = 0) -> tuple[Any, int]:
    """Read one pickle.

    Returns:
        The value, and the position after it.

    Raises:
        UnsafePickleError: if the pickle asks for anything else.
        WeightsError: if it is damaged, truncated, or uses an opcode that no checkpoint needs.
    """
    machine = _Machine(memoryview(data), allowed, start)
    try:
        return machine.run(), machine.position
    except WeightsError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        struct.error,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise WeightsError(f"damaged pickle near byte {machine.position} ({type(error).__name__})") from error


class _Machine:
    """The stack, the memo and the position in one pickle."""

    def __init__(self, data: memoryview, allowed: Allowed, start: int) -> None:
        self.data = data
        self.allowed = allowed
        self.position = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Value:
        data, size, table = self.data, len(self.data), _OPCODES
        while True:
            if self.position >= size:
                raise WeightsError("truncated pickle")
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.pop()
            step = table.get(code)
            if step is None:
                raise WeightsError(f"damaged pickle: opcode {code:#04x} near byte {self.position}")
            step(self, code)

    def slice(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise WeightsError("truncated pickle")
        raw = self.data[self.position : end]
        self.position = end
        return raw

    def take(self, count: int) -> bytes:
        return bytes(self.slice(count))

    def raw_line(self) -> bytes:
        end = self.position
        while end < len(self.data) and self.data[end] != 0x0A:
            end += 1
        raw = self.take(end - self.position)
        self.take(1)
        return raw

    def line(self) -> str:
        return self.raw_line().decode("utf-8")

    def pop(self) -> Value:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is needed")
        return value

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                values = stack[place + 1 :]
                del stack[place:]
                return values
        raise ValueError("no mark")

    def constant(self, code: int) -> None:
        self.stack.append(_CONSTANTS[code]())

    def sized(self, code: int) -> None:
        width, convert = _SIZED[code]
        length = int.from_bytes(self.slice(width), "little")
        self.stack.append(convert(self.slice(length)))

    def small_int(self, code: int) -> None:
        begin, width = self.position, _INT_OPS[code]
        raw = self.slice(width) if width > 1 else None
        if raw is None:
            self.position += 1
            self.stack.append(self.data[begin])
        else:
            self.stack.append(int.from_bytes(raw, "little", signed=width == 4))

    def text_number(self, code: int) -> None:
        text = self.line()
        if code == ord("F"):
            self.stack.append(float(text))
        elif code == ord("I") and text in ("00", "01"):
            self.stack.append(text == "01")
        else:
            self.stack.append(int(text.rstrip("L")))

    def binary_float(self, _: int) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def text_string(self, code: int) -> None:
        raw = self.raw_line()
        if code == ord("V"):
            self.stack.append(raw.decode("raw-unicode-escape", "surrogatepass"))
            return
        if len(raw) < 2 or raw[0] != raw[-1] or raw[:1] not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        self.stack.append(raw[1:-1].decode("unicode_escape"))

    def header(self, code: int) -> None:
        raw = self.take(1 if code == 0x80 else 8)
        if code == 0x80 and raw[0] > 5:
            raise WeightsError(f"pickle protocol {raw[0]} is newer than any that is known")

    def mark(self, _: int) -> None:
        self.stack.append(_MARK)

    def discard(self, code: int) -> None:
        if code == ord("1"):
            self.pop_to_mark()
        else:
            self.stack.pop()

    def duplicate(self, _: int) -> None:
        self.stack.append(self.stack[-1])

    def make_tuple(self, code: int) -> None:
        count = code - 0x84  # TUPLE1, TUPLE2, TUPLE3 follow each other
        values = self.pop_to_mark() if code == ord("t") else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def make_from_mark(self, code: int) -> None:
        values = self.pop_to_mark()
        if code == ord("l"):
            self.stack.append(values)
        elif code == ord("d"):
            self.stack.append(_filled({}, values))
        else:  # FROZENSET: nothing relies on its being immutable
            self.stack.append(set(map(_key, values)))

    def extend(self, code: int) -> None:
        values = [self.pop()] if code == ord("a") else self.pop_to_mark()
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        elif not isinstance(target, Instance):  # a list subclass; its items are of no interest
            raise TypeError("items for something that is not a list")

    def set_items(self, code: int) -> None:
        values = [self.pop(), self.pop()][::-1] if code == ord("s") else self.pop_to_mark()
        target = self.stack[-1]
        if isinstance(target, dict):
            _filled(target, values)
        elif not isinstance(target, Instance):
            raise TypeError("items for something that is not a mapping")

    def remember(self, code: int) -> None:
        place = len(self.memo) if code == 0x94 else self.place(code, 0x71)
        self.memo[place] = self.stack[-1]

    def recall(self, code: int) -> None:
        self.stack.append(self.memo[self.place(code, 0x68)])

    def place(self, code: int, short: int) -> int:
        """Where in the memo: one byte after the opcode ``short``, a line of text, or four bytes."""
        if code == short:  # the most frequent opcodes of all
            self.position += 1
            return self.data[self.position - 1]
        return int(self.line()) if code in b"pg" else int.from_bytes(self.slice(4), "little")

    def name(self, code: int) -> None:
        if code == ord("c"):
            module, name = self.line(), self.line()
        else:
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise TypeError("a name that is not a text")
        wanted, allowed = Global(module, name), self.allowed
        if not (wanted in allowed.calls or allowed.classes(wanted) or allowed.names(wanted)):
            raise UnsafePickleError(
                f"it asks for {wanted}, which is neither tensor nor plain data; refused, nothing was run"
            )
        self.stack.append(wanted)

    def call(self, code: int) -> None:
        if code == 0x92:  # NEWOBJ_EX: its keyword arguments are of no interest
            self.pop()
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a name")
        handler = self.allowed.calls.get(function)
        if handler is not None:
            self.stack.append(handler(*arguments))
        elif self.allowed.classes(function):
            self.stack.append(Instance(function, arguments))
        else:
            raise UnsafePickleError(f"it wants to call {function}; refused, nothing was run")

    def build(self, _: int) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Instance):
            target.state = state
        elif (handler := self.allowed.states.get(type(target))) is not None:
            handler(target, state)
        elif not isinstance(
            target, dict
        ):  # an OrderedDict's attributes (state_dict's _metadata) are left out
            raise TypeError("a state for plain data")

    def persistent_id(self, code: int) -> None:
        reference = self.pop() if code == ord("Q") else self.line()
        if self.allowed.persistent is None:
            raise WeightsError("the pickle refers to storages outside itself")
        self.stack.append(self.allowed.persistent(reference))


def _key(value: Value) -> Value:
    """A key that is cheap and safe to hash (a tuple nested a million times is not)."""
    if not isinstance(value, _KEY_TYPES) and not (
        isinstance(value, tuple) and all(isinstance(item, _KEY_TYPES) for item in value)
    ):
        raise TypeError("a mapping's key that is not a plain value")
    return value


def _filled(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for place in range(0, len(values), 2):
        target[_key(values[place])] = values[place + 1]
    return target


_OPCODES: Final[dict[int, Callable[[_Machine, int], None]]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.constant),
    **dict.fromkeys(_SIZED, _Machine.sized),
    **dict.fromkeys(_INT_OPS, _Machine.small_int),
    **dict.fromkeys(b"ILF", _Machine.text_number),
    **dict.fromkeys(b"VS", _Machine.text_string),
    **dict.fromkeys((0x80, 0x95), _Machine.header),  # PROTO, FRAME
    **dict.fromkeys(b"01", _Machine.discard),
    **dict.fromkeys((*b"t", 0x85, 0x86, 0x87), _Machine.make_tuple),
    **dict.fromkeys((*b"ld", 0x91), _Machine.make_from_mark),
    **dict.fromkeys((*b"ae", 0x90), _Machine.extend),
    **dict.fromkeys(b"su", _Machine.set_items),
    **dict.fromkeys((*b"pqr", 0x94), _Machine.remember),
    **dict.fromkeys(b"ghj", _Machine.recall),
    **dict.fromkeys((*b"c", 0x93), _Machine.name),
    **dict.fromkeys((*b"R", 0x81, 0x92), _Machine.call),
    **dict.fromkeys(b"PQ", _Machine.persistent_id),
    ord("("): _Machine.mark,
    ord("2"): _Machine.duplicate,
    ord("G"): _Machine.binary_float,
    ord("b"): _Machine.build,
}
