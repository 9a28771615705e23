"""The proof of an export: the written artifact and the PyTorch model, side by side on pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.compare import explain
from flexdetr.export.formats import open_written, writer_of
from flexdetr.export.locate import Departure, first_departure
from flexdetr.export.prepare import DeployForm
from flexdetr.export.reference import Pictures, Reference
from flexdetr.runtime.cpu import cpu_features
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import drift
from flexdetr.runtime.formats import FORMATS
from flexdetr.runtime.openvino import VERSION
from flexdetr.runtime.parity import Drift, Parity, Precision, Proven, Tolerance
from flexdetr.runtime.process import prepare

# In float32 only the order of sums differs. Half precision knows scores to 5e-4 at best, and rounding adds up over the
# layers. bf16 knows a value to 4e-3: of 2,043 detections of four detectors trained on drawn scenes 99 % drifted by less
# than 0.07 and 1 px, and of no eight pictures more than 2 % by more than 0.1; with sampling places in bf16, most do.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(),
    "fp16": Tolerance(score=0.02, box=2.0),
    "bf16": Tolerance(score=0.1, box=4.0, share=0.1),
    "int8": Tolerance(score=0.15, box=16.0, share=0.25),
}
# Relative differences of a layer's output that count as a departure, see ``first_departure``.
LIMITS: Mapping[str, tuple[float, ...]] = {"fp32": (3e-2, 1e-3, 1e-4), "fp16": (0.3, 0.05, 0.02)}
BATCH = 4
ELSEWHERE = "in OpenVINO"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Proof:
    """What running an artifact beside the model gave.

    ``parity`` is what is stored, ``departure`` the layer at fault, where it is one.
    """

    parity: Parity
    departure: Departure | None = None


@dataclass(frozen=True)
class _Case:
    """One way of running the artifact.

    Attributes:
        name: of the way.
        images: the pictures.
        expected: the model's detections.
        answers: the artifact's.
        tolerance: what passes.
        feed: a picture -> the graph's input for it, (1, h, w, 3).
    """

    name: str
    images: Sequence[Image]
    expected: Sequence[Detections]
    answers: Sequence[Detections]
    tolerance: Tolerance
    feed: Callable[[Image], Image]

    @property
    def drift(self) -> Drift:
        return drift(self.name, self.expected, self.answers, self.tolerance)


def prove(folder: Path, form: DeployForm, reference: Reference, pictures: Pictures) -> Proof:
    """Run a written artifact beside the model, in the precision that it was written in.

    Returns:
        The proof, passed or not; where it is not, with the culprit.

    Raises:
        ArtifactError: if the artifact cannot even be run.
    """
    artifact = open_written(folder, verify=True)
    cases, notes = _cases(artifact, "fp32", form, reference, pictures.images)
    drifts = [case.drift for case in cases]
    wrong = next((case for case, one in zip(cases, drifts, strict=True) if not one.passed), None)
    departure = None
    culprit = _wrong_classes(artifact.classes, reference.classes)
    if culprit is None and wrong is not None:
        departure, culprit = _culprit(artifact, form, wrong)
    return Proof(parity_of(artifact, pictures.source, drifts, culprit, notes), departure)


def prove_in(
    precision: Precision, folder: Path, form: DeployForm, reference: Reference, pictures: Pictures
) -> Proven:
    """Run an artifact beside the model in a precision that its runtime may choose.

    Returns:
        The proof, passed or not. Rounding of every layer a little has no culprit: what is told is the first case that
        does not pass.
    """
    artifact = open_written(folder, precision)
    cases, _ = _cases(artifact, precision, form, reference, pictures.images)
    drifts = tuple(case.drift for case in cases)
    wrong = next((one for one in drifts if not one.passed), None)
    return Proven(
        passed=wrong is None,
        runtime=VERSION,
        features=cpu_features(),
        tolerance=cases[0].tolerance,
        drifts=drifts,
        reason=None if wrong is None else f"{wrong.case}: {wrong.describe()}",
    )


def compare(folder: Path, form: DeployForm, reference: Reference, pictures: Pictures) -> Parity:
    """Run an int8 artifact beside the model.

    Its float32 form was proven before: what differs is rounding, of every layer a little, and there is no culprit. How
    another runtime than the artifact's own computes an int8 file is told, and refuses nothing.
    """
    artifact = open_written(folder, verify=True)
    cases, notes = _cases(artifact, "fp32", form, reference, pictures.images)
    drifts = [case.drift for case in cases]
    wrong = next((drift for drift in drifts if not drift.passed and drift.case != ELSEWHERE), None)
    if any(drift.case == ELSEWHERE and not drift.passed for drift in drifts):
        notes.append(
            "OpenVINO computes this int8 ONNX file otherwise: run it with onnxruntime, or use --format openvino"
        )
    culprit = None
    if wrong is not None:
        share = TOLERANCES["int8"].share
        culprit = f"int8: {wrong.case}, more than {share:.0%} of the detections are not the model's"
    return parity_of(artifact, pictures.source, drifts, culprit, notes)


def parity_of(
    artifact: ArtifactDetector,
    pictures: str,
    drifts: Sequence[Drift],
    culprit: str | None,
    notes: Sequence[str] = (),
) -> Parity:
    """What is stored of a comparison: passed where there is no culprit."""
    return Parity(
        passed=culprit is None,
        tolerance=TOLERANCES[artifact.metadata.precision],
        runtime=artifact.runtime().description,
        pictures=pictures,
        drifts=tuple(drifts),
        notes=tuple(notes),
        features=cpu_features(),
        culprit=culprit,
    )


def drift_on(
    artifact: ArtifactDetector, precision: Precision, reference: Reference, images: Sequence[Image]
) -> Drift:
    """How far an artifact's detections in a precision are from the model's on pictures, one by one; see ``prove``."""
    tolerance = tolerance_of(artifact.metadata.precision, precision)
    return _one_by_one(artifact, reference, images, tolerance)[0].drift


def tolerance_of(written: str, computed: Precision) -> Tolerance:
    """What passes for a file written in one precision and computed in another: the coarser decides."""
    return TOLERANCES[written if computed == "fp32" or written == "int8" else computed]


def _one_by_one(
    artifact: ArtifactDetector, reference: Reference, images: Sequence[Image], tolerance: Tolerance
) -> tuple[_Case, list[str]]:
    expected = [reference.predict(image) for image in images]
    answers = [artifact.predict(image, 0.0) for image in images]
    alone = _Case("one by one", images, expected, answers, tolerance, _prepared(reference.size))
    return _without_ties(alone, reference) if tolerance == TOLERANCES["fp32"] else (alone, [])


def _cases(
    artifact: ArtifactDetector,
    precision: Precision,
    form: DeployForm,
    reference: Reference,
    images: Sequence[Image],
) -> tuple[list[_Case], list[str]]:
    """Every way in which the artifact can be run."""
    metadata = artifact.metadata
    tolerance = tolerance_of(metadata.precision, precision)
    alone, notes = _one_by_one(artifact, reference, images, tolerance)
    images, feed = alone.images, alone.feed
    cases = [alone]
    few = images[:BATCH]
    if len(few) > 1:
        answers = artifact.predict_batch(few, 0.0)
        cases.append(
            _Case(f"a batch of {len(few)}", few, alone.expected[: len(few)], answers, tolerance, feed)
        )
    if metadata.input.resize == "inside":
        cases.append(_resized_inside(artifact, form, images, tolerance))
    if metadata.input.dynamic_size:
        size = (reference.size[0] + 32, reference.size[1] + 64)
        other = open_written(artifact.artifact.path, precision, image_size=size)
        expected = [reference.at(size).predict(image) for image in few]
        answers = [other.predict(image, 0.0) for image in few]
        name = f"at {size[0]}x{size[1]}"
        cases.append(_Case(name, few, expected, answers, tolerance, _prepared(size)))
    if metadata.format == "onnx":  # which is what OpenVINO reads as well
        second = open_written(artifact.artifact.path, runtime="openvino")
        answers = [second.predict(image, 0.0) for image in images]
        cases.append(_Case(ELSEWHERE, images, alone.expected, answers, tolerance, feed))
    return cases, notes


@torch.inference_mode()
def _resized_inside(
    artifact: ArtifactDetector, form: DeployForm, images: Sequence[Image], tolerance: Tolerance
) -> _Case:
    """Pictures as they come.

    The form resizes as Pillow does but for the rounding to whole levels, so that it, and not the model behind Pillow,
    is what the artifact has to equal.
    """
    runtime = artifact.runtime()
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    expected, answers = [], []
    for image, size in zip(images, sizes, strict=True):
        feeds = (torch.tensor(image)[None], *([] if form.options.raw else [torch.tensor([size])]))
        expected += artifact.artifact.read_answers([part.numpy() for part in form(*feeds)], [size])
        answers += artifact.artifact.read_answers(runtime.infer(image[None]), [size])
    return _Case("resized by the graph", images, expected, answers, tolerance, lambda image: image[None])


def _prepared(size: tuple[int, int]) -> Callable[[Image], Image]:
    return lambda image: np.ascontiguousarray(prepare(image, size).transpose(1, 2, 0)[None])


def _without_ties(case: _Case, reference: Reference) -> tuple[_Case, list[str]]:
    """The case without pictures that drift because their selection of queries is a tie; a quarter of them at most."""
    tied = [
        place
        for place, image in enumerate(case.images)
        if not drift("", [case.expected[place]], [case.answers[place]], case.tolerance).passed
        and reference.tied(image)
    ]
    if not tied or 4 * len(tied) > len(case.images):
        return case, []
    kept = [place for place in range(len(case.images)) if place not in tied]
    rest = _Case(
        case.name,
        [case.images[place] for place in kept],
        [case.expected[place] for place in kept],
        [case.answers[place] for place in kept],
        case.tolerance,
        case.feed,
    )
    return rest, [f"{len(tied)} of {len(case.images)} pictures left out: their last selected query is a tie"]


def _wrong_classes(found: Classes, expected: Classes) -> str | None:
    """What is wrong with the artifact's class list, if anything."""
    if found == expected:
        return None
    if len(found) != len(expected):
        return f"the class list: it has {len(found)} classes, the model {len(expected)}"
    pairs = tuple(zip(expected.names, expected.ids, strict=True))
    listed = tuple(zip(found.names, found.ids, strict=True))
    for shift in range(1, len(pairs)):
        if listed == pairs[shift:] + pairs[:shift]:
            by = shift if shift <= len(pairs) // 2 else shift - len(pairs)
            return f"the class list: it is shifted by {by} against the model's"
    place = next(i for i, (one, other) in enumerate(zip(listed, pairs, strict=True)) if one != other)
    return f"the class list: position {place} holds {listed[place]}, the model's {pairs[place]}"


def _culprit(artifact: ArtifactDetector, form: DeployForm, case: _Case) -> tuple[Departure | None, str]:
    """The layer at fault if it is one, and in words what is."""
    metadata = artifact.metadata
    around = explain(case.expected, case.answers, case.tolerance, len(artifact.classes))
    if around is not None:
        return None, f"postprocess: {around}"
    if case.name == ELSEWHERE:
        return None, "OpenVINO reads this ONNX file otherwise than onnxruntime, which agrees with the model"
    image = case.images[_worst(case)]
    feeds: dict[str, NDArray[Any]] = {"images": case.feed(image)}
    if not metadata.raw:
        feeds["sizes"] = np.array([image.shape[:2]], np.int64)
    kind = FORMATS[metadata.format]
    path, limits = artifact.artifact.model_file, LIMITS[metadata.precision]
    departure = first_departure(form, path, writer_of(kind), feeds, limits)
    if departure is not None:
        return departure, str(departure) if kind.sees_inside else f"in or before {departure}"
    if metadata.raw:
        return None, "every layer agrees with the model, the detections drift nevertheless"
    return (
        None,
        "postprocess: every layer agrees with the model, the boxes, scores or labels made from them do not",
    )


def _worst(case: _Case) -> int:
    """The picture with the most that is wrong."""

    def badness(place: int) -> tuple[int, float]:
        one = drift("", [case.expected[place]], [case.answers[place]], case.tolerance)
        off = max(one.score / case.tolerance.score, one.box / case.tolerance.box)
        return one.missing + one.extra + one.flips, off

    return max(range(len(case.images)), key=badness)
