from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from described import described
from flexdetr.runtime import artifact
from flexdetr.runtime.artifact import (
    METADATA,
    ArtifactError,
    _seal,
    is_artifact,
    open_artifact,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact whose files are no models: opening it reads only its description."""
    folder = tmp_path / "cells-openvino"
    folder.mkdir()
    (folder / "model.xml").write_bytes(b"<net/>")
    (folder / "model.bin").write_bytes(bytes(range(256)) * 40)
    described(folder, ["model.xml", "model.bin"], size=(64, 96), top=300, classes={1: "RBC", 3: "WBC"})
    return folder


def change(folder: Path, **values: Any) -> None:
    document = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps({**document, **values}))


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_artifact(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_opens_by_folder_and_by_any_of_its_files(folder: Path) -> None:
    for path in (folder, folder / METADATA, folder / "model.xml", folder / "model.bin"):
        artifact = open_artifact(path)
        assert artifact.path == folder
        assert artifact.model_file == folder / "model.xml"
        assert artifact.classes.names == ("RBC", "WBC")
        assert artifact.classes.ids == (1, 3)
        assert artifact.parity is None
        assert is_artifact(path)


def test_tells_artifacts_from_checkpoints(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "best.safetensors", tmp_path, tmp_path / "model.pth", tmp_path / "none"):
        assert not is_artifact(path)
    assert is_artifact(tmp_path / "moved.onnx")


def test_refuses_what_is_no_artifact(folder: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    assert "holds no metadata.json" in refused(tmp_path)
    lonely = tmp_path / "model.onnx"
    lonely.write_bytes(b"x")
    assert "model.onnx alone is not enough" in refused(lonely)
    stranger = folder / "other.xml"
    stranger.write_bytes(b"x")
    assert "other.xml is not part of the artifact" in refused(stranger)


@pytest.mark.parametrize("place", [0, 5000, 10239])
def test_refuses_a_changed_byte(folder: Path, place: int) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[place] ^= 1
    (folder / "model.bin").write_bytes(content)
    message = refused(folder)
    assert "model.bin is not what was exported" in message
    assert "sha256" in message
    open_artifact(folder, verify=False)


def test_refuses_a_file_copied_in_part_even_unverified(folder: Path) -> None:
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="copied in part"):
        open_artifact(folder, verify=False)


def test_refuses_a_missing_file(folder: Path) -> None:
    (folder / "model.bin").unlink()
    assert "model.bin is missing" in refused(folder)


def test_reads_the_version_before(folder: Path) -> None:
    """It names no precisions: nothing but float32 was proven."""
    document = json.loads((folder / METADATA).read_text())
    old = {key: value for key, value in document.items() if key not in ("precisions", "reference")}
    old["format_version"] = 1
    old["seal"] = _seal(old)
    (folder / METADATA).write_text(json.dumps(old))
    metadata = open_artifact(folder).metadata
    assert metadata.format_version == 1
    assert metadata.precisions == {}
    assert metadata.reference is None
    change(folder, precisions={"bf16": {"passed": True}})
    assert "was changed after the export" in refused(folder) or "precisions" in refused(folder)


@pytest.mark.parametrize(("version", "advice"), [(3, "update flexdetr"), (0, "export again")])
def test_refuses_another_version(folder: Path, version: int, advice: str) -> None:
    change(folder, format_version=version)
    message = refused(folder)
    assert f"format version {version}" in message
    assert advice in message


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"format_version": true}', '{"format_version": 1}', "\x00\x01"]
)
def test_refuses_damaged_descriptions(folder: Path, text: str) -> None:
    (folder / METADATA).write_text(text)
    assert METADATA in refused(folder)


def test_refuses_a_link_to_a_device(folder: Path) -> None:
    """Its size is 0, and its content has no end."""
    document = json.loads((folder / METADATA).read_text())
    document["files"]["model.bin"] = {"bytes": 0, "sha256": "0" * 64}
    change(folder, files=document["files"], seal=artifact._seal(document))
    (folder / "model.bin").unlink()
    (folder / "model.bin").symlink_to("/dev/zero")
    assert "is not a file" in refused(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..\\x", ""])
def test_files_stay_inside_the_folder(folder: Path, name: str) -> None:
    document = json.loads((folder / METADATA).read_text())
    change(folder, files={name: document["files"]["model.xml"]})
    assert "plain name" in refused(folder)


def test_classes_cannot_be_edited_but_thresholds_can(folder: Path) -> None:
    change(folder, thresholds={"RBC": 0.6, "default": 0.3})
    assert open_artifact(folder).metadata.thresholds == {"RBC": 0.6, "default": 0.3}
    change(folder, classes=[{"id": 3, "name": "WBC"}, {"id": 1, "name": "RBC"}])
    assert "was changed after the export" in refused(folder)


def test_refuses_classes_that_occur_twice(folder: Path) -> None:
    change(folder, classes=[{"id": 1, "name": "RBC"}, {"id": 1, "name": "WBC"}])
    assert "occurs more than once" in refused(folder)
