"""RT-DETR-R18 on this CPU, file to boxes: ours beside transformers and its plain exports, with the same weights.

    python benchmarks/cpu_latency.py                       about 10 minutes on 2 cores; random weights
    python benchmarks/cpu_latency.py --checkpoint best.safetensors --data data/    trained ones, with INT8

All run in one process in alternation, with the same number of threads, on the same pictures. INT8 needs pictures to be
calibrated on: ``--data``, or an artifact that was exported before: ``--int8 FOLDER``.
"""

# ruff: noqa: ANN401 - transformers and OpenVINO come without types
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexdetr.api import Detector
from flexdetr.cli.bench import Place, open_detector, show_timings, subject_of
from flexdetr.metrics.latency import END_TO_END, TimedDetector, Timing, machine, measure
from flexdetr.runtime.openvino import shared_core
from flexdetr.weights.transformers_export import to_transformers
from measure import drawn_pictures

EAGER, PLAIN, PLAIN_ONNX = (
    "transformers, eager",
    "transformers -> OpenVINO, {}",
    "transformers -> onnxruntime",
)
CHECKPOINT, ARTIFACT = "ours, checkpoint", "ours, OpenVINO {}"
THRESHOLD = 0.4
# (what, the slower one, the faster one, how many times as fast it should be)
TARGETS = (
    ("file to boxes", (EAGER,), tuple(ARTIFACT.format(word) for word in ("fp32", "bf16", "int8")), 7.0),
    ("the plain export, fp32", (PLAIN.format("fp32"),), (ARTIFACT.format("fp32"),), 1.3),
    ("the plain export, bf16", (PLAIN.format("bf16"),), (ARTIFACT.format("bf16"),), 1.3),
    ("int8", (ARTIFACT.format("fp32"),), (ARTIFACT.format("int8"),), 2.0),
)


class Bare(torch.nn.Module):
    """transformers' detector without the dictionaries around it, which no exporter takes."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> logits (B, Q, C) and cxcywh boxes (B, Q, 4)."""
        answer = self.model(pixel_values=pixels)
        return answer.logits, answer.pred_boxes


def transformers_subject(
    name: str, what: str, processor: Any, infer: Callable[[torch.Tensor], tuple[Any, Any]]
) -> TimedDetector:
    """Transformers' own processor before and after whatever computes the network."""
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrObjectDetectionOutput

    def decode(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"))

    def prepare(image: np.ndarray) -> torch.Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"]

    def finish(answer: tuple[Any, Any], size: tuple[int, int]) -> Any:
        logits, boxes = (torch.as_tensor(part) for part in answer)
        output = RTDetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)
        return processor.post_process_object_detection(
            output, threshold=THRESHOLD, target_sizes=torch.tensor([size])
        )

    def predict(path: Path) -> Any:
        image = decode(path)
        return finish(infer(prepare(image)), image.shape[:2])

    return TimedDetector(
        name,
        what,
        decode,
        prepare,
        lambda feed, _: infer(feed),
        finish,
        predict,
        lambda paths: sum(1 for path in paths if predict(path)),
    )


def of_transformers(folder: Path, size: tuple[int, int], threads: int, scratch: Path) -> list[TimedDetector]:
    """Eager, and what ``openvino.convert_model`` and ``torch.onnx.export`` make of it without further care."""
    import onnxruntime
    import openvino
    from transformers import RTDetrForObjectDetection, RTDetrImageProcessor

    processor = RTDetrImageProcessor.from_pretrained(folder)
    model = RTDetrForObjectDetection.from_pretrained(folder).eval()
    bare = Bare(model).eval()
    example = torch.rand(1, 3, *size)

    @torch.inference_mode()
    def eager(pixels: torch.Tensor) -> tuple[Any, Any]:
        return bare(pixels)

    subjects = [transformers_subject(EAGER, f"PyTorch, {threads} threads", processor, eager)]
    with torch.no_grad():
        graph = openvino.convert_model(bare, example_input=example, input=[1, 3, *size])
    core = shared_core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        if precision.upper() in able:
            options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
            compiled = core.compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY", **options})
            subjects.append(_on_openvino(compiled, precision, processor))
    file = scratch / "plain.onnx"
    torch.onnx.export(bare, (example,), str(file), dynamo=True, opset_version=18, verbose=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    subjects.append(
        transformers_subject(
            PLAIN_ONNX,
            "onnxruntime on CPU",
            processor,
            lambda pixels: tuple(session.run(None, {feed: pixels.numpy()}))[:2],  # type: ignore[arg-type, return-value]
        )
    )
    return subjects


def _on_openvino(compiled: Any, precision: str, processor: Any) -> TimedDetector:
    def infer(pixels: torch.Tensor) -> tuple[Any, Any]:
        answer = compiled([pixels.numpy()])
        return answer[0], answer[1]

    return transformers_subject(PLAIN.format(precision), f"OpenVINO on CPU in {precision}", processor, infer)


def ours(
    arguments: argparse.Namespace, detector: Detector, scratch: Path
) -> tuple[list[TimedDetector], list[str]]:
    """The checkpoint and its artifacts; what could not be timed is told."""
    options = {"threads": arguments.threads, "runtime": "auto"}
    notes: list[str] = []
    subjects = [subject_of(CHECKPOINT, detector, Place("cpu", "auto"))]
    float32 = detector.export("openvino", scratch / "fp32").path
    able = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    folders = {"fp32": float32}
    if "BF16" in able:
        folders["bf16"] = float32
    else:
        notes.append("bf16: not computed by this CPU")
    if arguments.int8 is not None:
        folders["int8"] = arguments.int8
    elif arguments.data is not None:
        folders["int8"] = detector.export(
            "openvino", scratch / "int8", precision="int8", data=arguments.data
        ).path
    else:
        notes.append("int8: not timed; give --data or --int8")
    for name, folder in folders.items():
        place = Place("cpu", "bf16" if name == "bf16" else "fp32")
        subjects.append(subject_of(ARTIFACT.format(name), open_detector(str(folder), **options), place))
    plain_onnx = detector.export("onnx", scratch / "onnx").path
    opened = open_detector(str(plain_onnx), threads=arguments.threads, runtime="onnxruntime")
    subjects.append(subject_of("ours, onnxruntime", opened, Place("cpu", "auto")))
    return subjects, notes


def compare(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """The ratios that were promised, by the end-to-end medians."""
    median = {timing.name: timing.percentile(END_TO_END, 50) for timing in timings}
    rows = []
    for what, slower, faster, target in TARGETS:
        first, second = ([name for name in names if name in median] for names in (slower, faster))
        if first and second:
            slow, fast = min(first, key=median.__getitem__), min(second, key=median.__getitem__)
            ratio = median[slow] / median[fast]
            row = {"what": what, "slower": slow, "faster": fast, "times": round(ratio, 3), "target": target}
            rows.append({**row, "reached": ratio >= target})
    return rows


def pictures(folder: Path | None, scratch: Path) -> list[Path]:
    """A folder's JPEGs, or drawn scenes of 640x480."""
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:32]
    return drawn_pictures(scratch, 8)


def main() -> int:
    """Time them all; the exit status tells only whether they could be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--checkpoint", type=Path, help="a detector of the RT-DETR family; else random weights"
    )
    parser.add_argument("--model", default="rtdetr_r18", help="the preset for random weights")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--data", type=Path, help="to calibrate INT8 on")
    parser.add_argument("--int8", type=Path, help="an INT8 artifact that was exported before")
    parser.add_argument("--images", type=Path, help="JPEGs to predict; else scenes are drawn")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = {"image_size": arguments.image_size}
    if arguments.checkpoint:
        detector = Detector.from_checkpoint(arguments.checkpoint, **size)
    else:
        detector = Detector(arguments.model, classes=[f"class {i}" for i in range(80)], **size)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        paths = pictures(arguments.images, scratch)
        subjects, notes = ours(arguments, detector, scratch)
        to_transformers(detector.model.state_dict(), detector.config, detector.classes, scratch / "folder")
        subjects += of_transformers(
            scratch / "folder", detector.config.image_size, arguments.threads, scratch
        )
        timings = measure(subjects, paths, rounds=arguments.rounds, announce=_say)
    print(file=sys.stderr)
    rows = compare(timings)
    show_timings(timings)
    for row in rows:
        times = f"{row['times']:.2f} times as fast as {row['slower']} (target {row['target']:g})"
        print(f"{row['what']}: {row['faster']} is {times}")
    for note in notes:
        print(note)
    if arguments.out is not None:
        document = {
            "machine": machine(),
            "model": detector.config.model,
            "image_size": list(detector.config.image_size),
            "threads": arguments.threads,
            "weights": str(arguments.checkpoint or "random"),
            "timings": [timing.to_json() for timing in timings],
            "ratios": rows,
            "notes": notes,
        }
        arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _say(done: int, total: int) -> None:
    print(f"\rround {done} of {total}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
