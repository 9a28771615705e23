"""The Python interface: a detector that can be trained, evaluated, used and saved. Thin on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.config import Config, merge
from flexdetr.config import build as build_config
from flexdetr.presets import resolve
from flexdetr.runtime.detections import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flexdetr.engine.checkpoint import Start
    from flexdetr.engine.fit import Run
    from flexdetr.metrics.coco_map import Metrics
    from flexdetr.model.detector import DetectionModel
    from flexdetr.weights.store import Metadata

    Picture = str | Path | Image.Image | NDArray[np.uint8]

# Published RT-DETR scores are calibrated low: 0.4 is where most detections of a trained model are right.
THRESHOLD = 0.4


class Detector:
    """A detector with its classes and its configuration.

    Args:
        model: a preset's name.
        classes: class names in the head's order, or ``{data-set id: name}``, or ``Classes``.
        weights: a checkpoint file, "coco", "backbone", or None for random weights.
        **changes: configuration keys, like ``backbone="timm/convnext_atto"`` or ``image_size=320``.

    Attributes:
        model: the torch module; ``model(images)`` returns an ``Output``.
        classes: names and data-set ids, in the head's order.
        config: the whole configuration.
        metadata: what ``save`` writes beside the weights.

    Raises:
        ConfigError: where a name, a key or a value is wrong.
    """

    def __init__(
        self,
        model: str,
        *,
        classes: Classes | Mapping[int, str] | Iterable[str],
        weights: str | Path | None = None,
        **changes: Any,  # noqa: ANN401 - keys of Config, checked when it is built
    ) -> None:
        from flexdetr.engine.checkpoint import start

        config = resolve(model, **changes, weights="none" if weights is None else str(weights))
        self._take(start(config, _classes(classes)))

    def _take(self, begun: Start) -> None:
        self._begun = begun
        self.model: DetectionModel = begun.model.eval()
        self.classes: Classes = begun.classes
        self.config: Config = begun.config
        self.metadata: Metadata = begun.metadata
        self._fused: tuple[tuple[tuple[int, int], ...], DetectionModel] | None = None

    @classmethod
    def from_checkpoint(cls, path: str | Path, **changes: Any) -> Self:  # noqa: ANN401 - keys of Config
        """A detector with the configuration, classes and weights of a checkpoint; see ``load``."""
        from flexdetr.engine.checkpoint import restore

        detector = cls.__new__(cls)
        detector._take(restore(path, changes))
        return detector

    def train(self, data: str | Path, *, out: str | Path, quiet: bool = False, **changes: Any) -> Run:  # noqa: ANN401
        """Train on a data set; afterwards the detector holds the best weights.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format.
            out: the run's folder.
            quiet: show no progress.
            **changes: keys of the configuration's ``train`` section, like ``epochs=50``, or other sections whole,
                like ``data={"mosaic": 0.0}``.

        Raises:
            DataError: where the data cannot be used.
            ConfigError: where a key or value is wrong, or the data's classes are not the detector's.
        """
        from flexdetr.config import TrainConfig
        from flexdetr.engine.checkpoint import restore
        from flexdetr.engine.fit import train

        schedule = {key: changes.pop(key) for key in [*changes] if key in TrainConfig.model_fields}
        values = merge(merge(self.config.model_dump(), {"train": schedule}), changes)
        run = train(data, build_config(values), out=out, begun=self._begun, quiet=quiet)
        self._take(restore(run.best, {}))
        return run

    def evaluate(
        self,
        data: str | Path,
        split: str = "test",
        *,
        device: str = "auto",
        batch_size: int = 8,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Metrics:
        """The 12 COCO numbers on a split of a data set.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format, with classes of the same names.
            split: "train", "val" or "test".
            device: where to compute.
            batch_size: images at a time.
            decoder_layers: run fewer layers than were trained.
            queries: select another number of queries.

        Raises:
            DataError: where the data cannot be used, or has no such split.
        """
        from flexdetr.engine.evaluate import evaluate_split

        return evaluate_split(
            self._deploy_form(),
            data,
            split,
            classes=self.classes,
            config=self.config,
            device=device,
            batch_size=batch_size,
            decoder_layers=decoder_layers,
            queries=queries,
        )

    @overload
    def predict(
        self,
        source: Picture,
        threshold: float = ...,
        *,
        device: str = ...,
        decoder_layers: int | None = ...,
        queries: int | None = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: list[Picture],
        threshold: float = ...,
        *,
        device: str = ...,
        decoder_layers: int | None = ...,
        queries: int | None = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Picture | list[Picture],
        threshold: float = THRESHOLD,
        *,
        device: str = "auto",
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            source: a path, a PIL image, an array (H, W, 3) uint8 RGB, or a list of them.
            threshold: lowest score to keep, in [0, 1].
            device: where to compute.
            decoder_layers: run fewer layers than were trained.
            queries: select another number of queries.

        Returns:
            Detections in pixels of the original image and the data set's own class ids; a list for a list.

        Raises:
            ImageError: where a file cannot be read as an image.
        """
        from flexdetr.engine.predict import detect_images

        pictures = source if isinstance(source, list) else [source]
        found = list(
            detect_images(
                self._deploy_form(),
                (_pixels(picture) for picture in pictures),
                classes=self.classes,
                size=self.config.image_size,
                threshold=threshold,
                device=device,
                decoder_layers=decoder_layers,
                queries=queries,
            )
        )
        return found if isinstance(source, list) else found[0]

    def _deploy_form(self) -> DetectionModel:
        """The fused model; made again only where a weight has changed since."""
        from flexdetr.model.fuse import fuse

        weights = tuple((value.data_ptr(), value._version) for value in self.model.state_dict().values())
        if self._fused is None or self._fused[0] != weights:
            self._fused = (weights, fuse(self.model.eval()))
        return self._fused[1]

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` checkpoint with classes, configuration and provenance inside."""
        from flexdetr.weights import store

        return store.save(path, self.model.state_dict(), self.metadata)


def load(path: str | Path, **changes: Any) -> Detector:  # noqa: ANN401 - keys of Config
    """A detector from a checkpoint file: ours, or one of another project.

    Args:
        path: the file.
        **changes: configuration keys that do not change a weight's shape, like ``decoder={"eval_layers": 3}``.

    Raises:
        WeightsError: where the file cannot be used.
        ConfigError: where a key or value is wrong.
    """
    return Detector.from_checkpoint(path, **changes)


def _classes(classes: Classes | Mapping[int, str] | Iterable[str]) -> Classes:
    if isinstance(classes, Classes):
        return classes
    if isinstance(classes, Mapping):
        return Classes(tuple(classes.values()), tuple(classes))
    return Classes.of(classes)


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of anything that ``predict`` takes."""
    from flexdetr.data.images import read_image, to_rgb

    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(picture))
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image array must be (H, W, 3) uint8 RGB; got {array.shape} {array.dtype}")
    return array
