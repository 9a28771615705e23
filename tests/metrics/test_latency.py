"""The measuring of latency, with subjects whose answers are known; no length of time is tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexdetr.metrics.latency import (
    END_TO_END,
    STAGES,
    ColdStart,
    LatencyError,
    TimedDetector,
    Timing,
    alternate,
    machine,
    measure,
    start_of,
)


def subject(name: str, calls: list[str]) -> TimedDetector:
    def said(what: str, answer: object) -> object:
        calls.append(f"{name} {what}")
        return answer

    def predict_all(paths: object) -> int:
        calls.append(f"{name} all")
        return len(paths)  # type: ignore[arg-type]

    return TimedDetector(
        name=name,
        what="nothing",
        decode=lambda path: said(f"decode {path}", np.zeros((4, 6, 3), np.uint8)),
        prepare=lambda image: said("prepare", image),
        infer=lambda feed, size: said(f"infer {size}", feed),
        finish=lambda answer, _: said("finish", answer),
        predict=lambda path: said(f"predict {path}", None),
        predict_all=predict_all,
    )


def test_every_stage_of_everyone_is_timed_in_alternation() -> None:
    calls: list[str] = []
    shown: list[tuple[int, int]] = []
    one, other = measure(
        [subject("a", calls), subject("b", calls)],
        [Path("1"), Path("2")],
        rounds=3,
        warmup=1,
        announce=lambda *counts: shown.append(counts),
    )
    assert calls.count("a infer (4, 6)") == calls.count("b infer (4, 6)") == 4, "one of them to warm up"
    assert {len(values) for values in [*one.milliseconds.values(), *other.milliseconds.values()]} == {3}
    assert [call for call in calls if "predict" in call][2:] == [
        "a predict 1",
        "b predict 1",
        "b predict 2",
        "a predict 2",
        "a predict 1",
        "b predict 1",
    ]
    assert one.per_second > 0
    assert calls.count("a all") == 4
    assert shown[-1][0] == shown[-1][1] == len(shown)


@pytest.mark.parametrize(
    ("subjects", "pictures", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)], ids=["nobody", "nothing", "never"]
)
def test_nothing_to_time(subjects: int, pictures: int, rounds: int) -> None:
    with pytest.raises(LatencyError, match="at least one"):
        measure([subject("a", [])] * subjects, [Path("1")] * pictures, rounds=rounds)


def timing(name: str = "a") -> Timing:
    values = {stage: [1.0, 2.0, 3.0] for stage in STAGES} | {END_TO_END: [10.0, 11.0, 30.0]}
    return Timing(name, "x", values, 12.5, ColdStart(1.25, 100.0))


def test_numbers_as_json() -> None:
    document = timing().to_json()
    assert document["milliseconds"]["infer"]["p50"] == 2.0
    assert document["milliseconds"][END_TO_END]["p50"] == 11.0
    assert document["milliseconds"][END_TO_END]["p99"] == pytest.approx(29.62)
    assert document["pictures_per_second"] == 12.5
    assert document["memory_mib"] == 100.0
    assert document["start_seconds"] == 1.25
    assert Timing("a", "x", timing().milliseconds).to_json()["start_seconds"] is None


def test_start_of_a_process() -> None:
    start = start_of("import os\nassert os.environ['MARK'] == 'set'", {"MARK": "set"})
    assert start.seconds > 0
    assert start.memory is None or start.memory > 1
    with pytest.raises(LatencyError, match="no such thing"):
        start_of("raise ValueError('no such thing')")


def test_the_machine_is_named() -> None:
    assert machine()["cpu"]
    assert machine()["cores"] >= 1


def test_latencies_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda picture, name=name: order.append(name + picture) for name in ("a", "b")}
    seconds = alternate(calls, ["1", "2"], rounds=2, warmup=1)
    assert order == ["a1", "b1", "a2", "b2"] * 3
    assert [len(times) for times in seconds.values()] == [4, 4], "those of the first round do not count"
    assert all(value >= 0 for times in seconds.values() for value in times)
