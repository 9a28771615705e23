"""A detector that looks at pictures in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flexdetr.classes import Classes
from flexdetr.data.images import pixels
from flexdetr.gathered import gathered
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.slicing import Slicing, detect_sliced
from flexdetr.runtime.sources import Item, Picture, Source, Unreadable, as_film, read
from flexdetr.scored import cut_of, score_answers

if TYPE_CHECKING:
    from flexdetr.metrics.coco_map import Metrics


class SlicedDetector:
    """A detector that looks at each picture in overlapping tiles, and at the whole: small objects keep their pixels.

    It predicts and is scored like the detector itself, and takes the same options; the tiles of a picture are given to
    the detector as one list.

    ``detector`` is what ``flexdetr.load`` gives; ``slicing`` says how pictures are cut, or is the tiles' side
    in pixels.

    Raises:
        ValueError: if the slicing is out of its range.

    Example:
        >>> detector = SlicedDetector(flexdetr.load("cells-openvino"), 640)  # doctest: +SKIP
        >>> detector.predict("slide.jpg", threshold=0.4).names  # doctest: +SKIP
        ['RBC', 'WBC']
    """

    def __init__(self, detector: Any, slicing: Slicing | int = 640) -> None:  # noqa: ANN401 - either kind of detector
        self.detector = detector
        self.slicing = Slicing(slicing) if isinstance(slicing, int) else slicing

    def __repr__(self) -> str:
        tall, wide = self.slicing.sides
        return f"<SlicedDetector {wide}x{tall}, overlap {self.slicing.overlap:g}, of {self.detector!r}>"

    @property
    def classes(self) -> Classes:
        """Names and data-set ids, in the head's order."""
        classes: Classes = self.detector.classes
        return classes

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become."""
        form: PixelForm = self.detector.form
        return form

    def computation(self, **options: Any) -> Any:  # noqa: ANN401 - as the detector's own
        """What ``predict`` computes with; as the detector's own."""
        return self.detector.computation(**options)

    def predict(self, source: Source | list[Source], *threshold: Any, **options: Any) -> Any:  # noqa: ANN401
        """Find objects; as the detector's own ``predict``: Detections, or a list for a list.

        Raises:
            ImageError: if a file cannot be read as an image.
        """
        film = as_film(source)
        if film is not None:
            return gathered(self.predict_many([film], *threshold, **options))
        given = source if isinstance(source, list) else [source]
        found = [
            detect_sliced(
                lambda images: self.detector.predict(images, *threshold, **options),
                pixels(one, self.form),
                self.slicing,
            )
            for one in given
        ]
        return found if isinstance(source, list) else found[0]

    def predict_many(
        self,
        items: Iterable[Item],
        *threshold: Any,  # noqa: ANN401 - as the detector's own
        **options: Any,  # noqa: ANN401
    ) -> Iterator[tuple[Picture, Detections] | Unreadable]:
        """Find objects in what ``flexdetr.runtime.sources.find`` lists; as the detector's own ``predict_many``."""
        form = self.form
        for picture in read(items, partial(pixels, form=form), whole=not form.photographic):
            if isinstance(picture, Unreadable):
                yield picture
            else:
                yield picture, self.predict(picture.image, *threshold, **options)

    def evaluate(
        self,
        data: str | Path,
        split: str = "test",
        *,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        report: str | Path | None = None,
        **options: Any,  # noqa: ANN401 - as the detector's own ``predict``
    ) -> Metrics:
        """The 12 COCO numbers on a split of a data set, of what is found in tiles.

        See ``Detector.evaluate``; the options are those of ``predict``, and ``precision`` is "fp32" unless it is named.

        Raises:
            DataError: if the data cannot be used, or has no such split.
            ImageError: if a picture cannot be read.
        """
        del batch_size
        from flexdetr.data.detect import read as read_data

        options = {"precision": "fp32"} | options
        own = getattr(self.detector, "config", None)
        config = self.detector.metadata.made.get("config", {}) if own is None else own.model_dump()
        dataset = read_data(data, **cut_of(config)).with_classes(self.classes).with_form(self.form)
        records = dataset.split(split)
        # Of a file of several frames the first is labelled, which pixels() reads.
        images = (Picture(str(one.path), pixels(one.path, one.form)) for one in records)
        answers = ((picture, self.predict(picture.image, 0.0, **options)) for picture in images)
        scored, found = score_answers(answers, records, self.classes, progress)
        metrics = cast("Metrics", scored)
        if report is not None:
            from flexdetr.report.make import ReportContent, write_report

            lead = f"The {split} split of {data}, in tiles."
            about = ReportContent(repr(self), lead, records, found, self.classes, metrics, dataset.splits)
            write_report(Path(report), about)
        return metrics
