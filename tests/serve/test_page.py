"""The page in a real browser: a picture in, boxes out, fewer with a higher threshold, and errors in words."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in _NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

uvicorn = pytest.importorskip(
    "uvicorn", reason="the serve extra is not installed: pip install 'flexdetr[serve]'"
)
pytest.importorskip("starlette", reason="the serve extra is not installed: pip install 'flexdetr[serve]'")
pytest.importorskip(
    "prometheus_client", reason="the serve extra is not installed: pip install 'flexdetr[serve]'"
)


@contextmanager
def served(app):
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)


class Browser:
    """Chromium, spoken to through a pair of pipes: JSON messages that end with NUL."""

    def __init__(self, folder: Path) -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        words = [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={folder}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        # Chromium reads file descriptor 3 and writes 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash", *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(shell, pass_fds=(in_read, out_write), **quiet)
        os.close(in_read)
        os.close(out_write)
        self.ask, self.answers = os.fdopen(in_write, "wb"), os.fdopen(out_read, "rb")
        self.number, self.session, self.rest = 0, None, b""

    def call(self, method: str, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.ask.write(json.dumps(message).encode() + b"\0")
        self.ask.flush()
        while True:
            while b"\0" not in self.rest:
                self.rest += self.answers.read1(1 << 20) or pytest.fail("the browser ended")
            one, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> None:
        for _ in range(400):
            if self.value(expression):
                return
            time.sleep(0.05)
        pytest.fail(f"never true in the page: {expression}")

    def choose(self, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def close(self) -> None:
        self.ask.close()
        self.process.terminate()
        self.process.wait(20)
        self.answers.close()


def test_a_picture_is_dropped_and_its_boxes_are_seen(detector, picture, tmp_path):
    from flexdetr.serve.app import make_app

    (tmp_path / "dog.png").write_bytes(picture(red=204))
    (tmp_path / "no.png").write_bytes(b"no picture")
    with served(make_app(detector, name="marked", token="secret")) as address:
        browser = Browser(tmp_path / "profile")
        try:
            browser.open(address)
            assert browser.value("document.title") == "FlexDETR"
            assert browser.value("document.querySelector('#picture').getBoundingClientRect().width") == 0
            browser.choose(tmp_path / "dog.png")
            browser.until("document.querySelector('#message.failed')?.textContent.includes('token')")
            enter = "(x => { x.value = 'secret'; x.dispatchEvent(new Event('change')); })"
            browser.value(f"{enter}(document.querySelector('#token'))")
            browser.until("document.querySelectorAll('#boxes rect').length === 1")
            assert browser.value("document.querySelector('#boxes text').textContent") == "dog 0.80"
            assert browser.value("document.querySelector('#boxes').getAttribute('viewBox')") == "0 0 40 30"
            # The box lies on the picture: it has the picture's width on the screen, but for its line.
            width = "document.querySelector('{}').getBoundingClientRect().width"
            box, shown = (browser.value(width.format(one)) for one in ("#boxes rect", "#picture"))
            assert shown > 0
            assert box == pytest.approx(shown, abs=3)
            slide = "(x => { x.value = '0.9'; x.dispatchEvent(new Event('input')); })"
            browser.value(f"{slide}(document.querySelector('#threshold'))")
            assert browser.value("document.querySelectorAll('#boxes rect').length") == 0
            browser.choose(tmp_path / "no.png")
            browser.until("document.querySelector('#message.failed')?.textContent.includes('not a picture')")
        finally:
            browser.close()
