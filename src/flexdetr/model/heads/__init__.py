"""Heads: from the encoder's levels to an answer. ``HEADS`` names them; this table imports no torch.

A head is a folder with two files: ``options.py``, its section of the configuration, which is read without torch, and
``head.py``, an ``nn.Module`` that keeps the protocol ``flexdetr.model.heads.base.Head``. Its row is the only other
place that knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flexdetr.config_part import Part
from flexdetr.model.heads.classifier.options import ClassifierOptions
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.model.heads.yolov8.options import YOLOv8Options


class HeadOptions(Protocol):
    """What every head's section of the configuration has; it is a ``Part``.

    ``name`` is the head's key in ``HEADS``.
    """

    @property
    def name(self) -> str:
        """The head's name."""
        ...

    def check_levels(self, strides: tuple[int, ...]) -> None:
        """Refuse options that do not fit the encoder's levels; raises ``ValueError``."""
        ...

    def summary(self) -> str:
        """The options in a few words, like "3 layers, 150 queries, width 128"."""
        ...

    def model_dump(self) -> dict[str, Any]:
        """The section as nested values."""
        ...


@dataclass(frozen=True)
class HeadRow:
    """One kind of head.

    Attributes:
        options: its section of the configuration, with the field ``name``.
        module: the class, as ``package.module:Class``; imported by ``flexdetr.model.heads.base``
            when a head is built, because it needs torch.
        objective: what makes its training loss, as ``package.module:function`` of (LossConfig, options, number of
            classes); imported by ``flexdetr.loss.criterion.build_criterion``.
        task: what it does with a picture, a key of ``flexdetr.tasks.TASKS``.
        imagenet: pictures are normalised as ImageNet's classifiers have it where the backbone does not say how.
    """

    options: type[Part]
    module: str
    objective: str
    task: str = "detect"
    imagenet: bool = False


HEADS: Final[Mapping[str, HeadRow]] = {
    "rtdetr": HeadRow(
        RTDETROptions,
        "flexdetr.model.heads.rtdetr.head:RTDETRHead",
        "flexdetr.loss.criterion:objective",
    ),
    "dfine": HeadRow(
        DFINEOptions,
        "flexdetr.model.heads.dfine.head:DFINEHead",
        "flexdetr.loss.distribution:objective",
    ),
    "yolov8": HeadRow(
        YOLOv8Options,
        "flexdetr.model.heads.yolov8.head:YOLOv8Head",
        "flexdetr.loss.dense:objective",
    ),
    "classifier": HeadRow(
        ClassifierOptions,
        "flexdetr.model.heads.classifier.head:ClassifierHead",
        "flexdetr.loss.classification:objective",
        task="classify",
        imagenet=True,
    ),
    "orientation": HeadRow(
        ClassifierOptions,
        "flexdetr.model.heads.classifier.head:ClassifierHead",
        "flexdetr.loss.classification:objective",
        task="orientation",
        imagenet=True,
    ),
}
DEFAULT: Final = "rtdetr"


def heads_of(task: str) -> tuple[str, ...]:
    """The heads of a task."""
    return tuple(name for name, row in HEADS.items() if row.task == task)


def owners_of(option: str) -> tuple[str, ...]:
    """The heads that have an option."""
    return tuple(name for name, row in HEADS.items() if option in row.options.model_fields)


def shared_options(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What another head takes over of a head's section: the options that it has too."""
    fields = HEADS[name].options.model_fields if name in HEADS else {}
    return {key: value for key, value in section.items() if key in fields and key != "name"}
