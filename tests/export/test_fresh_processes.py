"""Fresh processes that score an artifact end: their threads must not meet in a native library's first call.

Eight at a time on any machine are each beside other work. ``benchmarks/fresh_processes.py`` runs hundreds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flexdetr.data.scenes import draw_scenes
from flexdetr.runtime.artifact import Artifact

PROCESSES = 8
SECONDS = 240  # a process takes two where nothing else runs
PROGRAM = """
import faulthandler, sys
faulthandler.dump_traceback_later({seconds}, exit=True)
import flexdetr
assert flexdetr.load({path!r}, runtime={runtime!r}, {options}hint="throughput").evaluate({data!r}).ap >= 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runtime", "options"),
    [("openvino", "openvino", "cache=False, "), ("onnx", "onnxruntime", "")],
)
def test_none_hangs(
    exported: Callable[[str], Artifact], tmp_path: Path, kind: str, runtime: str, options: str
) -> None:
    data = draw_scenes(tmp_path / "scenes", train=0, val=0, test=12, size=(256, 256))
    file = data / "annotations" / "instances_test.json"
    document = json.loads(file.read_text())
    for row, name in zip(document["categories"], ("cat", "dog", "owl", "x", "y", "z"), strict=True):
        row["name"] = name
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] <= 3]
    file.write_text(json.dumps(document))
    program = PROGRAM.format(
        seconds=SECONDS, path=str(exported(kind).path), runtime=runtime, options=options, data=str(data)
    )
    begun = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    said = [one.communicate()[1] for one in begun]
    assert [one.returncode for one in begun] == [0] * PROCESSES, "\n".join(said)
