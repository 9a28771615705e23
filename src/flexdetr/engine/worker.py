"""One of the processes that ``engine.launch`` starts through torchrun; ``python -m`` runs it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexdetr.config import build
from flexdetr.engine import fit
from flexdetr.engine.checkpoint import restore
from flexdetr.engine.distributed import leave
from flexdetr.engine.launch import LAUNCHER
from flexdetr.engine.stop import Interrupted
from flexdetr.weights.trained import TrainedParts


def main(place: Path) -> int:
    """Work on ``task.json`` in a folder, and leave ``answer-RANK.json`` there.

    Returns:
        The exit status; a run that was interrupted has ended in order.
    """
    rank = os.environ["RANK"]
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _stop_with(int(os.environ[LAUNCHER]))
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
    if "resume" in task:
        return fit.resume(task["resume"], parts=task.get("parts"), quiet=task["quiet"])
    begun = None
    if "begun" in task:
        start = task["begun"]
        begun = replace(
            restore(start["file"], {}),
            trained=TrainedParts.from_json(start["trained"]),
            notes=tuple(start["notes"]),
        )
    return fit.train(task["data"], build(task["config"]), out=task["out"], begun=begun, quiet=task["quiet"])


def _stop_with(launcher: int) -> None:
    """Stop as on SIGTERM when the process that waits for this one is gone: nobody would ever stop it."""

    def watch() -> None:
        while True:
            time.sleep(2)
            try:
                os.kill(launcher, 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
