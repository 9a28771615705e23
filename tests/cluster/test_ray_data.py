"""Actors of Ray Data: a dead one loses and doubles nothing, and a cluster that is not there is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from flexdetr.cli import main

pytest.importorskip("ray", reason="ray is not installed: pip install 'flexdetr[ray]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def test_a_cluster_that_is_not_there_is_told_in_a_sentence(artifact, pictures, tmp_path, capsys):
    arguments = ["predict", str(artifact), str(pictures), "--engine", "ray", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--ray-address", "127.0.0.1:1"]) == 1
    assert "there is no Ray cluster at 127.0.0.1:1" in capsys.readouterr().err
    assert main([*arguments, "--ray-address", "somewhere"]) == 1
    assert "HOST:PORT, ray://HOST:PORT or auto" in capsys.readouterr().err


def kill_one_actor(run: psutil.Process, out, killed: list[int]) -> None:
    """Kill an actor of a run once a first partition is there, while others are in work."""
    while run.is_running() and not [*out.glob("part-*.parquet")]:
        time.sleep(0.05)
    for process in run.children(recursive=True):
        try:
            if "MapWorker" in process.name() or any("MapWorker" in word for word in process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return
        except (psutil.Error, ProcessLookupError):
            continue


@pytest.mark.slow
def test_a_killed_actor_loses_and_doubles_nothing(artifact, pictures, tmp_path):
    out = tmp_path / "out"
    listed = sorted(map(str, pictures.iterdir()))
    command = [sys.executable, "-m", "flexdetr", "predict", str(artifact), str(pictures), "--engine", "ray"]
    command += ["--actors", "2", "--partition", "1", "--threshold", "0", "--out", str(out), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        killed: list[int] = []
        watch = threading.Thread(target=kill_one_actor, args=(psutil.Process(run.pid), out, killed))
        watch.start()
        said, errors = run.communicate(timeout=600)
        watch.join()
    assert killed, "no actor was there to be killed"
    assert run.returncode == 1, errors[-3000:]  # one picture is broken
    assert said.startswith("{"), f"{said[:500]}\n{errors[-3000:]}"
    told = json.loads(said)
    assert (told["partitions"], told["pictures"], told["failed"]) == (len(listed), len(listed) - 1, 1)
    rows = [row["file"] for file in out.glob("part-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert sorted(rows) == listed
    # The same command finds nothing more, and needs no actor for it.
    before = {file: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 1
    assert json.loads(again.stdout) == told
    assert {file: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")} == before
