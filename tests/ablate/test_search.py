"""Search plans are read strictly; a tiny search on drawn scenes goes on where it was stopped."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from flexdetr.ablate import runs as ablation_runs
from flexdetr.ablate.search import _Searching, search
from flexdetr.ablate.search_plan import SearchPlan, candidate_config, read_search_plan
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.export import latency

BASE = {
    "model": "flexdetr_atto",
    "image_size": 64,
    "data.workers": 0,
    "train": {"batch_size": 3, "eval_every": 1},
    "head": {"layers": 1, "queries": 20, "denoising": 0},
}
VALUES: dict[str, Any] = {
    "data": "DATA",
    "base": BASE,
    "space": {"head.queries": [16, 20], "encoder.ffn": [64, 96]},
    "candidates": 4,
    "epochs": [1, 2],
    "keep": 0.5,
    "precision": "fp32",
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(VALUES | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidats": 3}, "did you mean 'candidates'"),
        ({"epochs": [3, 2]}, "rise"),
        ({"space": {"head.queries": [20]}}, "at least two different values"),
        ({"space": {"head.queries": [20, 20]}}, "at least two different values"),
        ({"space": {"head.querys": [20, 30]}}, "queries"),
        ({"space": {"train.epochs": [1, 2]}}, "write it as epochs"),
        ({"base": {"image_size": 64}}, "base.model"),
        ({"precision": "fp64"}, "precision"),
        ({"seeds": [1, 1]}, "each seed"),
    ],
    ids=str,
)
def test_a_plan_is_read_strictly(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_search_plan(written(tmp_path, **changes))


@pytest.mark.parametrize("name", ["cpu.yaml", "cpu_evening.yaml"])
def test_the_shipped_plans_can_be_read_and_every_value_builds(name: str) -> None:
    plan = read_search_plan(Path(__file__).parents[2] / "examples" / "searches" / name)
    assert candidate_config(plan, {"encoder.width": 96}).encoder.width == 96


def test_a_precision_that_this_cpu_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "computes_in", lambda _: False)
    with pytest.raises(ConfigError, match="does not compute in bf16"):
        latency.check_precision("bf16")


def test_a_part_that_does_not_exist_is_told_before_any_run(plan: SearchPlan, tmp_path: Path) -> None:
    space = {"backbone": ("hgnetv2_atto", "hgnetv2_ato")}
    with pytest.raises(ConfigError, match=r"backbone=hgnetv2_ato: .*hgnetv2_atto"):
        search(plan.model_copy(update={"space": space}), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def plan(tmp_path: Path) -> SearchPlan:
    data = draw_scenes(tmp_path / "scenes", train=6, val=2, test=2, size=(96, 96))
    return read_search_plan(written(tmp_path, data=str(data)))


def test_a_search_goes_on_where_it_was_stopped(
    plan: SearchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the trainings left out: what is searched, kept, and run again after a stop."""
    made: list[str] = []

    def reached(job: ablation_runs.Job, *, quiet: bool) -> ablation_runs.Result:
        if len(made) == 2 and "stopped" not in made:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(f"{job.variant} {job.config.train.epochs}")
        ap = job.config.head.queries / 100 + job.config.train.epochs / 1000
        return ablation_runs.Result(ap, ap, 1.0, 1, 1)

    monkeypatch.setattr(ablation_runs, "run", reached)
    monkeypatch.setattr(_Searching, "_compiled", lambda _, config: config)
    monkeypatch.setattr(
        latency,
        "times",
        lambda calls, _: {name: float(one.encoder.ffn) for name, one in calls.items()},
    )
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        search(plan, folder, quiet=True)
    done = search(plan, folder, quiet=True)
    whole = search(plan, tmp_path / "again", quiet=True)
    assert [row[:5] for row in done.table] == [row[:5] for row in whole.table]
    assert sorted(name for name in made[:7] if name != "stopped") == sorted(
        ["base 1", "c1 1", "c2 1", "c3 1", *(one for one in made[:7] if one.endswith(" 2"))]
    )
    assert len({row.changes for row in done.table}) == len(done.table) == 4
    assert {row.epochs for row in done.table} == {1, 2}
    assert sum(row.epochs == 2 for row in done.table) == 2
    assert any(row.on_front for row in done.table)
    with (folder / "front.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    page = (folder / "front.html").read_text()
    assert "<svg" in page
    assert "encoder.ffn" in page
    with pytest.raises(ConfigError, match=r"the plan has changed.*epochs"):
        search(plan.model_copy(update={"epochs": (1, 3)}), folder, quiet=True)


def test_every_candidate_is_another_one_however_sure_the_sampler_is(
    plan: SearchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TPE names the best of few trials again and again: 12 of 20 were asked for, and 12 are tried."""

    def reached(job: ablation_runs.Job, *, quiet: bool) -> ablation_runs.Result:
        ap = 0.9 if job.config.head.queries == 24 else 0.1
        return ablation_runs.Result(ap, ap, 1.0, 1, 1)

    monkeypatch.setattr(ablation_runs, "run", reached)
    monkeypatch.setattr(_Searching, "_compiled", lambda _, config: config)
    monkeypatch.setattr(latency, "times", lambda calls, _: dict.fromkeys(calls, 1.0))
    space = {"head.queries": (16, 20, 24, 28, 32), "encoder.ffn": (32, 64, 96, 128)}
    done = search(plan.model_copy(update={"space": space, "candidates": 12}), tmp_path / "out", quiet=True)
    assert len({row.changes for row in done.table}) == len(done.table) == 12
    words: list[str] = []
    search(
        plan.model_copy(update={"space": {"head.queries": (16, 20)}, "candidates": 4}),
        tmp_path / "small",
        quiet=True,
        tell=words.append,
    )
    assert any("2 candidates instead of 4" in word for word in words)


@pytest.mark.slow
def test_the_verb_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_scenes(tmp_path / "scenes", train=6, val=2, test=2, size=(96, 96))
    path = written(tmp_path, data=str(data), candidates=2, precision="int8")
    assert main(["search", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "front.html" in said
    assert "base" in said


def test_wrong_usage_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(written(tmp_path, sampler="tpee"))]) == 2
    assert "sampler" in capsys.readouterr().err
