"""Our own format: what goes in comes out, and whatever is no such file gets one clear sentence."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flexdetr import files
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError, sniff
from flexdetr.weights.header import deferred_tensors, read_header


def example() -> store.Metadata:
    return store.Metadata(
        model="flexdetr_nano",
        config={"model": "flexdetr_nano", "image_size": [384, 640]},
        classes=[{"id": 1, "name": "red cell"}, {"id": 7, "name": "Grün"}],
        image_size=(384, 640),
        norm_eps={"": 1e-3},
        training={"epochs": 3, "ap": 0.5},
        licence="Apache-2.0",
        provenance=[{"source": "somewhere", "sha256": "00"}],
        thresholds={"default": 0.4},
    )


def test_round_trip(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "a": shared,
        "b": shared,
        "c": shared.T,
        "n": torch.tensor(3),
        "h": torch.ones(2, dtype=torch.float16),
    }
    path = store.save(tmp_path / "new" / "x.safetensors", state, example())
    loaded, metadata = store.load(path)
    assert metadata == example() == store.read_metadata(path)
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert [item.name for item in path.parent.iterdir()] == ["x.safetensors"]


def test_unknown_fields_survive_a_round_trip(tmp_path: Path) -> None:
    text = json.dumps({"format_version": 9, "model": "m", "colour_of_the_box": {"deep": [1, 2]}})
    save_file({"a": torch.ones(1)}, tmp_path / "new.safetensors", metadata={"flexdetr": text})
    state, metadata = store.load(tmp_path / "new.safetensors")
    assert (metadata.format_version, metadata.extra) == (9, {"colour_of_the_box": {"deep": [1, 2]}})
    store.save(tmp_path / "again.safetensors", state, metadata)
    assert store.read_metadata(tmp_path / "again.safetensors") == metadata


def test_metadata_is_read_without_torch(tmp_path: Path) -> None:
    path = store.save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, example())
    code = (
        "import sys; from flexdetr.weights.store import read_metadata; m = read_metadata(sys.argv[1]);"
        "assert m.model == 'flexdetr_nano'; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_failed_save_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, example())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="No space left"):
        store.save(path, {"a": torch.zeros(1)}, example())
    monkeypatch.undo()
    assert store.load(path)[0]["a"].item() == 1
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


def test_on_windows_a_file_that_is_looked_at_is_replaced_when_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, example())
    replace, tries = Path.replace, []

    def held_for_a_moment(self: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError(13, "The process cannot access the file")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held_for_a_moment)
    monkeypatch.setattr(files.time, "sleep", lambda _seconds: None)
    with pytest.raises(WeightsError, match="cannot access"):  # elsewhere it means what it says
        store.save(path, {"a": torch.zeros(1)}, example())
    tries.clear()
    monkeypatch.setattr(files.sys, "platform", "win32")
    store.save(path, {"a": torch.zeros(1)}, example())
    assert store.load(path)[0]["a"].item() == 0
    assert tries == [path] * 3


def test_truncation_anywhere_is_one_sentence(tmp_path: Path) -> None:
    path = store.save(tmp_path / "x.safetensors", {"a": torch.ones(50), "b": torch.ones(3)}, example())
    whole, cut = path.read_bytes(), tmp_path / "cut.safetensors"
    for size in [*range(40), *range(40, len(whole), 37), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(WeightsError) as caught:
            store.load(cut)
        assert str(cut) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n  <html><body>Not found", "web page"),
        (b'{"error": "Repository not found"}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"just some words in a file", "not a checkpoint"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header claims"),
        ((2).to_bytes(8, "little") + b"{]", "not JSON"),
    ],
)
def test_what_foreign_files_are_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        store.load(path)


def test_a_foreign_safetensors_file_is_named_as_such(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="another program"):
        store.read_metadata(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        sniff(tmp_path / "missing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ["cat"]}, "classes must be a list of mappings"),
        ({"provenance": [3]}, "provenance must be a list of mappings"),
        ({"thresholds": {"cat": "high"}}, "thresholds must be a mapping of numbers"),
        ({"norm_eps": {"": True}}, "norm_eps must be a mapping of numbers"),
    ],
)
def test_metadata_of_another_form_is_refused(tmp_path: Path, values: dict, message: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"flexdetr": json.dumps(values)})
    with pytest.raises(WeightsError, match=message):
        store.read_metadata(tmp_path / "x.safetensors")


def test_texts_that_are_half_of_a_character_survive(tmp_path: Path) -> None:
    metadata = store.Metadata(licence="odd \ud83d")
    store.save(tmp_path / "x.safetensors", {"a": torch.ones(1)}, metadata)
    assert store.read_metadata(tmp_path / "x.safetensors").licence == metadata.licence


def test_devices_and_pipes_are_no_checkpoints(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(WeightsError, match="is a device or a pipe"):
            sniff(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=12,
)
_ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "I64", "X9"]) | _JSON,
            "shape": st.lists(st.integers(-1, 3), max_size=3) | _JSON,
            "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | _JSON,
        }
    )
    | st.dictionaries(st.sampled_from(["flexdetr", "format"]), st.text(max_size=20))
    | _JSON,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=_ENTRIES,
    tail=st.binary(max_size=64),
    flip=st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
def test_fuzzed_headers_raise_nothing_else(
    tmp_path: Path, entries: dict, tail: bytes, flip: tuple | None
) -> None:
    header = json.dumps(entries).encode()
    content = bytearray(len(header).to_bytes(8, "little") + header + tail)
    if flip is not None:
        content[flip[0] : flip[0] + 1] = flip[1]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        store.load(path)
    with contextlib.suppress(WeightsError):
        deferred_tensors(path, read_header(path))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=_JSON | st.dictionaries(st.sampled_from([*store.Metadata.__dataclass_fields__]), _JSON))
def test_fuzzed_metadata_raises_nothing_else(tmp_path: Path, content: object) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"flexdetr": json.dumps(content)})
    with contextlib.suppress(WeightsError):
        store.read_metadata(tmp_path / "x.safetensors")
