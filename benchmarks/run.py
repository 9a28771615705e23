"""Every benchmark, one after the other: `make bench`. On a quiet machine, or the numbers mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    ("train_step.py",),
    ("train_step.py", "--size", "640", "--batch", "2", "rtdetr_r18"),
    ("deploy_form.py",),
    ("evaluation.py",),
    ("loading.py",),
    ("cpu_latency.py",),
)


def main() -> None:
    """Run each in a process of its own, so that peak memory is its own too."""
    for name, *arguments in BENCHMARKS:
        print(f"== {' '.join((name, *arguments))}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *arguments], check=True)


if __name__ == "__main__":
    main()
