"""Every preset's graphs for boards against each board's list of operations, as a table; and their proof.

The graphs depend on the target only by whether layer norms are spelt out, so that two exports serve all targets. The
image is small: it changes the numbers in the shapes and no operation. Weights are random and spread, see
``export_proof.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import torch

from export_proof import spread
from flexdetr.api import Detector
from flexdetr.export.board_ops import check_ops
from flexdetr.export.errors import ExportError
from flexdetr.export.targets import TARGETS
from flexdetr.presets import PRESETS
from flexdetr.runtime.board import DECODE, ENCODE
from measure import machine


def row(preset: str, size: str, queries: int) -> tuple[str, bool]:
    """A line of the table, and whether every target takes the preset and every proof holds."""
    torch.manual_seed(0)
    detector = Detector(preset, classes=["cat", "dog", "owl"], image_size=size)
    spread(detector.model)
    answers: dict[str, str] = {}
    drifts, counts, wrong = [], [], []
    for plain in (True, False):
        targets = [name for name, target in TARGETS.items() if target.plain_norms is plain]
        with tempfile.TemporaryDirectory() as folder:
            try:
                chosen = {"queries": queries} if detector.model.head.limits is None else {}
                artifact = detector.export("onnx", Path(folder) / "out", target=targets[0], **chosen)
            except ExportError as error:
                answers |= dict.fromkeys(targets, "refused")
                wrong.append(f"{preset}, {targets[0]}: {error}")
                continue
            files = [artifact.path / name for name in (ENCODE, DECODE) if name in artifact.metadata.files]
            for name in targets:
                found = dict.fromkeys(
                    f"{one.op}: {one.why}" for file in files for one in check_ops(file, name)
                )
                answers[name] = "; ".join(found) or "yes"
            counts.append(
                sum(len(onnx.load(str(file), load_external_data=False).graph.node) for file in files)
            )
        drifts += [] if artifact.parity is None else artifact.parity.drifts
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    cells = [
        preset,
        *(answers[name] for name in TARGETS),
        " / ".join(map(str, counts)) or "-",
        f"{max((one.score for one in drifts), default=float('nan')):.1e}",
        f"{max((one.box for one in drifts), default=float('nan')):.1e}",
    ]
    fits = all(answer == "yes" for answer in answers.values())
    return "| " + " | ".join(cells) + " |", fits and bool(drifts)


def main() -> int:
    """Print the table; exit status 1 if a target does not take a preset, or a proof fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=list(PRESETS), help="by default all")
    parser.add_argument("--size", default="64")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rows-only", action="store_true", help="without the head of the table")
    arguments = parser.parse_args()
    if not arguments.rows_only:
        print(machine())
        print("| preset | " + " | ".join(TARGETS) + " | operations | score drift | box drift px |")
        print("|---" * (len(TARGETS) + 4) + "|")
    everything = True
    for preset in arguments.presets:
        line, fits = row(preset, arguments.size, arguments.queries)
        everything &= fits
        print(line, flush=True)
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
