"""Addresses of pictures and streams, against a server of this machine; parts of films; films with broken frames."""

from __future__ import annotations

import http.server
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.images import pixels
from flexdetr.runtime import streams
from flexdetr.runtime.addresses import Address, AddressError, fetch, is_address, shown
from flexdetr.runtime.films import Part
from flexdetr.runtime.sources import Picture, Unreadable, expects_many, find, is_live, read


def jpeg(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (grey,) * 3).save(file, "JPEG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Pictures, a film, and a stream that breaks after some frames, and is there again some times."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if place == "/stream":
            self.server.asked += 1
            if self.server.asked > self.server.times:
                self.send_error(503)
                return
            self._head("multipart/x-mixed-replace; boundary=f")
            for number in range(6):
                body = jpeg(20 * number)
                lead = f"--f\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(lead.encode() + body + b"\r\n")
        elif place == "/away":
            self.send_response(302)
            self.send_header("location", "ftp://127.0.0.1/a.jpg")
            self.end_headers()
        elif place == "/slow":
            self._head("image/jpeg")
            while not self.server.stopped.wait(0.02):
                try:
                    self.wfile.write(b"x" * 2000)
                except OSError:
                    return
        elif place == "/private" and self.headers.get("authorization") != "Basic YW5uYTpzJGNyZXQ=":
            self.send_error(401)
        elif place in self.server.files or place == "/private":
            body = self.server.files["/a.jpg" if place == "/private" else place]
            self._head("application/octet-stream", len(body))
            self.wfile.write(body)
        else:
            self.send_error(404)

    def _head(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        if length is not None:
            self.send_header("content-length", str(length))
        self.end_headers()


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.daemon_threads = True
    one.files = {"/a.jpg": jpeg(90)}
    one.asked, one.times, one.stopped = 0, 0, threading.Event()
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    one.url = f"http://127.0.0.1:{one.server_port}"
    yield one
    one.stopped.set()
    one.shutdown()
    one.server_close()


def film(path: Path, codec: str = "mp4v", count: int = 20, noise: bool = False) -> Path:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10.0, (64, 48))
    generator = np.random.default_rng(0)
    for number in range(count):
        frame = generator.integers(0, 255, (48, 64, 3)) if noise else np.full((48, 64, 3), 10 * number)
        writer.write(frame.astype(np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("http://a/b.jpg", True),
        ("RTSP://cam/1", True),
        ("c:/a.jpg", False),
        ("ftp://a/b", False),
        ("http://", False),
    ],
)
def test_what_is_an_address(text: str, is_one: bool) -> None:
    assert is_address(text) is is_one


def test_passwords_are_not_shown() -> None:
    assert shown("rtsp://anna:s3cret@cam:554/1?x=2") == "rtsp://anna:***@cam:554/1?x=2"
    (item,) = find("rtsp://anna:s3cret@cam/1")
    assert item.name == "rtsp://anna:***@cam/1"
    assert is_live(item)
    assert expects_many(item)


def test_a_picture_is_fetched(server: SimpleNamespace) -> None:
    (answer,) = read(find(f"{server.url}/a.jpg?size=2"), pixels)
    assert isinstance(answer, Picture)
    assert answer.name == f"{server.url}/a.jpg?size=2"
    assert answer.image.shape == (48, 64, 3)
    assert answer.frame is None


def test_a_picture_behind_a_password(server: SimpleNamespace) -> None:
    host = server.url.removeprefix("http://")
    (answer,) = read(find(f"http://anna:s%24cret@{host}/private"), pixels)
    assert isinstance(answer, Picture)
    (refused,) = read(find(f"{server.url}/private"), pixels)
    assert isinstance(refused, Unreadable)
    assert "401" in refused.reason


@pytest.mark.parametrize(
    ("place", "reason"), [("/gone.jpg", "answered 404"), ("/away", "unknown url type: ftp")]
)
def test_an_address_without_a_picture(server: SimpleNamespace, place: str, reason: str) -> None:
    (answer,) = read(find(server.url + place), pixels)
    assert isinstance(answer, Unreadable)
    assert reason in answer.reason
    assert answer.reason.startswith(server.url)


def test_a_server_that_is_not_there(server: SimpleNamespace) -> None:
    server.shutdown()
    server.server_close()
    (answer,) = read(find(f"{server.url}/a.jpg"), pixels)
    assert isinstance(answer, Unreadable)
    assert "cannot be reached" in answer.reason
    server.serve_forever = lambda: None


def test_limits_on_size_and_time(server: SimpleNamespace) -> None:
    with pytest.raises(AddressError, match="at most 100 are fetched"):
        fetch(Address(f"{server.url}/a.jpg"), max_bytes=100)
    with pytest.raises(AddressError, match="more than 5,000 bytes"):
        fetch(Address(f"{server.url}/slow"), max_bytes=5000)
    with pytest.raises(AddressError, match=r"took more than 0\.2 seconds"):
        fetch(Address(f"{server.url}/slow"), seconds=0.2)


def test_frames_of_an_animation_have_times(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (40 * number,) * 3) for number in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    answers = list(read(find(tmp_path / "a.gif", part=Part(start=0.2, end=0.8)), pixels))
    assert [(one.frame, one.seconds) for one in answers] == [(1, 0.2), (2, 0.4), (3, 0.6)]


def test_an_animation_and_a_film_by_address(server: SimpleNamespace, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (40 * number,) * 3) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    server.files |= {"/a.gif": (tmp_path / "a.gif").read_bytes(), "/f": film(tmp_path / "f.mp4").read_bytes()}
    assert [one.frame for one in read(find(f"{server.url}/a.gif"), pixels)] == [0, 1, 2]
    answers = list(read(find(f"{server.url}/f", part=Part(every=5)), pixels))
    assert [(one.frame, one.seconds, one.rate) for one in answers] == [
        (number, number / 10, 2.0) for number in (0, 5, 10, 15)
    ]


def test_a_part_of_a_film(tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4")
    answers = list(read(find(path, part=Part(every=3, start=0.5, end=1.3)), pixels))
    assert [one.name for one in answers] == [f"{path}#{number:06d}" for number in (6, 9, 12)]
    assert [round(float(one.image.mean()), -1) for one in answers] == [60, 90, 120]


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"start": -1}, {"start": float("nan")}, {"start": 2, "end": 2}, {"reconnect": -1}]
)
def test_parts_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{[*wrong][-1]} is"):
        Part(**wrong)  # type: ignore[arg-type]


def test_a_broken_frame_does_not_end_a_film(tmp_path: Path) -> None:
    path = film(tmp_path / "f.avi", "MJPG", noise=True)
    content = bytearray(path.read_bytes())
    place = [match.start() for match in re.finditer(b"\xff\xd8\xff", content)][7]
    content[place : place + 800] = bytes(800)
    path.write_bytes(content)
    answers = list(read(find(path), pixels))
    bad = [one for one in answers if isinstance(one, Unreadable)]
    assert [one.name for one in bad] == [f"{path}#000007"]
    assert "the frame is broken" in bad[0].reason
    assert [one.frame for one in answers if isinstance(one, Picture)] == [*range(7), *range(8, 20)]


def test_a_film_that_was_cut_off(tmp_path: Path) -> None:
    path = film(tmp_path / "f.avi", "MJPG", noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *good, bad = read(find(path), pixels)
    assert all(isinstance(one, Picture) for one in good)
    assert isinstance(bad, Unreadable)
    assert re.search(r"says that it has 20 frames, and ends after \d+: the rest is missing", bad.reason)


def test_a_stream_that_breaks_is_opened_again_and_given_up_in_the_end(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.001)
    server.times = 4  # asked twice what it is, opened, and opened again; then it is gone
    *good, bad = read(find(f"{server.url}/stream", part=Part(reconnect=2)), pixels)
    assert [one.frame for one in good] == [*range(12)]
    assert good[6].seconds >= good[5].seconds
    assert isinstance(bad, Unreadable)
    assert "broke after 12 frames, and did not come back: tried 2 times" in bad.reason
    assert "broke after 6 frames; try 1 of 2" in caplog.text


def test_a_stream_ends_where_it_is_told_to(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.05)
    server.times = 1000
    answers = list(read(find(f"{server.url}/stream", part=Part(every=2, end=0.4)), pixels))
    assert all(isinstance(one, Picture) for one in answers)
    assert all(one.frame % 2 == 0 and one.seconds < 0.4 for one in answers)
    assert server.asked >= 2


def test_a_stream_that_is_not_there() -> None:
    pytest.importorskip("cv2")
    (answer,) = read(find("rtsp://127.0.0.1:1/x", part=Part(reconnect=0)), pixels)
    assert isinstance(answer, Unreadable)
    assert "gives no picture" in answer.reason
