"""Search a space of detectors: time every candidate, train them shortly, and train the best of them longer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

import optuna
import torch

from flexdetr.ablate import runs
from flexdetr.ablate.ablation import try_build
from flexdetr.ablate.cost import machine
from flexdetr.ablate.front import Point, best, fronts
from flexdetr.ablate.intervals import Interval, interval
from flexdetr.ablate.plan import as_yaml, budgeted, changes_text
from flexdetr.ablate.run_records import SEARCH, CandidateRecord, SearchRecord, read_record
from flexdetr.ablate.runs import Job
from flexdetr.ablate.search_plan import SearchPlan, candidate_config
from flexdetr.ablate.table import as_csv, as_markdown, interval_text
from flexdetr.config import Config, ConfigError
from flexdetr.data.detect import read
from flexdetr.export import latency
from flexdetr.export.errors import ExportError
from flexdetr.files import write_whole
from flexdetr.model.detector import DetectionModel
from flexdetr.report.charts import Dot, scatter
from flexdetr.report.page import folded, page

_log = logging.getLogger(__name__)

FILE: Final = "search.json"
CSV, MARKDOWN, PAGE = "front.csv", "front.md", "front.html"
_KEPT: Final = (
    "base",
    "space",
    "data",
    "split",
    "sampler",
    "epochs",
    "seeds",
    "precision",
    "threads",
    "limit_ms",
)
# TPE names its favourite again and again while it knows few trials: after so many repeats in a row the next candidate
# is drawn at random, and after so many draws that were all tried the space counts as used up.
_TPE_REPEATS: Final = 5
_REPEATS: Final = 200


class Candidate(NamedTuple):
    """A row of the table.

    Attributes:
        name: "base", or "c" and its number.
        changes: what it chose, as ``key=value`` texts.
        milliseconds: beside the base's; nan if it could not be measured.
        epochs: of the longest rung that it trained; 0 for none.
        ap: of that rung, over the seeds, each the mean over the data sets.
        on_front: whether no other of the last rung is both more accurate and faster.
        refused: why it was not trained.
    """

    name: str
    changes: str
    milliseconds: float
    epochs: int
    ap: Interval
    on_front: bool
    refused: str


class Search(NamedTuple):
    """What a search has found.

    Attributes:
        folder: everything that was written.
        table: the candidates, the last rung's first, the fastest of each first.
        notes: how the numbers came about.
    """

    folder: Path
    table: list[Candidate]
    notes: tuple[str, ...]


def search(
    plan: SearchPlan, folder: str | Path, *, quiet: bool = False, tell: Callable[[str], None] = _log.info
) -> Search:
    """Run a plan to its end, from wherever a former call stopped, and write the front as table, CSV and page.

    Args:
        plan: where to look.
        folder: where everything goes.
        quiet: show no progress of the single runs.
        tell: takes a sentence about each step.

    Raises:
        ConfigError: if the plan does not fit, or has changed since the folder was begun.
        DataError: if the data cannot be used, or has changed.
        Interrupted: after Ctrl-C or SIGTERM; the same call goes on.
    """
    latency.check_precision(plan.precision)
    for key, values in plan.space.items():
        for value in values:
            try_build(f"{key}={value}", candidate_config(plan, {key: value}))
    under_way = _Searching(plan, Path(folder), quiet, tell)
    under_way.first_rung()
    results = {
        name: (plan.epochs[0], [one.ap]) for name, one in under_way.trained().items() if one.ap is not None
    }
    chosen = list(results)
    last = list(chosen)
    for rung, epochs in enumerate(plan.epochs[1:], start=1):
        points = {name: under_way.point(name, results[name][1]) for name in chosen}
        chosen = best(points, max(1, round(plan.keep * len(chosen))))
        seeds = plan.seeds if rung == len(plan.epochs) - 1 else plan.seeds[:1]
        tell(
            f"rung {rung + 1} of {len(plan.epochs)}: {len(chosen)} candidates, {epochs} epochs, {len(seeds)} seeds"
        )
        for name in chosen:
            results[name] = (epochs, [under_way.train(name, epochs, seed) for seed in seeds])
        last = chosen
    return under_way.write(results, last)


class _Searching:
    """A search under way: its record, and what its candidates are called."""

    def __init__(self, plan: SearchPlan, folder: Path, quiet: bool, tell: Callable[[str], None]) -> None:
        self.plan, self.folder, self.quiet, self.tell = plan, folder, quiet, tell
        folder.mkdir(parents=True, exist_ok=True)
        told = plan.model_dump(mode="json", include=set(_KEPT))
        remedy = "choose another --out, or delete it: finished runs are kept, and times are measured again"
        kept = read_record(folder / FILE, SEARCH, remedy)
        if kept is not None:
            differing = [key for key in told if kept.plan.get(key) != told[key]]
            if differing:
                raise ConfigError(
                    f"the plan has changed since {folder} was started: {', '.join(differing)}. Take the change back, "
                    "or choose another --out"
                )
        self.record = kept or SearchRecord(plan=told, machine=machine())
        base = candidate_config(plan, {})
        self.splits = {data: runs.scoring_split(data, plan.split, base) for data in plan.data}
        self.pictures = latency.pictures_of(plan.data[0], base.data.form)
        self._base: Callable[[latency.Picture], object] | None = None

    def first_rung(self) -> None:
        """Time and shortly train as many candidates as the plan says; the sampler learns from each."""
        done = self.record.candidates
        for place, one in enumerate(done):
            if not one.trained:
                self._try(place)
        repeats = 0
        while len(done) < self.plan.candidates and repeats < _REPEATS:
            choices = {} if not done else self._ask(1000 * len(done) + repeats, repeats >= _TPE_REPEATS)
            if done and self._is_known(choices):
                repeats += 1
                continue
            repeats = 0
            done.append(CandidateRecord(choices=choices))
            self._try(len(done) - 1)
        if len(done) < self.plan.candidates:
            self.tell(
                f"{len(done)} candidates instead of {self.plan.candidates}: the space seems to have no other"
            )

    def _is_known(self, choices: Mapping[str, Any]) -> bool:
        """Whether this was tried, or is the base in other words."""
        if any(choices == one.choices for one in self.record.candidates):
            return True
        try:
            return candidate_config(self.plan, choices) == candidate_config(self.plan, {})
        except ConfigError:
            return False

    def trained(self) -> dict[str, CandidateRecord]:
        """The candidates that have an AP, by name."""
        return {_name(i): one for i, one in enumerate(self.record.candidates) if one.ap is not None}

    def point(self, name: str, aps: Sequence[float | None]) -> Point:
        """A candidate's AP and milliseconds."""
        known = [ap for ap in aps if ap is not None and not math.isnan(ap)]
        return Point(math.fsum(known) / len(known) if known else math.nan, self._milliseconds(name))

    def train(self, name: str, epochs: int, seed: int) -> float:
        """The mean AP over the data sets of one rung's run; what is finished is taken as it is."""
        config = candidate_config(self.plan, self._of(name).choices)
        found = []
        for number, data in enumerate(self.plan.data):
            place = self.folder / name / f"epochs-{epochs}-seed-{seed}-data-{number}"
            job = Job(name, budgeted(config, seed, epochs), place, data, self.splits[data])
            self.tell(f"{name}: {epochs} epochs on {data}, seed {seed}")
            found.append(runs.run(job, quiet=self.quiet).ap)
        return math.fsum(found) / len(found)

    def _try(self, place: int) -> None:
        """One candidate of the first rung: does it build, how long does it take, what does it reach."""
        one, name = self.record.candidates[place], _name(place)
        self.tell(f"{name} of {self.plan.candidates}: {changes_text(one.choices) or 'the base'}")
        try:
            config = candidate_config(self.plan, one.choices)
            if one.milliseconds is None:
                self._time(one, config)
        except (ConfigError, ExportError) as error:
            if not one.choices:
                raise
            one.refused = str(error)
        limit = self.plan.limit_ms
        if one.milliseconds is not None and limit is not None and one.choices and one.milliseconds > limit:
            one.refused = f"{one.milliseconds:.1f} ms, and the limit is {limit:g}"
        self._keep()
        if not one.refused:
            ap = self.train(name, self.plan.epochs[0], self.plan.seeds[0])
            one.ap = None if math.isnan(ap) else ap
            one.refused = "diverged" if math.isnan(ap) else ""
        one.trained = True
        self._keep()

    def _time(self, one: CandidateRecord, config: Config) -> None:
        base = self._base or self._compiled(candidate_config(self.plan, {}))
        self._base = base
        if not one.choices:
            found = latency.times({"base": base}, self.pictures)
            one.milliseconds = one.base_milliseconds = found["base"]
            return
        found = latency.times({"base": base, "one": self._compiled(config)}, self.pictures)
        first = self.record.candidates[0].milliseconds or found["base"]
        # The clock differs from hour to hour: the ratio to the base, measured beside it, does not.
        one.milliseconds, one.base_milliseconds = found["one"] / found["base"] * first, found["base"]

    def _compiled(self, config: Config) -> Callable[[latency.Picture], object]:
        data = self.plan.data[0]
        torch.manual_seed(0)
        model = DetectionModel(config, len(read(data).classes)).eval()
        return latency.compiled(model, config, data, self.plan.precision, self.plan.threads)

    def _ask(self, number: int, at_random: bool) -> dict[str, Any]:
        """What the sampler chooses next; it is made anew from all that is known, as after a stop."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.plan.seeds[0] * 100_003 + number
        sampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if at_random or self.plan.sampler == "random"
            else optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, self.plan.candidates // 4))
        )
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        # Choices are numbered: values may be lists and mappings, which Optuna does not take.
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(range(len(values)))
            for key, values in self.plan.space.items()
        }
        for one in self.record.candidates:
            if one.ap is None or one.milliseconds is None or set(one.choices) != set(distributions):
                continue
            numbers = {key: self.plan.space[key].index(value) for key, value in one.choices.items()}
            study.add_trial(
                optuna.trial.create_trial(
                    params=numbers, distributions=distributions, values=[one.ap, one.milliseconds]
                )
            )
        trial = study.ask(distributions)
        return {key: self.plan.space[key][trial.params[key]] for key in self.plan.space}

    def _keep(self) -> None:
        write_whole(self.folder / FILE, self.record.model_dump_json(indent=1))

    def _of(self, name: str) -> CandidateRecord:
        return self.record.candidates[0 if name == _name(0) else int(name[1:])]

    def _milliseconds(self, name: str) -> float:
        found = self._of(name).milliseconds
        return math.nan if found is None else found

    def write(self, results: Mapping[str, tuple[int, Sequence[float | None]]], last: Sequence[str]) -> Search:
        """The table, as CSV, Markdown and a page."""
        front = fronts({name: self.point(name, results[name][1]) for name in last})[:1]
        on_front = front[0] if front else []
        rows = []
        for place, one in enumerate(self.record.candidates):
            name = _name(place)
            epochs, aps = results.get(name, (0, []))
            known = interval([ap for ap in aps if ap is not None and not math.isnan(ap)])
            rows.append(
                Candidate(
                    name,
                    changes_text(one.choices),
                    self._milliseconds(name),
                    epochs,
                    known,
                    name in on_front,
                    one.refused,
                )
            )
        rows.sort(key=lambda row: (-row.epochs, row.milliseconds))
        notes = self._notes()
        title = self.plan.title or "Search"
        points = [
            Dot(row.name, row.milliseconds, *row.ap[:3]) for row in rows if row.epochs == self.plan.epochs[-1]
        ]
        below = f"ms per image on OpenVINO in {self.plan.precision}"
        text = as_yaml(self.plan)
        markdown = as_markdown(title, HEADS, map(cells, rows), notes)
        numbers = [
            [row.name, row.on_front, row.milliseconds, row.epochs, *row.ap[:3], row.changes, row.refused]
            for row in rows
        ]
        sections = {
            "AP against latency": scatter(
                points, title="Candidates of the last rung", across=below, up="AP", joined=on_front
            ),
            "Candidates": f"<pre>{escape(markdown)}</pre>",
            "The plan": folded("YAML", text),
        }
        for name, content in (
            ("plan.yaml", text),
            (CSV, as_csv(_COLUMNS, numbers)),
            (MARKDOWN, markdown),
            (PAGE, page(title, "The line joins those that no other beats.", sections)),
        ):
            write_whole(self.folder / name, content)
        return Search(self.folder, rows, notes)

    def _notes(self) -> tuple[str, ...]:
        plan = self.plan
        return (
            f"Data {', '.join(plan.data)}; rungs of {', '.join(map(str, plan.epochs))} epochs, of which "
            f"{plan.keep:g} goes on; seeds of the last: {', '.join(map(str, plan.seeds))}.",
            f"ms: resizing and network in {plan.precision} on OpenVINO, {plan.threads} threads, random weights: the "
            f"ratio to the base in alternation times the base's own; on {self.record.machine}.",
            "AP of short trainings: they order candidates, and say little about what a long one reaches.",
        )


def _name(place: int) -> str:
    return f"c{place}" if place else "base"


HEADS: Final = ("candidate", "front", "ms", "epochs", "AP", "changes")
_COLUMNS: Final = (*HEADS[:4], "ap_mean", "ap_low", "ap_high", "changes", "refused")


def cells(row: Candidate) -> tuple[str, ...]:
    """A row as a person reads it."""
    milliseconds = "-" if math.isnan(row.milliseconds) else f"{row.milliseconds:.1f}"
    changes = row.changes + (f" ({row.refused})" if row.refused else "")
    return (
        row.name,
        "yes" if row.on_front else "",
        milliseconds,
        str(row.epochs or "-"),
        interval_text(row.ap),
        changes,
    )
