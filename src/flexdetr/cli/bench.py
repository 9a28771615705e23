"""The verb ``bench``: latency of each stage and end to end, throughput, memory and start, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.evaluate import Device, Precision, Runtime

if TYPE_CHECKING:
    from flexdetr.api import Detector
    from flexdetr.deployed import ArtifactDetector
    from flexdetr.metrics.latency import TimedDetector, Timing
    from flexdetr.report.latency_page import Table
    from flexdetr.runtime.parity import Asked

_DRAWN = 8
# Runtimes that can be asked for with --layers.
_LAYERED = ("auto", "openvino")
# What a preset is timed with: COCO's number of classes.
_CLASSES = 80
# A first result in a process of its own: what is typed, but for the pictures on disk.
_FIRST = """
from flexdetr.cli.bench import open_detector
import json
options = json.loads({options!r})
open_detector({file!r}, **options).predict({picture!r}, device={device!r}, precision={precision!r})
"""


class Place(NamedTuple):
    """Where, and in what, to compute.

    Attributes:
        device: as ``predict`` takes it.
        precision: likewise.
    """

    device: str
    precision: Asked

    @property
    def options(self) -> dict[str, Any]:
        """For ``predict``."""
        return self._asdict()


def bench(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE|MODEL...", help="Artifacts, checkpoints or presets.")
    ],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures to predict; without them, scenes are drawn.")
    ] = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Timed calls of each.")] = 50,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads [default: the runtime's choice].")
    ] = None,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the stages drawn.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Show where an artifact's time goes on OpenVINO, layer by layer, instead."
        ),
    ] = False,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Time detectors in alternation: decoding, preparing, inference, finishing and end to end; pictures per second."""
    from flexdetr.metrics.latency import machine, measure, start_of

    if plot is not None and plot.suffix.lower() != ".html":
        raise answers.UsageError(
            f"--plot writes an HTML page: give a name that ends in .html, not {plot.name!r}"
        )
    options: dict[str, Any] = {"threads": threads, "runtime": runtime}
    place = Place(device, cast("Asked", precision or "auto"))
    if layers:
        from flexdetr.cli.layers import bench_layers

        _only_for_calls(images=images, plot=plot, device=device != "auto", runtime=runtime not in _LAYERED)
        bench_layers(files, threads=threads, precision=place.precision, rounds=rounds, as_json=as_json)
        return
    with _pictures(images) as paths:
        subjects = [subject_of(file, open_detector(file, **options), place, threads) for file in files]
        with answers.counting("timing") as show_count:
            timings = measure(subjects, paths, rounds=rounds, announce=show_count)
        for file, timing in zip(files, timings, strict=True):
            answers.note(f"starting {file}")
            code = _FIRST.format(
                file=file,
                options=json.dumps(options),
                picture=str(paths[0]),
                device=place.device,
                precision=place.precision,
            )
            timing.start = start_of(code)
    if plot is not None:
        from flexdetr.report.latency_page import latency_page

        plot.parent.mkdir(parents=True, exist_ok=True)
        tables = [_stage_table(timings), _summary_table(timings)]
        plot.write_text(latency_page(timings, _machine_text(), tables), encoding="utf-8")
    if as_json:
        answers.show_json(
            {
                "machine": machine(),
                "images": str(images) if images else "drawn scenes",
                "threads": threads,
                "rounds": rounds,
                "files": [timing.to_json() for timing in timings],
            }
        )
        return
    show_timings(timings)


def _only_for_calls(**given: object) -> None:
    """Refuse options that ``--layers`` does not have."""
    for name, value in given.items():
        if value:
            raise answers.UsageError(f"--{name} is for timing whole calls; leave it out with --layers")


def show_timings(timings: Sequence[Timing]) -> None:
    """The stages in milliseconds, then throughput, memory and start, with the first file as the measure."""
    answers.show(_machine_text())
    answers.show_table(*_stage_table(timings))
    answers.show_table(*_summary_table(timings))


def _machine_text() -> str:
    from flexdetr.metrics.latency import machine

    where = machine()
    return f"{where['cpu']}, {where['cores']} cores, {', '.join(where['units']) or 'no vector units known'}"


def _stage_table(timings: Sequence[Timing]) -> Table:
    from flexdetr.metrics.latency import END_TO_END, PERCENTILES, STAGES

    rows = [
        (timing.name, stage, *(f"{timing.percentile(stage, percent):.2f}" for percent in PERCENTILES))
        for timing in timings
        for stage in (*STAGES, END_TO_END)
    ]
    return ["file", "stage", *(f"p{percent} ms" for percent in PERCENTILES)], rows


def _summary_table(timings: Sequence[Timing]) -> Table:
    from flexdetr.metrics.latency import END_TO_END

    first = timings[0].percentile(END_TO_END, 50)
    columns = ["file", "computes", "end to end ms", "times as fast", "pictures/s", "memory MiB", "start s"]
    return columns, [
        (
            timing.name,
            timing.what,
            f"{timing.percentile(END_TO_END, 50):.2f}",
            f"{first / timing.percentile(END_TO_END, 50):.2f}",
            f"{timing.per_second:.2f}",
            None if timing.start is None or timing.start.memory is None else f"{timing.start.memory:.0f}",
            None if timing.start is None else f"{timing.start.seconds:.2f}",
        )
        for timing in timings
    ]


def open_detector(file: str, *, threads: int | None, runtime: str) -> Detector | ArtifactDetector:
    """A detector from an artifact, a checkpoint or a preset's name.

    Args:
        file: the artifact's or checkpoint's path, or the name of a preset, which gets random weights.
        threads: CPU threads; None leaves the choice to the runtime.
        runtime: of an artifact, or "auto", "torch" or "openvino" for the others; "auto" is PyTorch there.

    Raises:
        ConfigError: if it is neither a preset nor a file, or the runtime does not compute it.
        ArtifactError, WeightsError: if the file cannot be used.
    """
    from flexdetr.runtime.artifact import is_artifact

    if is_artifact(file):
        from flexdetr.deployed import ArtifactDetector

        return ArtifactDetector(file, threads=threads, runtime=runtime)
    from flexdetr.presets import MODELS, preset

    path = Path(file)
    if file not in MODELS and not (path.exists() or path.suffix or path.parent != Path()):
        preset(file)  # answers with the nearest name
    from flexdetr.api import Detector
    from flexdetr.engine.device import check_runtime

    check_runtime(runtime)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if file in MODELS:
        detector = Detector(file, classes=[f"class {i}" for i in range(_CLASSES)])
    else:
        detector = Detector.from_checkpoint(file)
    detector.runtime = "torch" if runtime == "auto" else runtime
    return detector


def subject_of(
    name: str, detector: Detector | ArtifactDetector, place: Place, threads: int | None = None
) -> TimedDetector:
    """A detector taken apart into stages.

    Args:
        name: how tables call it.
        detector: from an artifact, or of a checkpoint; with runtime "openvino" the latter is converted and compared.
        place: where, and in what, to compute.
        threads: of such a conversion.

    Raises:
        ConfigError: if it cannot be computed there.
        DriftError: if OpenVINO does not find what the model finds.
    """
    from flexdetr.deployed import ArtifactDetector

    if not isinstance(detector, ArtifactDetector) and detector.runtime == "openvino":
        detector = detector.on_openvino(*place, threads=threads)
    if isinstance(detector, ArtifactDetector):
        return _of_artifact(name, detector, place)
    return _of_model(name, detector, place)


def _of_artifact(name: str, detector: ArtifactDetector, place: Place) -> TimedDetector:
    import numpy as np

    from flexdetr.data.images import pixels
    from flexdetr.metrics.latency import TimedDetector
    from flexdetr.runtime.process import THRESHOLD

    runtime = detector.runtime(place.device, precision=place.precision)
    return TimedDetector(
        name=name,
        what=runtime.description,
        computation=runtime.computation,
        decode=partial(pixels, form=detector.form),
        prepare=lambda image: detector.prepare([image]),
        infer=lambda feed, size: runtime.infer(feed, np.array([size], np.int64)),
        finish=lambda answer, size: detector.artifact.read_answers(answer, [size], THRESHOLD),
        predict=lambda path: detector.predict(path, **place.options),
        predict_all=lambda paths: _count(detector, paths, place),
    )


def _of_model(name: str, detector: Detector, place: Place) -> TimedDetector:
    import torch

    from flexdetr.data.images import pixels
    from flexdetr.engine.device import choose_device
    from flexdetr.engine.predict import run_network
    from flexdetr.metrics.latency import TimedDetector
    from flexdetr.model.postprocess import detections
    from flexdetr.runtime.process import THRESHOLD, prepare

    device = choose_device(place.device)
    model = detector.deploy_form()
    size, classes = detector.config.image_size, detector.classes
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    how = detector.computation(**place.options)
    return TimedDetector(
        name=name,
        what=f"PyTorch in {how.precision}, {threads}",
        computation=how,
        decode=partial(pixels, form=detector.form),
        prepare=lambda image: prepare(image, size),
        infer=lambda feed, _: run_network(model, feed, device, precision=place.precision),
        finish=lambda answer, original: detections(model.head, answer, original, classes, THRESHOLD),
        predict=lambda path: detector.predict(path, **place.options),
        predict_all=lambda paths: _count(detector, paths, place),
    )


def _count(detector: Detector | ArtifactDetector, paths: Sequence[Path], place: Place) -> int:
    """Predict them all; a picture that cannot be read is an error here, for it would look fast."""
    from flexdetr.metrics.latency import LatencyError
    from flexdetr.runtime.sources import Item, Unreadable

    count = 0
    items = [Item(str(path), path) for path in paths]
    for answer in detector.predict_many(items, **place.options):
        if isinstance(answer, Unreadable):
            raise LatencyError(answer.reason)
        count += 1
    return count


@contextmanager
def _pictures(folder: Path | None) -> Iterator[list[Path]]:
    """The pictures of a folder, or drawn ones of a camera's size."""
    from flexdetr.metrics.latency import LatencyError
    from flexdetr.runtime.sources import expects_many, find

    if folder is not None:
        stills = [item.content for item in find(folder) if not expects_many(item)]
        paths = [content for content in stills if isinstance(content, Path)]
        if not paths:
            raise LatencyError(f"{folder} holds no picture")
        yield paths
        return
    import numpy as np
    from PIL import Image

    from flexdetr.data.scenes import draw_scene

    with TemporaryDirectory(prefix="flexdetr-bench-") as drawn:
        paths = [Path(drawn) / f"{i}.jpg" for i in range(_DRAWN)]
        for i, path in enumerate(paths):
            Image.fromarray(draw_scene(np.random.default_rng(i), (480, 640)).image).save(path, quality=90)
        yield paths
