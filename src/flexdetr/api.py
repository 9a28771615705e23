"""The Python interface: a detector that can be trained, evaluated, used and saved. Thin on purpose."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, overload

from flexdetr.classes import Classes, as_classes, described
from flexdetr.config import Config
from flexdetr.data.images import pixels
from flexdetr.pixel_form import PixelForm
from flexdetr.presets import resolve
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.process import THRESHOLD
from flexdetr.runtime.thresholds import Threshold, limits
from flexdetr.sliced import SlicedDetector

if TYPE_CHECKING:
    from torch import nn

    from flexdetr.deployed import ArtifactDetector
    from flexdetr.engine.checkpoint import StartingDetector
    from flexdetr.engine.explain import Explanation
    from flexdetr.engine.fit import Overfit, Run
    from flexdetr.metrics.coco_map import Metrics
    from flexdetr.model.detector import DetectionModel
    from flexdetr.runtime.artifact import Artifact
    from flexdetr.runtime.computation import Computation
    from flexdetr.runtime.slicing import Slicing
    from flexdetr.runtime.sources import Item, Picture, Pixels, Source, Unreadable
    from flexdetr.weights.store import Metadata

_log = logging.getLogger(__name__)


class Detector:
    """A detector with its classes and its configuration.

    Args:
        model: a preset's name.
        classes: class names in the head's order, or ``{data-set id: name}``, or ``Classes``; left out, those of a
            trained detector's ``weights``.
        weights: a checkpoint file, "coco", "backbone", "auto", or None for random weights.
        **changes: configuration keys, like ``backbone="timm/convnext_atto"`` or ``image_size=320``; ``backbone`` may
            also be a module of yours (an ``nn.Module``).

    Attributes:
        model: the torch module; ``model(images)`` returns an ``Output``.
        classes: names and data-set ids, in the head's order.
        config: the whole configuration.
        metadata: what ``save`` writes beside the weights.
        runtime: what computes: "torch", which is what "auto" stands for, or "openvino" (on CPUs). Converting the
            detector for OpenVINO takes some seconds, which repay from a hundred pictures on, or so.

    Raises:
        ConfigError: if a name, a key or a value is wrong.
    """

    runtime: str = "auto"

    def __init__(
        self,
        model: str,
        *,
        classes: Classes | Mapping[int, str] | Iterable[str] | None = None,
        weights: str | Path | None = None,
        **changes: Any,  # noqa: ANN401 - keys of Config, checked when it is built
    ) -> None:
        from flexdetr.engine.checkpoint import start
        from flexdetr.engine.rebuilt import module_apart

        changes, module = module_apart(changes)
        config = resolve(model, **changes, weights="none" if weights is None else str(weights))
        untouched = copy.deepcopy(module)
        named = None if classes is None else as_classes(classes)
        self._take(start(config, named, module), untouched)

    def _take(self, starting: StartingDetector, module: nn.Module | None) -> None:
        self._starting = starting
        self._module = module  # the user's backbone, as it was before anything was built around it
        self.model: DetectionModel = starting.model.eval()
        self.classes: Classes = starting.classes
        self.config: Config = starting.config
        self.metadata: Metadata = starting.metadata
        self._fused: tuple[bytes, DetectionModel] | None = None
        self._converted: tuple[tuple[object, ...], ArtifactDetector] | None = None

    def __repr__(self) -> str:
        return f"<Detector {self.config.model}, {described(self.classes, self.config.image_size)}>"

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become before the network takes them."""
        return self.config.data.form

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        source: str | None = None,
        **changes: Any,  # noqa: ANN401 - keys of Config
    ) -> Self:
        """A detector with the configuration, classes and weights of a checkpoint; see ``load``."""
        from flexdetr.engine.checkpoint import restore
        from flexdetr.engine.rebuilt import module_apart

        detector = cls.__new__(cls)
        changes, module = module_apart(changes)
        untouched = copy.deepcopy(module)
        detector._take(restore(path, changes, module, source=source), untouched)
        return detector

    def train(
        self,
        data: str | Path,
        /,
        *,
        out: str | Path,
        quiet: bool = False,
        callbacks: Sequence[object] = (),
        **changes: Any,  # noqa: ANN401 - keys of Config
    ) -> Run:
        """Train on a data set; afterwards the detector holds the best weights.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format.
            out: the run's folder.
            quiet: show no progress.
            callbacks: objects with any of ``on_step``, ``on_epoch``, ``on_evaluation`` and ``on_end``, each of which
                takes a ``flexdetr.engine.callbacks.Moment``.
            **changes: keys of the configuration's ``train`` section, like ``epochs=50``, or other sections, like
                ``data={"mosaic": 0.0}``. Where they change the model (``head={"layers": 6}``), it is built anew; all
                weights that have their place in it are carried over, and the run says which. ``weights`` loads a
                checkpoint into it.

        Raises:
            DataError: if the data cannot be used.
            ConfigError: if a key or value is wrong, or the data's classes are not the detector's.
            WeightsError: if other weights are asked for and do not fit.
            CallbackError: if a callback fails.
            KeyboardInterrupt: after Ctrl-C, with the command that goes on from there.
        """
        from flexdetr.engine.checkpoint import restore
        from flexdetr.engine.fit import Interrupted, train
        from flexdetr.engine.rebuilt import rebuilt

        config, starting, module = rebuilt(self._starting, self._module, changes)
        try:
            run = train(data, config, out=out, starting=starting, quiet=quiet, callbacks=callbacks)
        except (
            Interrupted
        ) as stop:  # a script shows where it was and how to go on, not the way through the loop
            raise stop.with_traceback(None) from None
        self._take(restore(run.best, {"backbone": config.backbone.name}, copy.deepcopy(module)), module)
        return run

    def overfit_one_batch(self, data: str | Path, /, *, quiet: bool = False, **changes: Any) -> Overfit:  # noqa: ANN401
        """Whether a copy of the detector can overfit four images; nothing is written, and this one stays as it is.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format.
            quiet: show no progress.
            **changes: as for ``train``.

        Returns:
            ``passed``, the first and the last loss, ``ap50``, and ``hints``: what to look at where it failed.

        Raises:
            DataError: if the data cannot be used, or has no object.
            ConfigError: if a key or value is wrong, or the data's classes are not the detector's.
        """
        from flexdetr.engine.fit import overfit_one_batch
        from flexdetr.engine.rebuilt import rebuilt

        config, starting, _ = rebuilt(self._starting, self._module, changes)
        return overfit_one_batch(data, config, starting=starting, quiet=quiet)

    def evaluate(
        self,
        data: str | Path,
        split: str = "test",
        *,
        device: str = "auto",
        precision: str = "fp32",
        batch_size: int = 8,
        decoder_layers: int | None = None,
        queries: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        report: str | Path | None = None,
    ) -> Metrics:
        """The 12 COCO numbers on a split of a data set.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format, with classes of the same names.
            split: "train", "val" or "test".
            device: where to compute.
            precision: "fp32", "bf16", "fp16" (on a GPU), or "auto", which is what ``predict`` computes in by itself.
            batch_size: images at a time; on OpenVINO it decides itself.
            decoder_layers: run fewer layers than were trained.
            queries: select another number of queries.
            progress: told how many images of how many are done.
            report: a page to write: curves, confusion, best thresholds, the worst mistakes in pictures.

        Raises:
            DataError: if the data cannot be used, or has no such split.
        """
        if self.runtime == "openvino":
            other = self.on_openvino(device, precision, decoder_layers, queries)
            return other.evaluate(data, split, progress=progress, report=report)
        from flexdetr.engine.evaluate import evaluate_split

        metrics = evaluate_split(
            self.deploy_form(),
            data,
            split,
            classes=self.classes,
            config=self.config,
            device=device,
            precision=precision,
            batch_size=batch_size,
            decoder_layers=decoder_layers,
            queries=queries,
            progress=progress,
            report=None if report is None else Path(report),
            title=self.config.model,
        )
        return cast("Metrics", metrics)

    @overload
    def predict(
        self,
        source: Source,
        threshold: Threshold = ...,
        *,
        device: str = ...,
        precision: str = ...,
        decoder_layers: int | None = ...,
        queries: int | None = ...,
        slice: int | Slicing | None = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: list[Source],
        threshold: Threshold = ...,
        *,
        device: str = ...,
        precision: str = ...,
        decoder_layers: int | None = ...,
        queries: int | None = ...,
        slice: int | Slicing | None = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Source | list[Source],
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: str = "auto",
        decoder_layers: int | None = None,
        queries: int | None = None,
        slice: int | Slicing | None = None,  # noqa: A002 - as on the command line
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            source: a picture or a list of them: a path, an http(s) address, the bytes of a file, a PIL image, or an
                array or tensor, RGB, grey or RGBA, (H, W, C) or (C, H, W), uint8, uint16 or float
                (``runtime.arrays.as_picture``); or a film's path, whose frames are found.
            threshold: lowest score to keep, in [0, 1]; "auto" takes each class's best one, as found by the training.
            device: where to compute.
            precision: "fp32", "bf16", "fp16" (on a GPU), or "auto": bf16 where the device multiplies it in hardware.
            decoder_layers: run fewer layers than were trained.
            queries: select another number of queries.
            slice: look at each picture in tiles of so many pixels on a side, and at the whole; see ``Slicing``.

        Returns:
            Detections in pixels of the original image and the data set's own class ids; a list for a list, and for the
            frames of a film.

        Raises:
            ImageError: if a file cannot be read as an image.
        """
        from flexdetr.deployed import items_of
        from flexdetr.engine.predict import detect_images
        from flexdetr.gathered import gathered
        from flexdetr.runtime.sources import as_film

        options: dict[str, Any] = {"decoder_layers": decoder_layers, "queries": queries}
        options |= {"device": device, "precision": precision}
        if slice is not None:
            return SlicedDetector(self, slice).predict(source, threshold, **options)
        film = as_film(source)
        if film is not None:
            return gathered(self.predict_many([film], threshold, **options))
        pictures = source if isinstance(source, list) else [source]
        lowest = limits(threshold, self.metadata.thresholds, self.classes.names)
        if self.runtime == "openvino":
            other = self.on_openvino(**options, items=items_of(pictures))
            there = other.predict(pictures, threshold)
            return there if isinstance(source, list) else there[0]
        found = list(
            detect_images(
                self.deploy_form(),
                (pixels(picture, self.form) for picture in pictures),
                classes=self.classes,
                size=self.config.image_size,
                threshold=lowest,
                **options,
            )
        )
        return found if isinstance(source, list) else found[0]

    def explain(
        self,
        source: Source,
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: str = "auto",
    ) -> Explanation:
        """Find objects, and show where the query of each looked: sampling points, weights and heat maps.

        Args:
            source: a path, a PIL image, or an array (H, W, 3) uint8 RGB.
            threshold: as for ``predict``.
            device: where to compute; in PyTorch, whatever the runtime is.
            precision: as for ``predict``.

        Raises:
            ExplainError: if the head has no queries that attend to places, like the dense ones.
            ImageError: if a file cannot be read as an image.
        """
        from flexdetr.engine.explain import explain

        return explain(
            self.deploy_form(),
            pixels(source, self.form),
            classes=self.classes,
            size=self.config.image_size,
            threshold=limits(threshold, self.metadata.thresholds, self.classes.names),
            device=device,
            precision=precision,
        )

    def predict_many(
        self,
        items: Iterable[Item],
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: str = "auto",
        decoder_layers: int | None = None,
        queries: int | None = None,
        look: Pixels | None = None,
    ) -> Iterator[tuple[Picture, Detections] | Unreadable]:
        """Find objects in what ``flexdetr.runtime.sources.find`` lists.

        Args:
            items: pictures, videos, cameras.
            threshold: as for ``predict``.
            device: where to compute.
            precision: as for ``predict``.
            decoder_layers: as for ``predict``.
            queries: as for ``predict``.
            look: makes the pixels that the model is shown of a picture; None shows all of it.

        Yields:
            In the order of the items, each picture with its objects, or why it could not be read.
        """
        from flexdetr.runtime.sources import Unreadable, read

        listed = list(items)
        limits(threshold, self.metadata.thresholds, self.classes.names)  # answers before any work
        options: dict[str, Any] = {"device": device, "precision": precision}
        options |= {"decoder_layers": decoder_layers, "queries": queries}
        if self.runtime == "openvino":
            yield from self.on_openvino(**options, items=listed).predict_many(listed, threshold, look=look)
            return
        reader = partial(pixels, form=self.form) if look is None else look
        for picture in read(listed, reader, whole=not self.form.photographic):
            if isinstance(picture, Unreadable):
                yield picture
            else:
                yield picture, self.predict(picture.image, threshold, **options)

    def track(
        self,
        frames: str | Path | Iterable[Source],
        tracker: str = "bytetrack",
        **options: Any,  # noqa: ANN401
    ) -> Iterator[Detections]:
        """Follow objects through a film: the Detections of each frame, with ``tracker_id`` (-1: no track yet).

        Args:
            frames: a film's path, or pictures in their order.
            tracker: "bytetrack", "ocsort", "sort" or "cbiou".
            **options: ``threshold`` (0.1: low scores hold tracks), ``frame_rate`` (30), and the tracker's own.

        Raises:
            TrackingError: if the film cannot be read, or there is no such tracker.
        """
        from flexdetr.tracking import follow

        return follow(self, frames, tracker, **options)

    def computation(
        self, *, device: str = "auto", precision: str = "auto", items: Iterable[Item] = ()
    ) -> Computation:
        """What ``predict`` computes with; on OpenVINO the detector is converted for that.

        Args:
            device: where to compute.
            precision: as for ``predict``.
            items: what is to be predicted; a conversion is compared on the first of it, and on drawn pictures without.
        """
        if self.runtime == "openvino":
            listed = list(items)
            return self.on_openvino(device, precision, items=listed).computation(items=listed)
        from flexdetr.engine.device import choose_device, choose_precision, computation

        place = choose_device(device)
        return computation(place, choose_precision(precision, place))

    def on_openvino(
        self,
        device: str,
        precision: str,
        decoder_layers: int | None = None,
        queries: int | None = None,
        items: Sequence[Item] = (),
        threads: int | None = None,
    ) -> ArtifactDetector:
        """The detector on OpenVINO; converted again only where a weight, or what is asked for, has changed.

        Raises:
            ConfigError: if it cannot be computed there.
            DriftError: if OpenVINO does not find what the model finds.
        """
        from flexdetr.engine.device import check_openvino
        from flexdetr.export.converted import convert
        from flexdetr.export.writing import ExportSource
        from flexdetr.model.fingerprint import fingerprint

        asked = check_openvino(device, precision)
        options = {"decoder_layers": decoder_layers, "queries": queries, "threads": threads}
        key = (fingerprint(self.model), asked, *options.values())
        if self._converted is None or self._converted[0] != key:
            self._converted = (key, convert(ExportSource.of(self), items, precision=asked, **options))
        return self._converted[1]

    def deploy_form(self) -> DetectionModel:
        """The fused model; made again only where a weight has changed since."""
        from flexdetr.model.fingerprint import fingerprint
        from flexdetr.model.fuse import deploy_form

        weights = fingerprint(self.model)
        if self._fused is None or self._fused[0] != weights:
            self._fused = (weights, deploy_form(self.model))
        return self._fused[1]

    def export(self, format: str, out: str | Path | None = None, **options: Any) -> Artifact:  # noqa: A002, ANN401
        """Write the detector for another runtime, and prove that the file does what the model does.

        Args:
            format: one of ``flexdetr.runtime.formats.NAMED``: "onnx", "openvino" ...
            out: the artifact's folder; None is ``MODEL-FORMAT`` in the current one.
            **options: ``precision``, ``data``, ``raw``, ``decoder_layers``, ``queries``, ``dynamic_size`` or
                ``sampling``: see ``flexdetr.export.make.export``.

        Returns:
            The artifact: ``path``, ``parity`` (the proof) and ``metadata``.

        Raises:
            DriftError: if the file does not do what the model does; nothing is kept then.
            ExportError: if the format cannot express the model, or an option does not fit.
        """
        from flexdetr.export.make import ExportSource, export

        return export(ExportSource.of(self), format, out or Path(f"{self.config.model}-{format}"), **options)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` checkpoint with classes, configuration and provenance inside."""
        from flexdetr.weights import store

        return store.save(path, self.model.state_dict(), self.metadata)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Share the detector on the Hugging Face hub, with a model card; ``load("hf://user/name")`` takes it back.

        Args:
            repository: "user/name"; made where it does not exist.
            private: make a private repository.

        Returns:
            The repository's address.

        Raises:
            WeightsError: if the hub refuses or cannot be reached.
        """
        from flexdetr.weights.hub import push

        return push(repository, self.model.state_dict(), self.metadata, private=private)
