"""Fetching, from a server on this machine: resumed, checked, cached, and clear when there is no network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import flexdetr
from flexdetr.classes import Classes
from flexdetr.engine.checkpoint import start
from flexdetr.presets import PRESETS
from flexdetr.weights import hub, store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any
from flexdetr.weights.manifest import PUBLISHED, Published


class Server(ThreadingHTTPServer):
    """Serves ``files``; breaks an answer off after ``limit`` bytes."""

    files: dict[str, bytes]
    limit: int | None
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        limit = self.server.limit
        self.wfile.write(content[begin:] if limit is None else content[begin : begin + limit])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.files, running.limit, running.asked = {}, None, []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEXDETR_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def content(dialects: SimpleNamespace, tmp_path: Path) -> bytes:
    """A real checkpoint of one of our own presets' kind."""
    torch.save(
        {"ema": {"module": dialects.lyuwenyu(dict(dialects.make_model().state_dict()))}}, tmp_path / "a.pth"
    )
    return (tmp_path / "a.pth").read_bytes()


def entry(server: Server, **changes: Any) -> Published:
    address = f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    return Published(**{"name": "rtdetr_r18", "file": "model.pth", "url": address, **changes})


def test_a_broken_download_goes_on(
    server: Server, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/model.pth"] = content
    published = entry(server, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(hub, "PUBLISHED", {"rtdetr_r18": published})
    server.limit = 70_000
    with pytest.raises(WeightsError, match=f"place it at {cache / 'model.pth'}"):
        hub.fetch("rtdetr_r18")
    assert (cache / "model.pth.part").stat().st_size == 70_000
    server.limit = None
    path = hub.fetch("rtdetr_r18")
    assert path == cache / "model.pth"
    assert path.read_bytes() == content
    assert server.asked == [None, "bytes=70000-"]
    assert not (cache / "model.pth.part").exists()
    assert load_any(path).kind == "lyuwenyu"
    server.files.clear()
    assert hub.fetch("rtdetr_r18") == path  # from the cache
    assert len(server.asked) == 2


def test_a_whole_part_file_is_taken(server: Server, content: bytes, cache: Path) -> None:
    server.files["/model.pth"] = content
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(content)
    assert hub.download(entry(server).url, cache / "model.pth").read_bytes() == content


def test_what_is_not_the_published_file(server: Server, content: bytes, cache: Path) -> None:
    place = cache / "model.pth"
    server.files["/model.pth"] = content
    with pytest.raises(WeightsError, match=f"its sha256 is {hashlib.sha256(content).hexdigest()}"):
        hub.download(entry(server).url, place, sha256="0" * 64)
    server.files["/model.pth"] = b"<!DOCTYPE html><html>Rate limited</html>"
    with pytest.raises(WeightsError, match="web page"):
        hub.download(entry(server).url, place)
    with pytest.raises(WeightsError, match="answered 404"):
        hub.download(entry(server).url + "x", place)
    with pytest.raises(WeightsError, match="no http or https address"):
        hub.download("file:///etc/hostname", place)
    assert not any(path.is_file() for path in cache.iterdir())


def test_of_several_that_want_a_file_one_fetches_it(server: Server, content: bytes, cache: Path) -> None:
    """Two that appended to one part file made a file of neither."""
    server.files["/model.pth"] = content
    begin = threading.Barrier(4)

    def fetch(_number: int) -> bytes:
        begin.wait()
        return hub.download(entry(server).url, cache / "model.pth").read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(4))) == [content] * 4
    assert server.asked == [None]


def test_who_waits_for_another_says_so(
    server: Server, content: bytes, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/model.pth"] = content
    place = cache / "model.pth"
    with ThreadPoolExecutor(1) as pool:
        with hub._alone(place):
            later = pool.submit(hub.download, entry(server).url, place)
            while "another process fetches model.pth" not in caplog.text:
                assert not later.done()
                threading.Event().wait(0.01)
            assert server.asked == []
        assert later.result().read_bytes() == content


def test_offline_names_the_file_and_its_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = Published("rtdetr_r18", "model.pth", "http://127.0.0.1:9/model.pth")
    monkeypatch.setattr(hub, "PUBLISHED", {"rtdetr_r18": published})
    with pytest.raises(WeightsError) as caught:
        hub.fetch("rtdetr_r18")
    message = str(caught.value)
    assert "http://127.0.0.1:9/model.pth cannot be reached" in message
    assert f"place it at {cache / 'model.pth'}" in message
    assert "\n" not in message


def test_files_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    asked = []

    def offline(repository: str, file: str, *, revision: str) -> str:
        asked.append((repository, file, revision))
        raise LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    place = cache / "timm--hgnetv2_b0.ssld_stage2_ft_in1k.safetensors"
    with pytest.raises(WeightsError, match=r"cannot be reached \(no connection\).*place it at") as caught:
        hub.fetch("hgnetv2_b0")
    assert str(place) in str(caught.value)
    assert asked == [("timm/hgnetv2_b0.ssld_stage2_ft_in1k", "model.safetensors", "main")]
    with pytest.raises(WeightsError, match="timm--resnet18d"):
        hub.fetch("timm/resnet18d")
    cache.mkdir(exist_ok=True)
    place.write_bytes(b"placed by hand")
    assert hub.fetch("hgnetv2_b0") == place

    def missing(*_: Any, **__: Any) -> str:
        raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(WeightsError, match="hf://someone/nothing does not exist, or is private"):
        load_any("hf://someone/nothing")


def test_what_is_not_published(cache: Path) -> None:
    with pytest.raises(WeightsError, match="no weights are published for flexdetr_nano"):
        hub.fetch("flexdetr_nano")
    assert not cache.exists()


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


def test_the_manifest() -> None:
    from flexdetr.model.backbones import BACKBONES

    for name, row in PUBLISHED.items():
        assert name in PRESETS or name in BACKBONES
        assert bool(row.url) != bool(row.hub)
        assert row.url.startswith(("https://", ""))
        assert row.source
        assert row.licence
        assert (row.ap is not None) == (name in PRESETS)
        assert row.sha256 is None or len(row.sha256) == 64
    assert {name for name in PUBLISHED if name in PRESETS} == {
        *(f"rtdetr_{size}" for size in ("r18", "r34", "r50m", "r50", "r101")),
        *(f"rtdetr_hgnetv2_{size}" for size in ("l", "x", "h")),
        *(f"rtdetrv2_{size}" for size in ("s", "m", "ml", "l", "x")),
    }
    assert len({row.file for row in PUBLISHED.values() if row.url}) == sum(
        bool(row.url) for row in PUBLISHED.values()
    )


def test_fetched_weights_bring_their_licence_and_their_ancestors(
    server: Server, dialects: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """lyuwenyu's file -> a detector of other classes -> our file -> another detector: both ancestors are told."""
    names = dialects.lyuwenyu(dict(dialects.make_model(num_classes=80).state_dict()))
    torch.save({"ema": {"module": names}}, tmp_path / "a.pth")
    server.files["/model.pth"] = raw = (tmp_path / "a.pth").read_bytes()
    published = entry(server, name="custom")
    monkeypatch.setattr(hub, "PUBLISHED", {"custom": published})
    first = start(dialects.small.model_copy(update={"weights": "coco"}), Classes.of(["dog", "unicorn"]))
    file = store.save(tmp_path / "mine.safetensors", first.model.state_dict(), first.metadata)
    config = dialects.small.model_copy(update={"weights": str(file)})
    second = start(config, Classes.of(["unicorn"])).metadata
    assert first.metadata.licence == second.licence == "Apache-2.0"
    ours, theirs = second.provenance
    assert theirs["source"].startswith("RT-DETRv2 (lyuwenyu)")
    assert (theirs["file"], theirs["address"], theirs["branch"]) == ("model.pth", published.url, "EMA")
    assert theirs["sha256"] == hashlib.sha256(raw).hexdigest()
    assert (ours["source"], ours["file"]) == ("FlexDETR custom", "mine.safetensors")
    assert ours["sha256"] == hub.digest(file)
    assert theirs["licence"] == ours["licence"] == "Apache-2.0"
