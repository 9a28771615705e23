"""A detector from an exported artifact: no torch, only numpy, Pillow and the runtime."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import described
from flexdetr.data.images import pixels
from flexdetr.data.record_pixels import read_record
from flexdetr.gathered import gathered
from flexdetr.part_table import load_part
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.artifact import Artifact, ArtifactError, open_artifact
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.engines import Runtime, engine_of, precision_of, start
from flexdetr.runtime.formats import ENGINES
from flexdetr.runtime.parity import Asked
from flexdetr.runtime.pool import Pool, Work
from flexdetr.runtime.process import THRESHOLD, resize
from flexdetr.runtime.slicing import Slicing
from flexdetr.runtime.sources import (
    Item,
    Picture,
    Pixels,
    Source,
    Unreadable,
    as_film,
    as_item,
    expects_many,
    is_live,
    read_many,
    read_one,
)
from flexdetr.runtime.thresholds import Threshold, limits
from flexdetr.scored import cut_of, score_answers
from flexdetr.sliced import SlicedDetector
from flexdetr.tasks import TASKS, task

if TYPE_CHECKING:
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.coco_map import Metrics

_log = logging.getLogger(__name__)

Hint = Literal["auto", "latency", "throughput"]
Read = Picture | Unreadable
Answer = tuple[Picture, Detections] | Unreadable
# From this many pictures on, working on several at a time repays compiling the graph for it.
MANY = 8
_PAGES = 32


class ArtifactDetector:
    """A detector that was exported; it predicts and can be scored, and is not trained any further.

    Args:
        path: the artifact's folder, or a file inside it.
        runtime: one of ``flexdetr.runtime.formats.ENGINES`` that runs the format; "auto" takes the format's own, and
            OpenVINO for onnx where onnxruntime is not installed.
        hint: "latency" or "throughput"; "auto" decides by the number of pictures.
        threads: CPU threads; None takes what the runtime chooses.
        precision: what is computed in: "fp32", "bf16", "fp16", or "auto", which takes bf16 where the CPU has it and the
            artifact was proven in it, and "fp32" for scoring. Only OpenVINO has the choice; other runtimes compute in
            what the file was written in.
        image_size: (height, width) that the network should see, for artifacts of dynamic size; None takes the trained.
        cache: folder of OpenVINO's compiled graphs; None is the user's cache, False keeps none.
        verify: compare the files' sha256 with what was written.

    Attributes:
        classes: names and data-set ids.
        metadata: what the artifact says about itself.

    Raises:
        ArtifactError: if the artifact, or the combination, cannot be used.

    Example:
        >>> detector = ArtifactDetector("cells-openvino")  # doctest: +SKIP
        >>> detector.predict("cell.jpg", threshold=0.4).names  # doctest: +SKIP
        ['RBC', 'WBC']
    """

    def __init__(
        self,
        path: str | Path,
        *,
        runtime: str = "auto",
        hint: Hint = "auto",
        threads: int | None = None,
        precision: Asked = "auto",
        image_size: tuple[int, int] | None = None,
        cache: str | Path | bool | None = None,
        verify: bool = True,
    ) -> None:
        self.artifact: Artifact = open_artifact(path, verify=verify)
        self.metadata = self.artifact.metadata
        self.classes = self.artifact.classes
        self.image_size = _image_size(self.artifact, image_size)
        self._engine = engine_of(self.artifact, runtime)
        self._hint: Hint = hint
        self._asked = precision_of(self.artifact, self._engine, precision)
        self._options: dict[str, Any] = {"threads": threads}
        self._chooses = ENGINES[self._engine].chooses
        if self._chooses:
            self._options |= {"cache": cache}
        self._runtimes: dict[tuple[str, str, str], Runtime] = {}
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        made = f"{self.metadata.model}, {self.metadata.format} {self.metadata.precision} on {self._engine}"
        return f"<ArtifactDetector {made}, {described(self.classes, self.image_size)}>"

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become before the graph takes them."""
        return self.metadata.input.form

    def runtime(self, device: str = "auto", *, pictures: int = 1, precision: Asked | None = None) -> Runtime:
        """What runs the graph for this many pictures; started when it is first asked for.

        Args:
            device: "auto", "cpu", or what the runtime calls its devices.
            pictures: how many are to come.
            precision: what to compute in; None takes what the detector was opened with.

        Raises:
            ArtifactError: if the runtime cannot use the file, or has no such device.
        """
        hint = self._hint if self._hint != "auto" else "throughput" if pictures >= MANY else "latency"
        asked = self._asked if precision is None else precision_of(self.artifact, self._engine, precision)
        options = {"precision": asked} if self._chooses else {}
        with self._starting:
            if (device, hint, asked) not in self._runtimes:
                started = start(self._engine, self.artifact, hint, device=device, **options, **self._options)
                _log.info("%s: %s, %s", self.artifact.path, started.description, hint)
                self._runtimes[device, hint, asked] = started
            return self._runtimes[device, hint, asked]

    def computation(
        self, *, device: str = "auto", precision: Asked | None = None, items: Iterable[Item] = ()
    ) -> Computation:
        """What ``predict_many`` computes with for these items; see there."""
        return self.runtime(device, pictures=_pictures(list(items)), precision=precision).computation

    @overload
    def predict(
        self,
        source: Source,
        threshold: Threshold = ...,
        *,
        device: str = ...,
        precision: Asked | None = ...,
        slice: int | Slicing | None = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: list[Source],
        threshold: Threshold = ...,
        *,
        device: str = ...,
        precision: Asked | None = ...,
        slice: int | Slicing | None = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Source | list[Source],
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: Asked | None = None,
        slice: int | Slicing | None = None,  # noqa: A002 - as on the command line
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            source: a picture or a list of them: a path, an http(s) address, the bytes of a file, a PIL image, or an
                array or tensor, RGB, grey or RGBA, (H, W, C) or (C, H, W), uint8, uint16 or float
                (``runtime.arrays.as_picture``); or a film's path, whose frames are found.
            threshold: lowest score to keep, in [0, 1]; "auto" takes the artifact's own.
            device: where to compute.
            precision: what to compute in; None takes what the detector was opened with.
            slice: look at each picture in tiles of so many pixels on a side, and at the whole; see ``Slicing``.

        Returns:
            Detections in pixels of the original image and the data set's own class ids; a list for a list, and for the
            frames of a film.

        Raises:
            ImageError: if a file cannot be read as an image, after the others were read; ``predict_many`` goes on.
        """
        if slice is not None:
            sliced = SlicedDetector(self, slice)
            in_tiles: Detections | list[Detections] = sliced.predict(
                source, threshold, device=device, precision=precision
            )
            return in_tiles
        film = as_film(source)
        given = source if isinstance(source, list) else [source]
        items = items_of(given) if film is None else [film]
        options: dict[str, Any] = {"device": device, "precision": precision, "frames": False}
        found = gathered(self.predict_many(items, threshold, **options))
        return found if isinstance(source, list) or film is not None else found[0]

    def predict_many(
        self,
        items: Iterable[Item],
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: Asked | None = None,
        frames: bool = True,
        look: Pixels | None = None,
    ) -> Iterator[tuple[Picture, Detections] | Unreadable]:
        """Find objects in what ``flexdetr.runtime.sources.find`` lists, reading ahead of the computation.

        Args:
            items: pictures, videos, cameras.
            threshold: lowest score to keep, in [0, 1]; "auto" takes the artifact's own.
            device: where to compute.
            precision: what to compute in; None takes what the detector was opened with.
            frames: of animations and documents find all frames and pages, or the first alone; films have frames only.
            look: makes the pixels that the model is shown of a picture; None shows all of it.

        Yields:
            In the order of the items, each picture with its objects, or why it could not be read.

        Raises:
            PoolError: if nothing was answered for too long.
        """
        lowest = limits(threshold, self.metadata.thresholds, self.classes.names)
        listed = items if isinstance(items, list) else list(items)
        live = any(is_live(item) for item in listed)
        runtime = self.runtime(device, pictures=_pictures(listed), precision=precision)
        # One reader more than computations, so that the next picture is ready when a computation ends.
        workers = runtime.parallel + max(1, runtime.parallel // 2)
        ahead = 0 if live else 2 * workers
        detect = partial(self._detect, runtime, lowest)
        reader = partial(pixels, form=self.form) if look is None else look
        # Pages of a TIFF are its channels, where a picture has other channels than a photograph.
        job = partial(_read_and_detect, detect, reader, whole=not (frames and self.form.photographic))
        if (
            len(listed) == 1 and not frames
        ):  # one picture is ready before threads for it have started and ended
            alone = job(listed[0])
            if alone is not None:
                yield alone
                return
        waiting: deque[tuple[Item, Work[Answer | None]]] = deque()
        with Pool(workers, "flexdetr-predict") as pool:
            for item in listed:
                waiting.append((item, pool.submit(item.name, job, item)))
                while len(waiting) > ahead:
                    yield from _answers(pool, *waiting.popleft(), detect, reader, ahead)
            while waiting:
                yield from _answers(pool, *waiting.popleft(), detect, reader, ahead)

    def track(
        self,
        frames: str | Path | Iterable[Source],
        tracker: str = "bytetrack",
        **options: Any,  # noqa: ANN401
    ) -> Iterator[Detections]:
        """Follow objects through a film: the Detections of each frame, with ``tracker_id`` (-1: no track yet).

        See ``Detector.track``.
        """
        from flexdetr.tracking import follow

        return follow(self, frames, tracker, **options)

    def predict_batch(
        self,
        images: Sequence[Source],
        threshold: Threshold = THRESHOLD,
        *,
        device: str = "auto",
        precision: Asked | None = None,
    ) -> list[Detections]:
        """Find objects in several pictures with one run of the graph.

        On CPUs ``predict`` with a list is faster; this is for runtimes that gain by batches.

        Args:
            images: as ``predict`` takes them, of any sizes.
            threshold: lowest score to keep, in [0, 1]; "auto" takes the artifact's own.
            device: where to compute.
            precision: what to compute in; None takes what the detector was opened with.

        Raises:
            ImageError: if a file cannot be read as an image.
        """
        if not images:
            return []
        runtime = self.runtime(device, precision=precision)
        lowest = limits(threshold, self.metadata.thresholds, self.classes.names)
        return self._infer(runtime, [pixels(image, self.form) for image in images], lowest)

    def evaluate(
        self,
        data: str | Path,
        split: str = "test",
        *,
        device: str = "auto",
        precision: Asked | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        report: str | Path | None = None,
    ) -> Metrics:
        """The 12 COCO numbers on a split of a data set.

        Args:
            data: folder (or a file inside it) in COCO, VOC or YOLO format, with classes of the same names.
            split: "train", "val" or "test".
            device: where to compute.
            precision: what to compute in; None takes what the detector was opened with, and float32 for "auto".
            batch_size: unused, for the same call as ``Detector.evaluate``: the runtime decides how many pictures it
                works on at a time.
            progress: told how many images of how many are done.
            report: a page to write; see ``Detector.evaluate``.

        Raises:
            DataError: if the data cannot be used, or has no such split.
            ImageError: if a picture cannot be read.
        """
        del batch_size
        row = task(self.metadata.task)
        dataset = row.read(data, **cut_of(self.metadata.made.get("config", {})))
        dataset = dataset.with_classes(self.classes).with_form(self.form)
        records = dataset.split(split)
        if precision is None and self._asked == "auto" and self._chooses:
            precision = "fp32"
        items = [Item(str(one.path), one.path) for one in records]
        options: dict[str, Any] = {"device": device, "precision": precision, "frames": False}
        if any(one.view is not None for one in records):  # pages, which a path alone does not name
            answers = self._of_pages(records, options)
        else:
            look = partial(load_part(TASKS[self.metadata.task].look), form=self.form)
            answers = self.predict_many(items, 0.0, look=look, **options)
        began = time.perf_counter()
        scored, found = score_answers(answers, records, self.classes, progress, kind=self.metadata.task)
        seconds = time.perf_counter() - began  # scoring is a small part of it
        how = self.computation(device=device, precision=precision, items=items)
        metrics: Metrics = replace(cast("Metrics", scored), computation=how)
        if report is not None:
            from flexdetr.report.make import ReportContent, cost

            title = f"{self.metadata.model}, {self.metadata.format}"
            lead = f"The {split} split of {data}, computed with {how.runtime} on {how.device} in {how.precision}."
            size = sum(one.bytes for one in self.metadata.files.values())
            spent = cost(num_bytes=size, seconds=seconds, images=len(records))
            about = ReportContent(
                title, lead, records, found, self.classes, metrics, dataset.splits, cost=spent
            )
            row.write_report(Path(report), about)
        return metrics

    def _of_pages(self, records: Sequence[Record], options: dict[str, Any]) -> Iterator[Answer]:
        """Answers for pages as their records show them, some at a time: they are held in memory."""
        for first in range(0, len(records), _PAGES):
            some = records[first : first + _PAGES]
            yield from self.predict_many(
                [Item(str(one.path), read_record(one)) for one in some], 0.0, **options
            )

    def _detect(self, runtime: Runtime, threshold: float | list[float], read: Read) -> Answer:
        if isinstance(read, Unreadable):
            return read
        (found,) = self._infer(runtime, [read.image], threshold)
        return read, found

    def _infer(
        self, runtime: Runtime, images: Sequence[NDArray[np.uint8]], threshold: float | list[float]
    ) -> list[Detections]:
        ready = self.prepare(images)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return self.artifact.read_answers(runtime.infer(ready, np.array(sizes, np.int64)), sizes, threshold)

    def prepare(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """(H, W, C) uint8 pictures of any sizes -> (B, h, w, C) as ``Runtime.infer`` takes them."""
        ready = [resize(image, self.image_size) for image in images]
        return ready[0][None] if len(ready) == 1 else np.stack(ready)  # one needs no copy


def check_options(path: str | Path, options: Iterable[str]) -> None:
    """Answer options that are decided when a detector is exported.

    Raises:
        ArtifactError: if an option is none of ``ArtifactDetector``'s.
    """
    known = inspect.signature(ArtifactDetector).parameters
    decided = [name for name in options if name not in known]
    if decided:
        raise ArtifactError(
            f"{path} is exported: {', '.join(decided)} was decided then; export the checkpoint again to change it"
        )


def _pictures(items: Sequence[Item]) -> int:
    """How many pictures to expect: of what is live one at a time, of a film many."""
    if any(is_live(item) for item in items):
        return 1
    return MANY if any(expects_many(item) for item in items) else len(items)


def _read_and_detect(
    detect: Callable[[Read], Answer], reader: Pixels, item: Item, *, whole: bool
) -> Answer | None:
    """The answer for an item of one picture; None for one of many, unless the first is taken for the ``whole``."""
    read = read_one(item, reader, whole=whole)
    return None if read is None else detect(read)


def _answers(
    pool: Pool,
    item: Item,
    work: Work[Answer | None],
    detect: Callable[[Read], Answer],
    reader: Pixels,
    ahead: int,
) -> Iterator[Answer]:
    """An item's answer, or those of all its pictures: these are read here, in their order, and computed ``ahead``."""
    answer = pool.result(work)
    if answer is not None:
        yield answer
        return
    waiting: deque[Work[Answer]] = deque()
    for frame in read_many(item, reader):
        waiting.append(pool.submit(frame.name, detect, frame))
        while len(waiting) > ahead:
            yield pool.result(waiting.popleft())
    while waiting:
        yield pool.result(waiting.popleft())


def items_of(sources: Iterable[Source]) -> list[Item]:
    """Pictures that were given as they are, as ``predict_many`` takes them."""
    return [as_item(source, number) for number, source in enumerate(sources)]


def _image_size(artifact: Artifact, asked: tuple[int, int] | None) -> tuple[int, int]:
    takes = artifact.metadata.input
    if asked is None or tuple(asked) == takes.size:
        return takes.size
    if not takes.dynamic_size:
        raise ArtifactError(
            f"{artifact.path} was exported for pictures of {takes.size[0]}x{takes.size[1]}; for {asked[0]}x{asked[1]} "
            "export again with --dynamic-size"
        )
    if any(side < 32 or side % 32 for side in asked):
        raise ArtifactError(f"image_size must be divisible by 32 on both sides; got {asked[0]}x{asked[1]}")
    return (int(asked[0]), int(asked[1]))
