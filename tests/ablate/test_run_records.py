"""What an ablation's folder holds is read back as it was written, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flexdetr.ablate.run_records import COSTS, EPOCHS, RUN, ResultRecord, RunRecord, read_record
from flexdetr.ablate.runs import curve
from flexdetr.config import ConfigError

RECORD = RunRecord(
    config={"seed": 1},
    split="val",
    data="scenes",
    fingerprint=2**63,
    result=ResultRecord(ap=None, ap50=0.5, seconds=9.0, epochs=3, best_epoch=2, failed="a NaN"),
)


def test_a_record_survives(tmp_path: Path) -> None:
    file = tmp_path / "ablation.json"
    assert read_record(file, RUN, "run it again") is None
    file.write_text(RECORD.model_dump_json(), encoding="utf-8")
    assert read_record(file, RUN, "run it again") == RECORD


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (RUN, b"", "EOF"),
        (RUN, b"[]", "damaged"),
        (RUN, b"\xff{}", "damaged"),
        (RUN, RECORD.model_dump_json().replace("0.5", '"x"').encode(), r"result\.ap50"),
        (RUN, RECORD.model_dump_json().replace("best_epoch", "epoch_best").encode(), "best_epoch"),
        (COSTS, b'{"machine": "here", "variants": {"base": null}}', r"variants\.base"),
        (EPOCHS, b'{"base": {"config": {}, "minutes": 1}}', r"base\.epoch_seconds"),
    ],
)
def test_damage_is_told_with_what_to_do(
    tmp_path: Path, kind: TypeAdapter, content: bytes, message: str
) -> None:
    file = tmp_path / "kept.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_record(file, kind, "delete it")
    assert str(caught.value).startswith(f"{file} is damaged")
    assert str(caught.value).endswith("; delete it")


def test_damaged_metrics_leave_out_the_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"epoch,loss,ap\n1,3.5,\n2,3.1,0.25\n")
    assert curve(tmp_path) == [(2, 0.25)]
    file.write_bytes(b"epoch,loss,ap\n1,3.5,0.2\n2,3.1,\xff\n")
    assert curve(tmp_path) == []
    assert "metrics.csv cannot be read" in caplog.text
