"""A process that answers commands of the product, one a line: what a person would see of each.

Run as a script it reads ``{"arguments": [...], "folder": ...}`` lines and answers each with a line. Trainings stop
where the first epoch would begin: what is tried here is how they open. ``Product`` is its other end, which ends a
process that does not answer in time and starts another.
"""

from __future__ import annotations

import io
import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 60.0  # seconds a command may take; the usual one takes a fraction of a second
MEMORY = (
    8 * 2**30
)  # bytes of data of the process: a bomb is to end in a MemoryError here, not in a dead machine
GROWTH = 1500  # MB by which one command may raise the process's peak
_IMPORTING = 600.0  # seconds; it takes five on an idle machine
_LONGEST = 20_000  # characters of an error's text


class Answer(NamedTuple):
    """What came of a command.

    Attributes:
        status: its exit status; None where it did not answer.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        grown: MB by which it raised the process's peak.
        failure: why there is no answer, or the traceback that escaped.
    """

    status: int | None
    out: str = ""
    err: str = ""
    grown: float = 0
    failure: str = ""

    def fault(self) -> str:
        """What must not happen, where it did; else an empty text."""
        if self.failure:
            return self.failure
        shown = f"{self.out[-2000:]}\n{self.err[-6000:]}"
        for sign in ("Traceback (most recent call last)", "a bug in FlexDETR", "out of memory"):
            if sign in self.out or sign in self.err:
                return f"{sign!r} in what it wrote: {shown}"
        if self.status not in (0, 1, 2, 130):
            return f"status {self.status}: {shown}"
        if self.status in (1, 2) and not (self.err.strip() or self.out.strip()):
            return f"status {self.status} without a word"
        if len(self.err) > _LONGEST:
            return f"{len(self.err):,} characters of errors: {self.err[:2000]}"
        if self.grown > GROWTH:
            return f"it took {self.grown:.0f} MB of memory: {shown}"
        return ""


class Product:
    """The process at work, and another one after it was ended.

    Args:
        log: where its own stderr goes: what native code says, above all when it dies.
        environment: variables beside those of this process.
    """

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._log, self._environment = log, environment
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = False

    def start(self) -> None:
        """Begin: it imports what commands import while others work."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | self._environment,
            )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stream: Any = self._process.stdout

        def listen() -> None:
            for line in stream:
                lines.put(line)
            lines.put("")  # it has ended

        threading.Thread(target=listen, daemon=True).start()
        self._lines, self._ready = lines, False

    def ask(self, arguments: list[str], folder: Path, limit: float = LIMIT) -> Answer:
        """Run a command in a folder."""
        if self._process is None:
            self.start()
        if not self._ready:
            self._ready = bool(self._lines.get(timeout=_IMPORTING))
        process: Any = self._process
        said = self._log.stat().st_size
        process.stdin.write(json.dumps({"arguments": arguments, "folder": str(folder)}) + "\n")
        process.stdin.flush()
        began = time.monotonic()
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            self.stop()
            return Answer(None, failure=f"no answer within {time.monotonic() - began:.0f} s")
        if line:
            return Answer(**json.loads(line))
        status = process.wait()
        self._process = None
        return Answer(None, failure=f"the process died with status {status}: {self._said_since(said)}")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _said_since(self, position: int) -> str:
        with self._log.open(errors="replace") as file:
            file.seek(position)
            return file.read()[-4000:]


def serve() -> None:
    """Answer the lines of stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever native code prints does not come between
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    from flexdetr.cli import main
    from flexdetr.engine import trainer

    def opened(_: trainer.Trainer) -> bool:
        raise trainer.Interrupted("opened")

    trainer.Trainer._train_epoch = opened  # type: ignore[method-assign]
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        os.chdir(asked["folder"])
        # As a terminal takes them: lone surrogates, of odd file names, are an error on stdout.
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
        sys.stdout, sys.stderr = out, err
        before, status, failure = _peak(), None, ""
        try:
            status = main(asked["arguments"])
        except BaseException:
            failure = traceback.format_exc()
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        answer = Answer(status, _text(out), _text(err), _peak() - before, failure)
        answers.write(json.dumps(answer._asdict()) + "\n")
        answers.flush()


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer: Any = stream.buffer
    return buffer.getvalue().decode("utf-8", "replace")


def _peak() -> float:
    """The most memory that the process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    serve()
