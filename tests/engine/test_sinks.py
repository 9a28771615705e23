"""The run's own records: a whole file at every moment, and damage that stops no run."""

from __future__ import annotations

import csv
import logging

import pytest

from flexdetr.engine.sinks import CsvSink, log_file


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_come_and_go_and_a_resumed_run_keeps_the_epochs_before(tmp_path):
    path = tmp_path / "metrics.csv"
    sink = CsvSink(path)
    sink.write({"epoch": 1, "loss": 2.5})
    sink.write({"epoch": 2, "loss": 2.0, "ap": 0.25})
    assert rows(path) == [{"epoch": "1", "loss": "2.5", "ap": ""}, {"epoch": "2", "loss": "2", "ap": "0.25"}]
    again = CsvSink(path, keep_epochs=1)
    again.write({"epoch": 2, "loss": 1.0})
    assert rows(path) == [{"epoch": "1", "loss": "2.5", "ap": ""}, {"epoch": "2", "loss": "1", "ap": ""}]


def test_the_former_file_stays_until_the_new_one_is_whole(tmp_path, caplog, full_disk):
    path = tmp_path / "metrics.csv"
    sink = CsvSink(path)
    sink.write({"epoch": 1, "loss": 2.5})
    with full_disk(20):
        sink.write({"epoch": 2, "loss": 2.0})
    assert "metrics.csv: " in caplog.text
    assert rows(path) == [{"epoch": "1", "loss": "2.5"}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    sink.write({"epoch": 3, "loss": 1.0})
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "damage",
    [b"epoch,loss\n1,2\xff5\n", b"epoch,loss\n1\x00,2\n", b"loss\n2.5\n", b"epoch,loss\n1,2,7\n", b"epoch,loss\nx,1\n"],
    ids=["no UTF-8", "a zero byte", "no epochs", "a column too many", "no number"],
)  # fmt: skip
def test_damaged_rows_are_put_aside_and_said(tmp_path, caplog, damage):
    path = tmp_path / "metrics.csv"
    path.write_bytes(damage)
    sink = CsvSink(path, keep_epochs=3)
    assert "kept as metrics.damaged.csv" in caplog.text
    assert (tmp_path / "metrics.damaged.csv").read_bytes() == damage
    sink.write({"epoch": 4, "loss": 1.0})
    assert rows(path) == [{"epoch": "4", "loss": "1"}]


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog, capfd, full_disk):
    log = logging.getLogger("flexdetr.test")
    with log_file(tmp_path / "log.txt"):
        log.info("first")
        with full_disk(100):
            for _ in range(5):
                log.info("a line that no longer fits on the disk " * 5)
    assert "first" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert caplog.text.count("the run goes on without its log") == 1
    assert "Traceback" not in capfd.readouterr().err
