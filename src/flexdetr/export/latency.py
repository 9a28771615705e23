"""The milliseconds of a detector on OpenVINO, before it is exported: resizing, and the deploy form's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flexdetr.config import Config, ConfigError
from flexdetr.data.detect import read
from flexdetr.data.record_pixels import read_record
from flexdetr.export import openvino as writer
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.prepare import Options
from flexdetr.export.prepare import prepare as deploy
from flexdetr.metrics.latency import alternate
from flexdetr.model.detector import DetectionModel
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.openvino import HINTS, computes_in, shared_core, thread_options
from flexdetr.runtime.process import prepare

_PICTURES: Final = 4
_ROUNDS: Final = 4
_RANGES: Final = (
    8  # pictures to measure int8 ranges on: enough for the time, which does not depend on the values
)
Picture = NDArray[np.uint8]
Computed = Literal["fp32", "bf16", "int8"]
PRECISIONS: Final[tuple[Computed, ...]] = get_args(Computed)


def check_precision(precision: Computed) -> None:
    """Whether OpenVINO computes in a precision here.

    Raises:
        ConfigError: if it does not.
    """
    if precision == "bf16" and not computes_in("bf16"):
        raise ConfigError("precision: this CPU does not compute in bf16; measure in int8 or fp32")


def pictures_of(data: str, form: PixelForm) -> list[Picture]:
    """A few pictures of a data set."""
    dataset = read(data).with_form(form)
    records = next(dataset.splits[name] for name in ("val", "test", "train") if dataset.splits.get(name))
    return [read_record(record) for record in records[:_PICTURES]]


def compiled(
    model: DetectionModel, config: Config, data: str, precision: Computed, threads: int = 0
) -> Callable[[Picture], object]:
    """A function from a picture to what a detector's graph answers: resizing and network.

    In int8, ranges are measured on training pictures of ``data``; ``threads`` 0 leaves them to OpenVINO.

    Raises:
        ExportError: if the architecture cannot be written for OpenVINO.
    """
    size = config.image_size
    form = deploy(model, Options(size=size, resize_inside=True, sampling="gather"))
    with TemporaryDirectory(prefix="flexdetr-latency-") as place:
        writer.write(form, Path(place), "fp32", ())
        if precision == "int8":
            records = tuple(read(data).with_form(config.data.form).split("train")[:_RANGES])
            writer.quantise(
                Path(place) / writer.MODEL, form, CalibrationPictures(records, size, False, data), ()
            )
        graph = writer.read_whole(Path(place) / writer.MODEL)
    graph.reshape({"images": [1, *size, model.channels], "sizes": [1, 2]})
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **thread_options(threads)}
    options["INFERENCE_PRECISION_HINT"] = HINTS["bf16" if precision == "bf16" else "fp32"]
    request = shared_core().compile_model(graph, "CPU", options).create_infer_request()

    def call(picture: Picture) -> object:
        planes = np.ascontiguousarray(prepare(picture, size).transpose(1, 2, 0)[None])
        request.infer({"images": planes, "sizes": np.array([picture.shape[:2]], np.int64)}, share_inputs=True)
        return request

    return call


def times(calls: Mapping[str, Callable[[Picture], object]], pictures: list[Picture]) -> dict[str, float]:
    """Median milliseconds of each, measured in alternation."""
    seconds = alternate(calls, pictures, rounds=_ROUNDS)
    return {name: 1e3 * median(values) for name, values in seconds.items()}
