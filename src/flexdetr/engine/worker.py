"""One of the processes that ``engine.launch`` starts; ``python -m`` runs it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from flexdetr.config import build
from flexdetr.engine import fit
from flexdetr.engine.checkpoint import restore
from flexdetr.engine.distributed import MEETING_PLACE, leave
from flexdetr.engine.launch import LAUNCHER, MEETING, STOP
from flexdetr.engine.stop import Interrupted
from flexdetr.weights.trained import TrainedParts

_POLL = 0.2  # seconds


def main(place: Path) -> int:
    """Work on ``task.json`` in a folder, and leave ``answer-RANK.json`` there.

    Returns:
        The exit status; a run that was interrupted has ended in order.
    """
    rank = os.environ["RANK"]
    logging.basicConfig(format="%(message)s")
    for handler in logging.getLogger().handlers:  # the run lowers its logger's level, for its own file
        handler.setLevel(logging.WARNING)
    _listen(place, int(os.environ[LAUNCHER]))
    os.environ[MEETING_PLACE] = (place / MEETING).absolute().as_uri()
    try:
        run = _work(json.loads((place / "task.json").read_text(encoding="utf-8")))
    except (Exception, KeyboardInterrupt) as error:
        kind = type(error)
        content: dict[str, Any] = {
            "rank": rank,
            "error": f"{kind.__module__}.{kind.__qualname__}",
            "message": str(error),
            "parts": getattr(error, "parts", 1),
            "traceback": "".join(traceback.format_exception(error)),
        }
        (place / f"answer-{rank}.json").write_text(json.dumps(content), encoding="utf-8")
        return 0 if isinstance(error, Interrupted) else 1
    if rank == "0":
        content = {
            "folder": str(run.folder),
            "best": str(run.best),
            "last": str(run.last),
            "metrics": run.metrics.to_json(),
            "seconds": run.seconds,
        }
        (place / "answer-0.json").write_text(json.dumps(content), encoding="utf-8")
    leave()
    return 0


def _work(task: dict[str, Any]) -> fit.Run:
    if task["start_method"]:
        multiprocessing.set_start_method(task["start_method"], force=True)
    if "resume" in task:
        return fit.resume(
            task["resume"],
            data=task.get("data"),
            device=task.get("device"),
            parts=task.get("parts"),
            quiet=task["quiet"],
        )
    starting = None
    if "starting" in task:
        start = task["starting"]
        starting = replace(
            restore(start["file"], {}),
            trained=TrainedParts.from_json(start["trained"]),
            notes=tuple(start["notes"]),
        )
    return fit.train(
        task["data"], build(task["config"]), out=task["out"], starting=starting, quiet=task["quiet"]
    )


def _listen(place: Path, launcher: int) -> None:
    """Stop as on SIGTERM for each request of the launcher's, and when it is gone: nobody would ever stop this one."""

    def watch() -> None:
        heard = 0
        while _runs(launcher):
            time.sleep(_POLL)
            asked = (place / STOP).stat().st_size if (place / STOP).exists() else 0
            for _ in range(heard, asked):
                signal.raise_signal(signal.SIGTERM)
            heard = asked
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()


def _runs(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
