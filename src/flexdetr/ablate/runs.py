"""One run of an ablation: begun, continued or taken as finished, and scored once."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from flexdetr.ablate.plan import flat
from flexdetr.ablate.run_records import RUN, RunRecord, read_record
from flexdetr.api import Detector
from flexdetr.config import Config, ConfigError, build
from flexdetr.data.dataset import SPLITS, DataError, fingerprint
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.files import write_whole
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.tasks import task
from flexdetr.weights.store import read_metadata

_log = logging.getLogger(__name__)

RECORD: Final = "ablation.json"


@dataclass(frozen=True)
class Job:
    """One run of the plan."""

    variant: str
    config: Config
    folder: Path
    data: str
    split: str

    @property
    def seed(self) -> int:
        """What pairs the run with the base's."""
        return self.config.seed


@dataclass(frozen=True)
class Result:
    """What a finished run has reached.

    Attributes:
        ap: of the best checkpoint's deploy form on the plan's split, a classifier's top-1; nan if the run failed.
        ap50: likewise; a classifier's top-5.
        seconds: of training, with its evaluations.
        epochs: that were trained.
        best_epoch: whose checkpoint was scored: the best on the validation split.
        num_classes: of the head.
        failed: why there is no score; empty if there is one.
    """

    ap: float
    ap50: float
    seconds: float
    epochs: int
    best_epoch: int
    num_classes: int = 0
    failed: str = ""


def finished(job: Job) -> Result | None:
    """The result of a run that needs nothing more, or None.

    Raises:
        ConfigError: if the run was made with other settings.
        DataError: if the data has changed since.
    """
    remedy = f"delete {job.folder} to run it again"
    record = read_record(job.folder / RECORD, RUN, remedy)
    if record is None:
        return None
    _check_same(job, record)
    if record.result is None:
        return None
    found: dict[str, Any] = {
        key: math.nan if value is None else value for key, value in record.result.model_dump().items()
    }
    return Result(**found)


def run(job: Job, *, quiet: bool = False) -> Result:
    """Bring a run to its end, from wherever it stands.

    Raises:
        ConfigError: if the run was begun with other settings.
        DataError: if the data cannot be used or has changed since.
        Interrupted: after Ctrl-C or SIGTERM; the same call goes on from there.
    """
    done = finished(job)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    _write(job, None)
    try:
        if (job.folder / run_state.FILE).exists():
            result = _scored(job, fit.resume(job.folder, quiet=quiet, typed=[job.config.backbone.name]))
        else:
            result = _scored(job, fit.train(job.data, job.config, out=job.folder, quiet=quiet))
    except NonFiniteError as error:  # a result too: this variant diverges with this seed
        _log.warning("%s, seed %d failed: %s", job.variant, job.seed, error)
        result = Result(math.nan, math.nan, math.nan, 0, 0, failed=str(error))
    _write(job, result)
    return result


def _scored(job: Job, trained: fit.Run) -> Result:
    detector = Detector.from_checkpoint(trained.best, backbone=job.config.backbone.name)
    device = job.config.train.device.partition(",")[0]
    metrics = detector.evaluate(job.data, job.split, device=device)
    training = read_metadata(trained.best).training
    return Result(
        *metrics.pair,
        trained.seconds,
        int(training["epochs"]),
        int(training["validation"]["epoch"]),
        len(detector.classes),
    )


def scoring_split(data: str, wanted: str | None, config: Config) -> str:
    """The split whose images score the runs.

    Raises:
        DataError: if the data cannot be read or has no such split.
    """
    dataset = task(config.task).read(data, val_fraction=config.data.val_fraction, seed=config.seed)
    if wanted is not None:
        dataset.split(wanted)
        return wanted
    return "test" if "test" in dataset.splits else "val"


def curve(folder: Path) -> list[tuple[int, float]]:
    """(epoch, AP on the validation split) of each evaluation of a run; none, with a warning, of a damaged file."""
    path = folder / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            found = [(row["epoch"], row.get("ap") or row.get("top1")) for row in rows]
            return [(int(epoch), float(score)) for epoch, score in found if score]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        _log.warning("%s cannot be read (%s): the page has no curve of this run", path, error)
        return []


@lru_cache
def _fingerprint(kind: str, data: str, val_fraction: float, seed: int) -> int:
    splits = task(kind).read(data, val_fraction=val_fraction, seed=seed).splits
    return fingerprint([record for split in SPLITS for record in splits.get(split, ())])


def _facts(job: Job) -> dict[str, Any]:
    return {
        "config": job.config.model_dump(mode="json"),
        "split": job.split,
        "data": str(Path(job.data).resolve()),
        "fingerprint": _fingerprint(job.config.task, job.data, job.config.data.val_fraction, job.seed),
    }


def _check_same(job: Job, record: RunRecord) -> None:
    """Refuse to mix runs that were made with different settings."""
    facts = _facts(job)
    # Built anew, so that keys that a later version added count with their defaults.
    former = flat(build(record.config).model_dump(mode="json")) | {"split": record.split}
    wanted = flat(facts["config"]) | {"split": job.split}
    differing = [
        f"{key} was {former.get(key)!r} and is {wanted.get(key)!r}"
        for key in dict.fromkeys([*former, *wanted])
        if former.get(key) != wanted.get(key)
    ]
    if differing:
        raise ConfigError(
            f"the plan has changed since {job.folder} was made: {'; '.join(differing[:5])}"
            f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}. Take the change back, choose another "
            f"--out, or delete that folder to run it again"
        )
    if facts["fingerprint"] != record.fingerprint:
        raise DataError(
            f"the data {job.data} has changed since {job.folder} was made, so the runs cannot be compared; put it back "
            "or choose another --out"
        )


def _write(job: Job, result: Result | None) -> None:
    values = None
    if result is not None:  # JSON has no nan
        values = {key: None if value != value else value for key, value in asdict(result).items()}
    write_whole(job.folder / RECORD, json.dumps({**_facts(job), "result": values}, indent=1))
