"""Artifacts on OpenVINO: the default on CPUs."""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.cache import cache_folder
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.cpu import bf16_supported
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.feeds import named_feeds
from flexdetr.runtime.parity import Asked, Precision
from flexdetr.runtime.pool import LIMIT, PoolError, wait_limit
from flexdetr.runtime.trial import settle

_log = logging.getLogger(__name__)

Hint = Literal["latency", "throughput"]
Shape = tuple[int, int, int]  # of a batch: pictures, height, width

VERSION: Final = f"OpenVINO {version('openvino')}"
HINTS: Final[dict[Precision, str]] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names for precisions in its hint."""
# And among a device's capabilities.
_CAPABILITIES: Final[dict[Precision, str]] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


_starting = threading.Lock()


def shared_core() -> openvino.Core:
    """The one ``openvino.Core`` of this process, for everything that compiles graphs; it is never let go.

    The CPU plugin (2026.4) gives the thread that loads it a signal stack, and frees that when its core dies, in
    whichever thread that happens: the next signal that the first thread handles (Ctrl-C, a child's end) would then
    be a segmentation fault.

    Before it is handed out, this thread has computed something with it. The first arrays that go in and come out make
    OpenVINO's bindings initialise themselves, and two threads that meet there wait for each other without end (2026.4):
    one holds the guard of a C++ static and wants the interpreter's lock, the other holds that and wants the guard.
    """
    with _starting:
        return _core()


@functools.cache
def _core() -> openvino.Core:
    core = openvino.Core()
    pictures, sizes = opset13.parameter([1, 2, 2, 3], np.uint8), opset13.parameter([1, 2], np.int64)
    for one, name in ((pictures, "pictures"), (sizes, "sizes")):
        one.output(0).set_names({name})
    answers = [opset13.convert(pictures, np.float32), opset13.add(sizes, sizes)]
    request = core.compile_model(openvino.Model(answers, [pictures, sizes]), "CPU").create_infer_request()
    feeds = {"pictures": np.zeros((1, 2, 2, 3), np.uint8), "sizes": np.zeros((1, 2), np.int64)}
    request.infer(feeds, share_inputs=True)
    for place in range(len(answers)):
        np.array(request.get_output_tensor(place).data)
    return core


def computes_in(precision: Precision, device: str = "CPU") -> bool:
    """Whether OpenVINO computes in a precision on a device; on CPUs bf16 may be switched off, see ``runtime.cpu``."""
    known = shared_core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    return _CAPABILITIES[precision] in known and (precision != "bf16" or device != "CPU" or bf16_supported())


@dataclass(frozen=True)
class _Variant:
    """The graph compiled for one kind of batch, with the requests that wait for work."""

    compiled: Any
    parallel: int
    idle: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        for _ in range(self.parallel):
            self.idle.put(self.compiled.create_infer_request())

    def take(self) -> Any:  # noqa: ANN401 - openvino.InferRequest
        """An idle request, to be put back.

        Raises:
            PoolError: if none has become idle for too long.
        """
        limit = wait_limit()
        try:
            return self.idle.get(timeout=limit)
        except queue.Empty:
            raise PoolError(
                f"waited {limit:g} seconds for one of OpenVINO's {self.parallel} requests: none has ended its picture. "
                f"If the machine is that slow, set {LIMIT} to more seconds"
            ) from None


def thread_options(threads: int | None) -> dict[str, Any]:
    """OpenVINO's options for a number of CPU threads; none of them for None or 0, which leave it to OpenVINO.

    Whoever gives a part of the cores runs something else on the others, often this again: OpenVINO would pin the
    threads of every process to the same first cores, and two such processes would share one.
    """
    return {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False} if threads else {}


class OpenVINORuntime:
    """Runs an artifact's graph; may be called from several threads at once.

    A single picture in the network's size, which is what predicting feeds, has a variant of its own with all shapes
    fixed: OpenVINO plans memory and kernels ahead then. Anything else runs the graph as it was exported, unless it is
    in int8: with a free batch OpenVINO 2026.4 computes int8 graphs otherwise (0.03 AP less on bccd), so that each
    shape has a variant of its own. Each is compiled when it is first needed, and kept in the cache for the next start.

    Args:
        artifact: of format "openvino" or "onnx".
        device: "auto" or "cpu"; "gpu" and "npu" are Intel's.
        hint: "latency" gives all cores to one picture; "throughput" works on several at a time.
        threads: CPU threads; None takes what OpenVINO chooses.
        precision: what is computed in; "auto" is bf16 where the CPU has it and the artifact was proven in it, else
            fp32. The others are computed in as asked, with a warning where that was never proven.
        cache: folder of compiled graphs; None is ``$FLEXDETR_CACHE/openvino`` (by default below ``~/.cache``), False
            keeps none.

    Attributes:
        parallel: pictures worked on at a time.
        precision: what is computed in.

    Raises:
        ArtifactError: if OpenVINO cannot read the file, or has no such device.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "auto",
        hint: Hint = "latency",
        threads: int | None = None,
        precision: Asked = "auto",
        cache: str | Path | bool | None = None,
    ) -> None:
        self.artifact = artifact
        self._core = shared_core()
        self._device = _device(self._core, device)
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper()}
        if self._device == "CPU":
            self._options |= thread_options(threads)
        folder = _graphs_folder(cache)
        if folder is not None:
            self._options["CACHE_DIR"] = str(folder)
        self._names = artifact.metadata.outputs.names
        self._graph = self._read()
        self._variants: dict[Shape | None, _Variant] = {}
        self._compiling = threading.Lock()
        self.precision: Precision = "fp32"
        self._choose(precision, folder)
        self.parallel = 1
        if hint == "throughput":
            self.parallel = self._variant((1, *artifact.metadata.input.size)).parallel

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        return f"OpenVINO on {self._device} in {self.precision}"

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        return Computation.here(VERSION, self._device, self.precision, self.artifact.metadata.precision)

    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the graph.

        Args:
            images: (B, H, W, 3) uint8 RGB, see the artifact's ``input``.
            sizes: (B, 2) height and width of the original pictures; None takes those of ``images``.

        Returns:
            The outputs in the order of the artifact's ``outputs.names``.

        Raises:
            FeedError: if the pictures do not fit.
        """
        takes = self.artifact.metadata.input
        feeds = named_feeds(images, sizes, takes)
        batch, height, width = feeds[takes.name].shape[:3]
        fixed = self.artifact.metadata.precision == "int8" or (batch, height, width) == (1, *takes.size)
        variant = self._variant((batch, height, width) if fixed else None)
        request = variant.take()
        try:
            request.infer(feeds, share_inputs=True)
            return tuple(np.array(request.get_tensor(name).data) for name in self._names)
        finally:
            variant.idle.put(request)

    def _choose(self, asked: Asked, cache: Path | None) -> None:
        """Set the precision; "auto" tries the artifact in bf16 where its proof does not hold here."""
        if asked == "auto":
            # On other devices, and from ONNX files, no proof is made in bf16.
            if (
                self._device != "CPU"
                or self.artifact.metadata.format != "openvino"
                or not computes_in("bf16")
            ):
                return
            self.precision = "bf16"
            verdict = settle(self.artifact, "bf16", VERSION, self._detect, cache)
            if not verdict.passed:
                self.precision = "fp32"
                self._variants.clear()
                _log.warning("%s computes in fp32, not in bf16: %s", self.artifact.path, verdict.reason)
            return
        if asked != "fp32" and not computes_in(asked, self._device):
            raise ArtifactError(f"{self._device} does not compute in {asked}; use precision='fp32' or 'auto'")
        metadata = self.artifact.metadata
        proven = metadata.precisions.get(asked)
        in_the_making = metadata.parity is None
        if asked != "fp32" and not in_the_making and (proven is None or not proven.passed):
            how = "was never proven" if proven is None else f"failed its proof ({proven.reason})"
            _log.warning("%s %s in %s, which was asked for", self.artifact.path, how, asked)
        self.precision = asked

    def _detect(self, picture: NDArray[np.uint8]) -> Detections:
        """All detections of a picture in the network's size."""
        size = (picture.shape[0], picture.shape[1])
        return self.artifact.read_answers(self.infer(picture[None]), [size])[0]

    def _read(self) -> Any:  # noqa: ANN401 - openvino.Model, without stubs
        path = self.artifact.model_file
        try:
            graph = self._core.read_model(path)
            takes = self.artifact.metadata.input
            for name in (takes.name, takes.sizes):
                if name is not None:
                    graph.input(name)
            for name in self._names:
                graph.output(name)
        except RuntimeError as error:
            raise ArtifactError(f"{path} cannot be used by OpenVINO: {_first_line(error)}") from error
        return graph

    def _variant(self, shape: Shape | None) -> _Variant:
        with self._compiling:
            if shape not in self._variants:
                self._variants[shape] = _variant_of(self.compile(shape))
            return self._variants[shape]

    def compile(self, shape: Shape | None, **options: object) -> Any:  # noqa: ANN401 - openvino.CompiledModel
        """The graph compiled as this runtime computes it.

        ``shape`` is that of the pictures (B, H, W); None leaves free what the artifact leaves free. The options
        are beyond those that the runtime has set.

        Raises:
            ArtifactError: if OpenVINO cannot.
        """
        takes = self.artifact.metadata.input
        graph = self._graph
        if shape is not None:
            graph = graph.clone()
            shapes = {takes.name: [*shape, takes.channels]}
            if takes.sizes is not None:
                shapes[takes.sizes] = [shape[0], 2]
            graph.reshape(shapes)
            _drop_idle_resize(graph)
        try:
            own = {**self._options, "INFERENCE_PRECISION_HINT": HINTS[self.precision], **options}
            return self._core.compile_model(graph, self._device, own)
        except RuntimeError as error:
            raise ArtifactError(
                f"OpenVINO cannot compile {self.artifact.model_file} for {self._device}: {_first_line(error)}"
            ) from error


def _variant_of(compiled: Any) -> _Variant:  # noqa: ANN401 - openvino.CompiledModel
    return _Variant(compiled, max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))))


def _drop_idle_resize(graph: Any) -> None:  # noqa: ANN401 - openvino.Model
    """Take out the resizing of pictures that come in the network's size: OpenVINO would copy them."""
    for op in graph.get_ops():
        if op.get_type_name() == "Interpolate" and (
            op.get_input_partial_shape(0) == op.get_output_partial_shape(0)
            and op.get_output_partial_shape(0).is_static
        ):
            op.output(0).replace(op.input_value(0))


def _device(core: Any, asked: str) -> str:  # noqa: ANN401 - openvino.Core
    device = "CPU" if asked == "auto" else asked.upper()
    known = {name.partition(".")[0] for name in core.available_devices}
    if device.partition(".")[0] not in known:
        raise ArtifactError(
            f"OpenVINO has no device {asked!r} here; it has: {', '.join(sorted(known)).lower()}"
        )
    return device


def _graphs_folder(asked: str | Path | bool | None) -> Path | None:
    if asked is False:
        return None
    folder = cache_folder() / "openvino" if asked in (None, True) else Path(str(asked))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning(
            "compiled graphs are not kept: %s cannot be written (%s)", folder, error.strerror or error
        )
        return None
    if not os.access(folder, os.W_OK):
        _log.warning("compiled graphs are not kept: %s cannot be written", folder)
        return None
    return folder


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
