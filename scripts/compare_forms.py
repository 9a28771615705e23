"""Score a checkpoint in the form that was trained and in its deploy form: the 12 COCO numbers of both, side by side."""

from __future__ import annotations

import argparse
import math
import sys

from flexdetr.api import Detector
from flexdetr.engine.evaluate import evaluate_split

TOLERANCE = 1e-3


def main() -> int:
    """Print a row a metric; 1 if one differs by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a checkpoint")
    parser.add_argument("data", help="a data set")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    detector = Detector.from_checkpoint(arguments.file)
    deploy = detector.evaluate(arguments.data, arguments.split).numbers()
    trained = evaluate_split(
        detector.model, arguments.data, arguments.split, classes=detector.classes, config=detector.config
    ).numbers()
    differences = [0.0]
    sys.stdout.write(f"{'':10s} {'trained':>9s} {'deploy':>9s}\n")
    for name, value in trained.items():
        sys.stdout.write(f"{name:10s} {value:9.5f} {deploy[name]:9.5f}\n")
        if not math.isnan(value):
            differences.append(abs(value - deploy[name]))
    sys.stdout.write(f"largest difference {max(differences):.1e}, allowed {TOLERANCE:g}\n")
    return int(max(differences) > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
