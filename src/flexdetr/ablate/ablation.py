"""Run a plan and write its table: one function, which goes on wherever a former call stopped."""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from flexdetr.ablate import runs
from flexdetr.ablate.budget import measured_epochs
from flexdetr.ablate.cost import Costs, costs
from flexdetr.ablate.page import page
from flexdetr.ablate.plan import BASE, Plan, as_yaml, budgeted, changes_text, configurations
from flexdetr.ablate.runs import Job, Result
from flexdetr.ablate.table import Row, rows, to_csv, to_markdown
from flexdetr.config import Config, ConfigError
from flexdetr.files import write_whole
from flexdetr.loss.criterion import build_criterion
from flexdetr.model.detector import DetectionModel
from flexdetr.weights.skeleton import without_draws

_log = logging.getLogger(__name__)

CSV: Final = "table.csv"
MARKDOWN: Final = "table.md"
PAGE: Final = "table.html"


class Ablation(NamedTuple):
    """What a plan has given.

    Attributes:
        folder: everything that was written.
        table: one row for the base and for each variant.
        notes: how the numbers came about.
        missing: runs that have not finished.
    """

    folder: Path
    table: list[Row]
    notes: tuple[str, ...]
    missing: int


def ablate(
    plan: Plan,
    folder: str | Path,
    *,
    run_missing: bool = True,
    measure_again: bool = False,
    quiet: bool = False,
    tell: Callable[[str], None] = _log.info,
) -> Ablation:
    """Run what has not been run yet, and write the table as CSV, Markdown and a page.

    Seed by seed: after the first one there is a whole row of each variant, after the second there are intervals.

    Args:
        plan: what to compare.
        folder: where everything goes; runs that are finished there are taken as they are.
        run_missing: False only writes the table of what is finished.
        measure_again: measure the latencies even where they are known.
        quiet: show no progress of the single runs.
        tell: takes a sentence about each run.

    Raises:
        ConfigError: if the plan does not fit, or has changed since a run in the folder was made.
        DataError: if the data cannot be used, or has changed.
        Interrupted: after Ctrl-C or SIGTERM; the same call goes on.
    """
    folder = Path(folder)
    configs = configurations(plan)
    split = runs.scoring_split(plan.data, plan.split, configs[BASE])
    for name, config in configs.items():
        try_build(name, config)
    epochs = _epochs(plan, configs, folder, run_missing=run_missing, quiet=quiet)
    jobs = [
        Job(name, budgeted(config, seed, epochs[name]), folder / name / f"seed-{seed}", plan.data, split)
        for seed in plan.seeds
        for name, config in configs.items()
    ]
    done = {
        (job.variant, job.seed): runs.finished(job) for job in jobs
    }  # a changed plan is told before any run
    missing = [job for job in jobs if done[job.variant, job.seed] is None]
    tell(
        f"{len(jobs)} runs: {len(configs)} x {len(plan.seeds)} seeds; {len(jobs) - len(missing)} are finished"
    )
    if run_missing:
        for number, job in enumerate(missing, start=1):
            tell(f"run {number} of {len(missing)}: {job.variant}, seed {job.seed}")
            done[job.variant, job.seed] = runs.run(job, quiet=quiet)
        missing = []
    results: dict[str, dict[int, Result]] = {name: {} for name in configs}
    for (name, seed), result in done.items():
        if result is not None:
            results[name][seed] = result
    return _write(plan, folder, jobs, results, len(missing), measure_again=measure_again)


def _write(
    plan: Plan,
    folder: Path,
    jobs: Sequence[Job],
    results: Mapping[str, Mapping[int, Result]],
    missing: int,
    *,
    measure_again: bool,
) -> Ablation:
    scored: dict[str, Job] = {}
    for job in jobs:
        result = results[job.variant].get(job.seed)
        if result is not None and not result.failed:
            scored.setdefault(job.variant, job)
    known = costs(scored, folder, again=measure_again) if scored else Costs({}, "")
    changes = {
        BASE: changes_text(plan.base),
        **{name: changes_text(changed) for name, changed in plan.variants.items()},
    }
    table = rows(results, changes, known.of)
    notes = _notes(plan, jobs[0].split, known.machine, missing, table)
    title = plan.title or "Ablation"
    text = as_yaml(plan)
    curves = _curves([job for job in jobs if job.seed in results[job.variant]])
    for name, content in (
        ("plan.yaml", text),
        (CSV, to_csv(table)),
        (MARKDOWN, to_markdown(title, table, notes)),
        (PAGE, page(title, table, notes, curves, text)),
    ):
        write_whole(folder / name, content)
    return Ablation(folder, table, notes, missing)


def _epochs(
    plan: Plan, configs: Mapping[str, Config], folder: Path, *, run_missing: bool, quiet: bool
) -> dict[str, int | None]:
    """Each variant's number of epochs; None leaves it to the recipe."""
    budget = plan.budget
    if budget is None or budget.minutes is None:
        return dict.fromkeys(configs, budget.epochs if budget else None)
    found: dict[str, int | None] = {}
    for name, config in configs.items():
        trial = budgeted(config, plan.seeds[0], None)
        found[name] = measured_epochs(
            name, trial, plan.data, budget.minutes, folder, measure=run_missing, quiet=quiet
        )
    return found


def try_build(name: str, config: Config) -> None:
    """A wrong part is told now and not after hours, when its turn comes.

    Raises:
        ConfigError: if the configuration cannot be built, with the variant's name.
    """
    try:
        with without_draws():
            DetectionModel(config, 1)
        build_criterion(config.loss, config.head, 1)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _curves(jobs: Sequence[Job]) -> dict[str, list[tuple[float, float]]]:
    """Mean AP over the seeds at each epoch that all of them evaluated."""
    by_name: dict[str, list[dict[int, float]]] = {}
    for job in jobs:
        if (job.folder / "metrics.csv").exists():
            by_name.setdefault(job.variant, []).append(dict(runs.curve(job.folder)))
    return {
        name: [
            (float(epoch), math.fsum(each[epoch] for each in seeds) / len(seeds))
            for epoch in sorted(set.intersection(*(set(each) for each in seeds)))
        ]
        for name, seeds in by_name.items()
    }


def _notes(plan: Plan, split: str, machine: str, missing: int, table: Sequence[Row]) -> tuple[str, ...]:
    """How the numbers came about, and what they do not say."""
    compared = sum(row.difference is not None for row in table)
    budget = plan.budget
    length = "as the recipe derives it from the data"
    if budget is not None:
        length = (
            f"{budget.epochs} epochs"
            if budget.epochs
            else f"the epochs that fit into {budget.minutes:g} minutes"
        )
    selection = (
        "the validation split, which also chose the checkpoint: all scores are a little too good"
        if split == "val"
        else "the test split; the validation split chose the checkpoint"
    )
    notes = [
        f"Data {plan.data}, seeds {', '.join(map(str, plan.seeds))}; each run trains {length}, its schedule whole.",
        f"AP and AP50 of the best checkpoint's deploy form on {selection}.",
    ]
    if len(plan.seeds) == 1:
        notes.append("One seed: there is no interval, and no difference can be told from chance.")
    else:
        notes.append(
            "Behind ± is half of the 95 % interval (Student's t over the seeds). Differences are taken seed by seed; "
            '"no difference shown" means that the interval includes zero, not that the two are equal.'
        )
        notes.append(
            f"Of {compared} comparisons at 95 %, {0.05 * compared:.1g} are expected to exclude zero by chance alone. "
            "The seeds share one split of the data: other data may say something else."
        )
    if machine:
        notes.append(
            f"Parameters, GFLOPs and ms are those of the deploy form; ms is the median of one image from its pixels to "
            f"its objects, the variants in alternation, on {machine}. Minutes are of training with its evaluations."
        )
    notes.append(f"Written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC.")
    if missing:
        notes.insert(0, f"NOT FINISHED: {missing} runs are still missing.")
    return tuple(notes)
