"""``predict`` in shares, and what it writes besides."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.cli import main
from flexdetr.cli.answers import UsageError
from flexdetr.cli.shards import Shard, shard_of


@pytest.mark.parametrize(
    ("text", "environment", "share"),
    [
        ("0/1", {}, (0, 1)),
        ("7/8", {}, (7, 8)),
        ("auto", {"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, (2, 3)),
        ("auto/9", {"JOB_COMPLETION_INDEX": "4"}, (4, 9)),
        ("auto", {"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "5"}, (4, 5)),
    ],
)
def test_shares(text: str, environment: dict[str, str], share: tuple[int, int]) -> None:
    assert shard_of(text, environment) == Shard(*share)


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("8/8", {}, "I from 0 to N-1"),
        ("1", {}, "got 1/"),
        ("-1/2", {}, "got -1/2"),
        ("auto", {}, "neither SLURM_PROCID"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETIONS is not set"),
        ("auto/2", {"SLURM_PROCID": "2"}, "got 2/2"),
    ],
)
def test_shares_that_are_none(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        shard_of(text, environment)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flexdetr import Detector

    detector = Detector("flexdetr_pico", classes=["cat", "dog"], image_size=64)
    return detector.save(tmp_path_factory.mktemp("model") / "pico.safetensors")


def test_shares_are_the_whole_together(checkpoint: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for number in range(5):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    arguments = ["predict", str(checkpoint), str(tmp_path), "gone.jpg", "--out", str(tmp_path / "out")]
    states = [
        main([*arguments, "--shard", f"{i}/3", "--format", "parquet", "--threshold", "0"]) for i in range(3)
    ]
    assert states == [1, 0, 0]  # the first one tells what is missing
    files = [
        json.loads(line)["file"]
        for i in range(3)
        for line in (tmp_path / "out" / f"shard-0000{i}-of-00003" / "detections.jsonl").open()
    ]
    assert sorted(Path(file).name for file in files) == [*(f"{i}.png" for i in range(5)), "gone.jpg"]
    rows = pq.read_table(tmp_path / "out" / "shard-00001-of-00003" / "detections.parquet").to_pylist()
    assert [Path(row["file"]).name for row in rows] == ["1.png", "4.png"]
    assert {one["name"] for row in rows for one in row["objects"]} <= {"cat", "dog"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "parket"], "did you mean 'parquet'?"),
        (["--format", "cvs"], "did you mean 'csv'"),
        (["--shard", "3"], "--shard takes I/N"),
    ],
)
def test_options_that_are_wrong(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "none.safetensors", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_what_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["predict", "none.safetensors", str(tmp_path), "--format", "parquet"]) == 1
    assert "pip install 'flexdetr[parquet]'" in capsys.readouterr().err
