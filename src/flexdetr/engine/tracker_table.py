"""Where a run's numbers can go, by name; the table imports none of the libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class TrackerRow(NamedTuple):
    """One kind of tracker.

    Attributes:
        place: its class as ``package.module:Class``; see ``flexdetr.engine.trackers``.
        needs: the modules that have to be installed.
    """

    place: str
    needs: tuple[str, ...]


TRACKERS: Final[Mapping[str, TrackerRow]] = {
    "tensorboard": TrackerRow("flexdetr.engine.trackers:TensorBoard", ("tensorboard",)),
    # MLflow's own default store is a SQLite file.
    "mlflow": TrackerRow("flexdetr.engine.trackers:MLflow", ("mlflow", "sqlalchemy", "alembic")),
    "wandb": TrackerRow("flexdetr.engine.trackers:WandB", ("wandb",)),
}
