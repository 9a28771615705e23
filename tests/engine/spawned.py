"""A program as on macOS and Windows, where processes are spawned; test_spawn.py runs it.

Arguments: data, the run's folder, processes, and "unguarded" to train while being imported.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from flexdetr.engine import fit
from flexdetr.presets import resolve


def settings(workers, processes=None):
    train = {"epochs": 2, "batch_size": 4, "eval_every": 2, "precision": "fp32", "report": False}
    train |= {"device": "cpu", "processes": processes}
    return resolve("flexdetr_pico", image_size=64, data={"workers": workers, "mosaic": 0.5}, train=train)


def main():
    data, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    multiprocessing.set_start_method("spawn", force=True)
    fit.train(data, settings(2, processes if processes > 1 else None), out=out, quiet=True)


if __name__ == "__main__" or sys.argv[4:] == ["unguarded"]:
    main()
