"""Nothing in a pickle ever runs: crafted files are refused by name, damaged ones in one sentence."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexdetr.weights.container import WeightsError, sniff
from flexdetr.weights.loading import load_any
from flexdetr.weights.pickled import read_pickled
from flexdetr.weights.pickled_arrays import as_tensor
from flexdetr.weights.unpickle import Allowed, Global, UnsafePickleError, unpickle


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def attacks(mark: Path) -> list[tuple[str, Attack]]:
    command = f"touch {mark}"
    return [
        ("system", Attack(os.system, command)),
        ("eval", Attack(eval, f"__import__('os').system('{command}')")),
        ("exec", Attack(exec, f"open({str(mark)!r}, 'w')")),
        ("getattr", Attack(getattr, "text", "upper")),
        ("__import__", Attack(__import__, "os")),
        ("_unpickle", Attack(pickle.loads, pickle.dumps(Attack(os.system, command)))),
        ("load", Attack(torch.load, str(mark))),
    ]


NAMES = [name for name, _ in attacks(Path("x"))]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pdparams"])
@pytest.mark.parametrize("which", NAMES)
def test_malicious_files_are_refused_and_nothing_runs(tmp_path: Path, suffix: str, which: str) -> None:
    mark, file = tmp_path / "ran", tmp_path / f"model{suffix}"
    attack = dict(attacks(mark))[which]
    value = np.ones(1, np.float32) if suffix == ".pdparams" else torch.ones(1)
    good = {"backbone.conv1.conv1_1.conv.weight": value}
    for content in (attack, {"model": attack}, {**good, "evil": attack}, [good, attack]):
        if suffix == ".pdparams":
            file.write_bytes(pickle.dumps(content, protocol=4))
        else:
            torch.save(content, file)
        with pytest.raises(WeightsError, match=r"refused, nothing was run|damaged") as caught:
            load_any(file)
        assert "\n" not in str(caught.value)
        assert not mark.exists()
    if which in ("system", "eval", "exec"):
        assert isinstance(caught.value, UnsafePickleError)
        assert which in str(caught.value)


def test_the_legacy_torch_format_is_refused_too(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "model.pth"
    torch.save(
        {"a": torch.ones(2), "b": Attack(os.system, f"touch {mark}")},
        file,
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(UnsafePickleError, match=r"posix\.system|os\.system"):
        load_any(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",  # GLOBAL and REDUCE
        b"(S'touch ran'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch ran'\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x03ran\x85R.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x08builtins\x8c\x13object.__subclasses__\x93)R.",  # a path through attributes
        b"ccollections\nOrderedDict\n)R(dX\x05\x00\x00\x00__classq\x00Nu0ccollections\nOrderedDict\nN}b.",
        b"\x80\x02ccopy_reg\n_reconstructor\n.",
    ],
)
def test_other_ways_to_name_something_are_refused(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.pdparams"
    file.write_bytes(raw if raw[:1] == b"\x80" else b"\x80\x02" + raw)
    with pytest.raises(WeightsError) as caught:
        load_any(file)
    assert "\n" not in str(caught.value)


def test_state_cannot_change_names_or_functions() -> None:
    """BUILD on a name: Python's own machine would set attributes of the class."""
    raw = b"\x80\x02ccollections\nOrderedDict\n}X\x03\x00\x00\x00popNsb."
    allowed = Allowed(calls={Global("collections", "OrderedDict"): dict})
    with pytest.raises(WeightsError):
        unpickle(raw, allowed)
    assert callable(collections.OrderedDict.pop)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(protocol: int) -> None:
    data = {
        "text": "Grüße \ud800", "bytes": b"\x00\xff" * 9, "nothing": None, "yes": True, "no": False,
        "numbers": [0, 1, -1, 255, 65536, 1 << 40, -(1 << 70), 1.5, -0.0],
        "nested": ({"a": ()}, [[]], (1, (2, (3, (4, 5))))), "long": "x" * 300,
    }  # fmt: skip
    data["again"] = data["nested"]
    raw = pickle.dumps(data, protocol=protocol)
    allowed = Allowed(calls={Global("_codecs", "encode"): lambda text, _="latin1": text.encode("latin-1")})
    assert unpickle(raw, allowed) == (data, len(raw))
    assert unpickle(b"xx" + raw + b"yy", allowed, 2) == (data, len(raw) + 2)


def test_torch_files_read_as_torch_reads_them(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = collections.OrderedDict(
        view=base[1:3, ::2], turned=base.T, scalar=torch.tensor(3), half=base.half(), bf=base.bfloat16(),
        empty=torch.empty(0, 3), flags=torch.tensor([True, False]), parameter=torch.nn.Parameter(base),
        integers=torch.arange(5, dtype=torch.int32),
    )  # fmt: skip
    content["nested"] = {"epoch": 7, "size": base.shape, "device": torch.device("cpu"), "type": torch.float16}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        file = tmp_path / "x.pth"
        torch.save(content, file, **options)
        read = read_pickled(file, sniff(file))
        assert read["nested"]["epoch"] == 7
        for name, tensor in content.items():
            if name != "nested":
                found = as_tensor(read[name])
                assert found is not None
                assert (found.shape, found.dtype) == (
                    tuple(tensor.shape),
                    str(tensor.dtype).removeprefix("torch."),
                )
                assert torch.equal(found.read(), tensor.detach())
                assert found.read().is_contiguous()


def test_paddle_files_of_every_age(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.array(5, np.int64), "d": np.zeros((0, 4), np.float32), "big": np.arange(2000, dtype=np.float32),
    }  # fmt: skip
    file = tmp_path / "x.pdparams"
    for protocol in (2, 3, 4, 5):
        raw = pickle.dumps({**arrays, "named": ("parameter_0.w_0", arrays["a"])}, protocol=protocol)
        # numpy 1 spelt its module without the underscore; only old protocols store the name without its length.
        for spelt in (
            (raw, raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
            if protocol < 4
            else (raw,)
        ):
            file.write_bytes(spelt)
            read = read_pickled(file, "pickle")
            for name, array in {**arrays, "named": arrays["a"]}.items():
                found = as_tensor(read[name])
                assert found is not None
                assert torch.equal(
                    found.read(), torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
                )


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("good") / "x.pth"
    torch.save(
        {"ema": {"module": {"backbone.a": torch.ones(300), "encoder.b": torch.zeros(2, 2)}}, "epoch": 3}, file
    )
    return file.read_bytes()


def test_truncated_torch_files_are_told_so(good_file: bytes, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pth"
    for size in range(1, len(good_file), 61):
        cut.write_bytes(good_file[:size])
        with pytest.raises(WeightsError) as caught:
            load_any(cut)
        assert "\n" not in str(caught.value)
        assert "cut.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"x/constants.pkl": b"", "x/code/model.py": b""}, "TorchScript"),
        ({"a.npy": b"", "b.npy": b""}, "numpy archive"),
        ({"word/document.xml": b""}, "not one that torch.save wrote"),
        ({"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"big"}, "big-endian"),
    ],
)
def test_other_zip_archives(tmp_path: Path, records: dict[str, bytes], said: str) -> None:
    file = tmp_path / "x.pth"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises(WeightsError, match=said):
        load_any(file)


@pytest.mark.parametrize("kind", ["FancyStorage", "ComplexFloatStorage"])
def test_storages_of_other_types_are_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.pth"
    torch.save({"a": torch.ones(3)}, file)
    raw = file.read_bytes()
    broken = raw.replace(b"FloatStorage", kind[:12].encode().ljust(12, b"X"))
    file.write_bytes(broken)
    with pytest.raises(WeightsError):
        load_any(file)


def test_views_outside_of_their_storage_are_refused(tmp_path: Path) -> None:
    typed = torch.storage.TypedStorage(
        wrap_storage=torch.ones(3).untyped_storage(), dtype=torch.float32, _internal=True
    )

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (typed, 0, (9, 9), (9, 1), False, {})

    file = tmp_path / "x.pth"
    torch.save({"a": Tensor()}, file)
    with pytest.raises(WeightsError, match="does not lie within its storage"):
        load_any(file)


QUIET = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(raw=st.binary(max_size=200))
def test_random_pickles_raise_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(WeightsError):
        unpickle(b"\x80\x02" + raw, Allowed())


OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]


@QUIET
@given(
    parts=st.lists(
        st.sampled_from(OPCODES) | st.binary(max_size=4) | st.just(b"c__builtin__\nset\n") | st.just(b"cnumpy\ndtype\n")
        | st.just(b"ctorch._utils\n_rebuild_tensor_v2\n") | st.just(b"(tR"), max_size=30
    )
)  # fmt: skip
def test_random_opcodes_raise_nothing_else(parts: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "x.pdparams"
    file.write_bytes(b"\x80\x02" + b"".join(parts) + b".")
    with contextlib.suppress(WeightsError):
        load_any(file)


@QUIET
@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_of_a_torch_file_raise_nothing_else(
    good_file: bytes, changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    raw = bytearray(good_file)
    for place, value in changes:
        raw[place % len(raw)] = value
    file = tmp_path / "x.pth"
    file.write_bytes(raw)
    with contextlib.suppress(WeightsError):
        for tensor in load_any(file).tensors.values():
            tensor.read()


def test_no_reader_of_pickles_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither pickle nor torch.load takes part in loading."""
    file = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.ones(2)}}, file)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an unpickler was called")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    with pytest.raises(WeightsError, match="not a detector or backbone"):
        load_any(file)
