"""A row in a part's table is all that the configuration and the builders need."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from flexdetr.config import Config, ConfigError, build
from flexdetr.engine import trackers
from flexdetr.engine.tracker_table import TRACKERS, TrackerRow
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.criterion import Criterion
from flexdetr.loss.terms import ClassLoss
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fusion import FUSIONS, Fusion, FusionRow
from flexdetr.model.inserts import INSERTS
from flexdetr.model.intra import INTRA, IntraRow

SMALL = {
    "backbone": "hgnetv2_atto",
    "encoder": {"strides": [16, 32], "width": 16, "heads": 2, "ffn": 16},
    "head": {"width": 16, "heads": 2, "ffn": 16, "layers": 1},
}


class Novel(nn.Identity):
    """Fits every place: an insert, a block within a level, one side of a fusion."""


@pytest.fixture(autouse=True)
def novel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that a row can name, as if it were a new file of the package."""
    module = ModuleType("novel_part")
    block = Fusion(lambda _, before, after: nn.Conv2d(before, after, 1), Novel, lambda _: nn.MaxPool2d(2))
    vars(module).update(
        Novel=Novel, FUSION=block, LOSS=ClassLoss(lambda x: x, lambda x, _: x), Tracker=lambda story: story
    )
    monkeypatch.setitem(sys.modules, "novel_part", module)
    return module


ROWS: list[tuple[Mapping[str, Any], Any, dict[str, Any]]] = [
    (INSERTS, "novel_part:Novel", {"attention": {"backbone.16": "novel", "encoder.32": "novel"}}),
    (INTRA, IntraRow("novel_part:Novel"), {"encoder": {**SMALL["encoder"], "intra": "novel"}}),
    (FUSIONS, FusionRow("novel_part:FUSION"), {"encoder": {**SMALL["encoder"], "fusion": "novel"}}),
    (CLASS_LOSSES, "novel_part:LOSS", {"loss": {"classification": "novel"}}),
    (TRACKERS, TrackerRow("novel_part:Tracker", ()), {"log": ["novel"]}),
]
IDS = ["insert", "intra", "fusion", "class loss", "tracker"]


@pytest.mark.parametrize(("table", "row", "changes"), ROWS, ids=IDS)
def test_a_row_is_all_it_takes(
    table: Mapping[str, Any],
    row: Any,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    novel: ModuleType,
) -> None:
    monkeypatch.setitem(table, "novel", row)
    config = build({**SMALL, **changes})
    assert isinstance(config, Config)
    if table is CLASS_LOSSES:
        assert Criterion(config.loss, 3).class_loss is novel.LOSS
    elif table is TRACKERS:
        trackers.check_installed(config.log)
        assert trackers.kind("novel") is novel.Tracker
    else:
        assert any(isinstance(part, Novel) for part in DetectionModel(config, 3).modules())


@pytest.mark.parametrize(("table", "row", "changes"), ROWS, ids=IDS)
def test_a_name_without_a_row_is_answered_with_the_nearest(
    table: Mapping[str, Any], row: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table, "novell", row)
    with pytest.raises(ConfigError, match=r"unknown \w+ 'novel'; did you mean 'novell'"):
        build({**SMALL, **changes})
