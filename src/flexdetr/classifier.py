"""A classifier for people: what a ``Detector`` or an ``ArtifactDetector`` answers for whole pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, overload

from flexdetr.classes import Classes, described
from flexdetr.config import ConfigError, nearest
from flexdetr.part_table import load_part
from flexdetr.runtime.classification import Classification
from flexdetr.tasks import TASKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexdetr.api import Detector
    from flexdetr.deployed import ArtifactDetector
    from flexdetr.engine.fit import Run
    from flexdetr.metrics.classification import ClassMetrics
    from flexdetr.model.detector import DetectionModel
    from flexdetr.runtime.artifact import Artifact
    from flexdetr.runtime.computation import Computation
    from flexdetr.runtime.sources import Item, Picture, Source, Unreadable


class Classifier:
    """A classifier with its classes and its configuration.

    Args:
        model: a preset's name, like "pphgnet_tiny_cls".
        classes: class names in the head's order, or ``{data-set id: name}``, or ``Classes``.
        weights: a checkpoint file, "backbone", or None for random weights.
        **changes: configuration keys, like ``backbone="timm/convnext_atto"`` or ``image_size=160``.

    Raises:
        ConfigError: if a name, a key or a value is wrong, or ``model`` is no classifier.

    Example:
        >>> classifier = Classifier("hgnetv2_b0_cls", classes=["cat", "dog"])  # doctest: +SKIP
        >>> run = classifier.train("pets", epochs=20, out="runs/pets")  # doctest: +SKIP
        >>> classifier.predict("tom.jpg").name  # doctest: +SKIP
        'cat'
    """

    def __init__(
        self,
        model: str,
        *,
        classes: Classes | Mapping[int, str] | Iterable[str],
        weights: str | Path | None = None,
        **changes: Any,  # noqa: ANN401 - keys of Config, checked when it is built
    ) -> None:
        from flexdetr.api import Detector
        from flexdetr.classifiers import CLASSIFIERS
        from flexdetr.presets import preset

        if preset(model).task != "classify":
            near = nearest(f"{model}_cls", CLASSIFIERS, "classifier")
            raise ConfigError(f"{model} is a detector, flexdetr.Detector({model!r}, ...); {near}")
        self._inner: Detector | ArtifactDetector = Detector(
            model, classes=classes, weights=weights, **changes
        )

    @classmethod
    def of(cls, inner: Detector | ArtifactDetector) -> Self:
        """A loaded checkpoint or artifact as a classifier."""
        made = cls.__new__(cls)
        made._inner = inner
        return made

    def __repr__(self) -> str:
        return f"<Classifier {self._inner.metadata.model}, {described(self.classes, self._size)}>"

    @property
    def task(self) -> str:
        """What is told of a picture: "classify" its class, "orientation" which way a page lies."""
        return str(self.metadata.task if self.deployed else self.config.task)

    @cached_property
    def _look(self) -> Callable[[Source], NDArray[np.uint8]]:
        """What the model is shown of a picture."""
        return partial(load_part(TASKS[self.task].look), form=self._inner.form)

    @property
    def _size(self) -> tuple[int, int]:
        artifact = cast("ArtifactDetector", self._inner)
        return artifact.image_size if self.deployed else cast("Detector", self._inner).config.image_size

    @property
    def deployed(self) -> bool:
        """Whether this is an exported artifact, which is not trained, saved or exported any further."""
        return hasattr(self._inner, "artifact")

    @property
    def classes(self) -> Classes:
        """Names and data-set ids, in the head's order."""
        return self._inner.classes

    @property
    def metadata(self) -> Any:  # noqa: ANN401 - of a checkpoint or of an artifact
        """What the checkpoint or the artifact says about itself."""
        return self._inner.metadata

    @property
    def config(self) -> Any:  # noqa: ANN401 - a Config; naming it here would need torch's side
        """The whole configuration; an artifact has none."""
        return self._checkpoint.config

    @property
    def model(self) -> DetectionModel:
        """The torch module: ``model(images).final.logits`` is (B, 1, C); an artifact has none."""
        return self._checkpoint.model

    @property
    def _checkpoint(self) -> Detector:
        if self.deployed:
            raise ConfigError(
                f"{self._inner!r} is exported: only the checkpoint that it was made from can be trained, saved, "
                "exported or looked into"
            )
        return cast("Detector", self._inner)

    def train(self, data: str | Path, /, *, out: str | Path, quiet: bool = False, **changes: Any) -> Run:  # noqa: ANN401
        """Train on a folder with a folder of pictures for each class; afterwards the best weights are held.

        Args:
            data: ``DATA/CLASS/*.jpg`` or ``DATA/{train,val,test}/CLASS/*.jpg``.
            out: the run's folder.
            quiet: show no progress.
            **changes: as for ``Detector.train``.

        Raises:
            DataError: if the data cannot be used.
            ConfigError: if a key or value is wrong, or the data's classes are not the classifier's.
        """
        return self._checkpoint.train(data, out=out, quiet=quiet, **changes)

    def evaluate(
        self,
        data: str | Path,
        split: str = "test",
        *,
        device: str = "auto",
        precision: str | None = None,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
        report: str | Path | None = None,
    ) -> ClassMetrics:
        """Top-1, top-5, and each class's recall and precision on a split of a data set.

        See ``Detector.evaluate``.

        Raises:
            DataError: if the data cannot be used, or has no such split.
        """
        options = {**_options(device, precision), "batch_size": batch_size}
        found = self._inner.evaluate(data, split, progress=progress, report=report, **options)
        return cast("ClassMetrics", found)

    @overload
    def predict(
        self, source: Source, *, device: str = ..., precision: str | None = ...
    ) -> Classification: ...

    @overload
    def predict(
        self, source: list[Source], *, device: str = ..., precision: str | None = ...
    ) -> list[Classification]: ...

    def predict(
        self, source: Source | list[Source], *, device: str = "auto", precision: str | None = None
    ) -> Classification | list[Classification]:
        """What a picture shows.

        Args:
            source: a path, a PIL image, an array (H, W, 3) uint8 RGB, or a list of them.
            device: where to compute.
            precision: as for ``Detector.predict``.

        Returns:
            All classes, most probable first (the first 300), of the middle of the picture; a list for a list.

        Raises:
            ImageError: if a file cannot be read as an image.
        """
        options = _options(device, precision)
        sources: list[Source] = source if isinstance(source, list) else [source]
        given: list[Source] = [self._look(one) for one in sources]
        found = [Classification.of(one) for one in self._inner.predict(given, 0.0, **options)]
        return found if isinstance(source, list) else found[0]

    def predict_many(
        self, items: Iterable[Item], *, device: str = "auto", precision: str | None = None
    ) -> Iterator[tuple[Picture, Classification] | Unreadable]:
        """What the pictures show that ``flexdetr.runtime.sources.find`` lists.

        Yields:
            In the order of the items, each picture with its classes, or why it could not be read.
        """
        options = _options(device, precision)
        for answer in self._inner.predict_many(items, 0.0, look=self._look, **options):
            yield (answer[0], Classification.of(answer[1])) if isinstance(answer, tuple) else answer

    def computation(self, **options: Any) -> Computation:  # noqa: ANN401
        """What ``predict`` computes with; see ``Detector.computation``."""
        return self._inner.computation(**options)

    def export(self, format: str, out: str | Path | None = None, **options: Any) -> Artifact:  # noqa: A002, ANN401
        """Write the classifier for another runtime, and prove that the file does what the model does.

        The graph answers as a detector's does: for each class, most probable first, a box that is the whole picture, a
        probability and a label. See ``Detector.export``.
        """
        return self._checkpoint.export(format, out, **options)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` checkpoint with classes, configuration and provenance inside."""
        return self._checkpoint.save(path)


def _options(device: str, precision: str | None) -> dict[str, Any]:
    """What a detector is asked with; without a precision, it takes its own."""
    return {"device": device} if precision is None else {"device": device, "precision": precision}


def load_detector(
    path: str | Path,
    **options: Any,  # noqa: ANN401
) -> Detector | ArtifactDetector:
    """``flexdetr.load`` for what can be done with detectors only.

    Raises:
        ConfigError: if the file is a classifier.
    """
    from flexdetr.loading import load

    loaded = load(path, **options)
    if isinstance(loaded, Classifier):
        raise ConfigError(f"{path} is a classifier: this is for detectors, whose answers are boxes")
    return loaded
