"""Detectors shared on the hub, and taken from there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexdetr
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any


def test_what_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def missing(*_: Any, **__: Any) -> str:
        raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(WeightsError, match="hf://someone/nothing does not exist, or is private"):
        load_any("hf://someone/nothing")


def test_push_and_load_again(
    dialects: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    remote = tmp_path / "remote"
    calls: list[Any] = []

    class Api:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
            calls.append((repository, private, exist_ok))
            return f"https://hub/{repository}"

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            calls.append((repo_id, commit_message))
            Path(folder_path).rename(remote)
            Path(folder_path).mkdir()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = dialects.make_model()
    metadata = store.Metadata(
        model="custom",
        config=dialects.small.model_dump(mode="json"),
        classes=[{"id": index + 1, "name": name} for index, name in enumerate("abcde")],
        licence="Apache-2.0",
        provenance=[{"source": "PaddleDetection RT-DETR", "licence": "Apache-2.0"}],
    )
    detector = flexdetr.load(store.save(tmp_path / "cells.safetensors", model.state_dict(), metadata))
    address = detector.push_to_hub("hf://me/cells", private=True)
    assert address == "https://hub/me/cells"
    assert calls == [("me/cells", True, True), ("me/cells", "Add a FlexDETR detector")]
    card = (remote / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "PaddleDetection RT-DETR (Apache-2.0)" in card
    assert 'flexdetr.load("hf://me/cells")' in card

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repository, revision) == ("me/cells", "v1")
        assert not any("bin" in pattern or "pt" in pattern for pattern in allow_patterns)
        return str(remote)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    again = flexdetr.load("hf://me/cells@v1")
    assert again.classes.ids == (1, 2, 3, 4, 5)
    found = again.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
