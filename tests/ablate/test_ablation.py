"""A whole plan on drawn scenes: runs, kills, changes of the plan, and the table that comes out."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from flexdetr.ablate import budget
from flexdetr.ablate.ablation import Ablation, ablate
from flexdetr.ablate.budget import epochs_within
from flexdetr.ablate.plan import Plan, changed, configurations
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.data.dataset import DataError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit

BASE = {
    "model": "flexdetr_atto",
    "image_size": 64,
    "data.workers": 0,
    "train": {"batch_size": 3, "eval_every": 1},
    "head": {"layers": 1, "queries": 20, "denoising": 0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=2, test=2, size=(96, 96))


@pytest.fixture(scope="module")
def plan(data: Path) -> Plan:
    values = {"data": str(data), "base": BASE, "variants": {"siou": {"loss.box": "siou"}}}
    return Plan.model_validate({**values, "seeds": [0, 1], "budget": {"epochs": 2}})


@pytest.fixture(scope="module")
def done(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    """The plan run to its end, after its second run was interrupted within the second epoch."""
    folder = tmp_path_factory.mktemp("ablation") / "out"
    step, steps = fit.Trainer._step, 0

    def counted(self: fit.Trainer, batch: Any) -> None:
        nonlocal steps
        step(self, batch)
        steps += 1
        if steps == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.Trainer, "_step", counted)
        with pytest.raises(KeyboardInterrupt):
            ablate(plan, folder, quiet=True)
    assert json.loads((folder / "base" / "seed-0" / "ablation.json").read_text())["result"]
    assert json.loads((folder / "siou" / "seed-0" / "ablation.json").read_text())["result"] is None
    began: list[str] = []
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        original = {"train": fit.train, "resume": fit.resume}
        patch.setattr(fit, "train", lambda *a, **k: (began.append("train"), original["train"](*a, **k))[1])
        patch.setattr(fit, "resume", lambda *a, **k: (began.append("resume"), original["resume"](*a, **k))[1])
        finished = ablate(plan, folder, quiet=True, tell=told.append)
    assert began == ["resume", "train", "train"]
    assert told[0] == "4 runs: 2 x 2 seeds; 1 are finished"
    return finished


def test_the_table(done: Ablation) -> None:
    base, siou = done.table
    assert (base.name, siou.name, siou.changes) == ("base", "siou", "loss.box=siou")
    assert base.seeds == siou.seeds == (0, 1)
    assert siou.difference is not None
    assert siou.difference.num == 2
    assert base.cost is not None
    assert siou.cost is not None
    assert base.cost[:4] == siou.cost[:4]  # a loss changes no parameter
    assert base.cost.params < base.cost.params_training
    assert base.cost.latency_ms > 0
    assert base.epochs == 2
    assert done.missing == 0
    with (done.folder / "table.csv").open(newline="", encoding="utf-8") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["base", "siou"]
    for name in ("table.md", "table.html"):
        text = (done.folder / name).read_text(encoding="utf-8")
        assert "no difference shown" in text
        assert "the test split" in text


def test_a_run_is_scored_like_its_checkpoint(done: Ablation, plan: Plan) -> None:
    import flexdetr

    result = json.loads((done.folder / "siou" / "seed-1" / "ablation.json").read_text())["result"]
    detector = flexdetr.load(done.folder / "siou" / "seed-1" / "best.safetensors")
    assert detector.config.seed == 1
    assert detector.config.loss.box == "siou"
    assert detector.evaluate(plan.data, "test").ap == pytest.approx(result["ap"], abs=1e-9)


def test_nothing_is_run_twice(done: Ablation, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = (done.folder / "costs.json").read_bytes()
    monkeypatch.setattr(fit, "train", None)
    monkeypatch.setattr(fit, "resume", None)
    again = ablate(plan, done.folder, quiet=True)
    assert again.table == done.table
    assert (done.folder / "costs.json").read_bytes() == costs


def test_a_changed_plan_is_noticed(done: Ablation, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "train", None)
    with pytest.raises(ConfigError, match=r"train.epochs was 2 and is 3.*choose another --out"):
        ablate(changed(plan, budget={"epochs": 3}), done.folder, quiet=True)
    with pytest.raises(ConfigError, match=r"data\.flip was 0.5 and is 0.0"):
        ablate(changed(plan, ["data.flip=0"]), done.folder, quiet=True)


def test_changed_data_are_noticed(done: Ablation, plan: Plan, tmp_path: Path) -> None:
    other = draw_scenes(tmp_path / "other", train=6, val=2, test=2, size=(96, 96), seed=5)
    with pytest.raises(DataError, match="has changed since"):
        ablate(changed(plan, data=str(other)), done.folder, quiet=True)


def test_a_report_of_what_there_is(done: Ablation, plan: Plan) -> None:
    """Another seed and another variant are no change of the plan, only not finished."""
    wider = plan.model_copy(
        update={"seeds": (0, 1, 2), "variants": {**plan.variants, "eiou": {"loss.box": "eiou"}}}
    )
    report = ablate(wider, done.folder, run_missing=False, quiet=True)
    assert report.missing == 3 + 2
    assert report.notes[0].startswith("NOT FINISHED: 5 runs")
    assert [row.verdict for row in report.table] == ["", "no difference shown", "not measured"]


def test_a_wrong_part_is_told_before_any_run(plan: Plan, tmp_path: Path) -> None:
    for changes, said in (
        ({"backbone": "hgnetv2_b9"}, "wrong: unknown backbone 'hgnetv2_b9'; did you mean 'hgnetv2_b"),
        ({"loss.box": "syou"}, "wrong: unknown box loss 'syou'; did you mean 'siou'"),
    ):
        wrong = plan.model_copy(update={"variants": {"wrong": changes}})
        with pytest.raises(ConfigError, match=said):
            ablate(wrong, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_kill_before_the_first_state(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves within the first epoch is no run, and is begun anew."""

    def killed(data: str, config: Any, *, out: Path, **options: Any) -> fit.Run:
        (out / "config.yaml").write_text("half", encoding="utf-8")
        raise SystemExit

    cut = changed(plan, seeds=[0], budget={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", killed)
        with pytest.raises(SystemExit):
            ablate(cut, tmp_path, quiet=True)
    assert (tmp_path / "base" / "seed-0" / "ablation.json").exists()
    assert ablate(cut, tmp_path, run_missing=False, quiet=True).missing == 2
    assert [row.seeds for row in ablate(cut, tmp_path, quiet=True).table] == [(0,), (0,)]


def test_a_diverging_run_is_a_result(
    plan: Plan, done: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = fit.train

    def broken(data: str, config: Any, **options: Any) -> fit.Run:
        if config.loss.box == "siou":
            raise fit.NonFiniteError("step 3: the loss is nan", [1])
        return train(data, config, **options)

    monkeypatch.setattr(fit, "train", broken)
    cut = changed(plan, seeds=[0], budget={"epochs": 1})
    found = ablate(cut, tmp_path, quiet=True)
    assert found.table[1].failures == ("seed 0: step 3: the loss is nan",)
    assert "One seed" in " ".join(found.notes)
    monkeypatch.setattr(fit, "train", None)
    again = ablate(cut, tmp_path, quiet=True)
    assert [row.failures for row in again.table] == [row.failures for row in found.table]


def test_a_budget_in_minutes(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch is measured; the schedule is made for what fits, and the number is kept."""
    timed = changed(plan, budget={"minutes": 0.05}, seeds=[0])
    config = configurations(timed)["base"]
    epochs = budget.measured_epochs("base", config, timed.data, 5, tmp_path, quiet=True)
    entry = json.loads((tmp_path / "budget.json").read_text())["base"]
    assert entry["epochs"] == epochs > 1
    assert epochs * (entry["epoch_seconds"] + entry["evaluation_seconds"]) <= 300
    monkeypatch.setattr(fit, "train", None)
    assert budget.measured_epochs("base", config, timed.data, 5, tmp_path, quiet=True) == epochs
    with pytest.raises(ConfigError, match="no run has been made"):
        budget.measured_epochs("siou", config, timed.data, 5, tmp_path, measure=False)


def test_epochs_that_fit(plan: Plan) -> None:
    config = configurations(plan)["base"]  # evaluates each epoch
    assert epochs_within(10, 50, 10, config, 200) == 10
    derived = config.model_copy(update={"train": config.train.model_copy(update={"eval_every": None})})
    # 100 epochs would be evaluated 25 times.
    assert epochs_within(10, 5, 4, derived, 200) == 100
    with pytest.raises(ConfigError, match="is too short for one epoch"):
        epochs_within(1, 55, 10, config, 200)


def test_the_command_line(done: Ablation, plan: Plan, tmp_path: Path, capsys: Any) -> None:
    import yaml

    file = tmp_path / "losses.yaml"
    file.write_text(yaml.safe_dump(plan.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    assert main(["ablate", str(file), "--out", str(done.folder)]) == 0
    said = capsys.readouterr()
    assert "4 are finished" in said.err
    assert "no difference shown" in said.out
    assert str(done.folder / "table.html") in said.out
    assert main(["ablate", str(file), "--out", str(done.folder), "--report", "--json", "--seeds", "0"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["variants"]] == ["base", "siou"]
    assert document["variants"][1]["verdict"].startswith("one seed")
    assert main(["ablate", str(file), "--only", "sio"]) == 2
    assert "did you mean 'siou'" in capsys.readouterr().err
    assert main(["ablate", str(file), "--epochs", "2", "--minutes", "3"]) == 2
    assert main(["ablate", str(file), "--seeds", "zero"]) == 2
