"""A precision tried on this very machine: reference pictures that travel with an artifact, and a verdict that is kept.

A proof holds for the runtime and the CPU that it was made with. Elsewhere an artifact is run on its reference pictures
once, before anything else is computed in that precision.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.files import write_whole
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.cpu import cpu_features
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import drift
from flexdetr.runtime.process import Selection, label

if TYPE_CHECKING:
    from flexdetr.runtime.parity import Drift, Precision

_log = logging.getLogger(__name__)

REFERENCE: Final = "reference.npz"
# Of a pixel this loses nothing that a detector looks at, and a picture is a tenth of what it is without loss.
_QUALITY: Final = 95

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Verdict:
    """Whether an artifact may be computed in a precision here."""

    passed: bool
    reason: str


def write_reference(
    path: Path, pictures: Sequence[Picture], predict: Callable[[Picture], Detections]
) -> None:
    """Keep pictures, those in RGB as JPEG, with what should be found in them.

    Pictures are (h, w, C) uint8 in the network's size; the model sees them as they will be read again.
    """
    encoded = [_encode(picture) for picture in pictures]
    expected = [predict(_decode(one)) for one in encoded]
    arrays: dict[str, NDArray[Any]] = {f"picture_{place}": one for place, one in enumerate(encoded)}
    for place, one in enumerate(expected):
        arrays |= {
            f"boxes_{place}": one.boxes_xyxy,
            f"scores_{place}": one.scores,
            f"indices_{place}": one.indices,
        }
    np.savez(path, allow_pickle=False, **arrays)


def read_reference(artifact: Artifact) -> tuple[list[Picture], list[Detections]]:
    """The reference pictures of an artifact, and what the PyTorch model finds in them.

    Raises:
        ArtifactError: if it has none, or they cannot be read.
    """
    reference = artifact.metadata.reference
    if reference is None:
        raise ArtifactError(f"{artifact.path} has no reference pictures: export again")
    path, size = artifact.path / reference.file, artifact.metadata.input.size
    pictures: list[Picture] = []
    expected: list[Detections] = []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = sum(name.startswith("picture_") for name in arrays)
            for place in range(count):
                picture = _decode(arrays[f"picture_{place}"])
                if picture.shape != (*size, artifact.metadata.input.channels):
                    raise ValueError(f"a picture is {picture.shape[0]}x{picture.shape[1]}")
                found = Selection(*(arrays[f"{name}_{place}"] for name in ("boxes", "scores", "indices")))
                pictures.append(picture)
                expected.append(label(found, size, artifact.classes))
    except Exception as error:  # zip, numpy and Pillow answer damage in a dozen ways without a common base
        raise ArtifactError(
            f"{path} cannot be used: {error}; copy the artifact again, or export again"
        ) from error
    if not pictures:
        raise ArtifactError(f"{path} holds no pictures: export again")
    return pictures, expected


def settle(
    artifact: Artifact,
    precision: Precision,
    runtime: str,
    detect: Callable[[Picture], Detections],
    cache: Path | None,
) -> Verdict:
    """Whether an artifact may be computed in a precision on this machine.

    Its proof decides where it failed, or passed with this runtime on a CPU of these features; its reference pictures
    decide elsewhere, once: the verdict is kept.

    ``runtime`` is what computes, with its version; ``detect`` runs it in that precision on a picture of the
    network's size; ``cache`` is a folder of verdicts, None keeps none.
    """
    proven = artifact.metadata.precisions.get(precision)
    features = cpu_features()
    if proven is not None and not proven.passed:
        return Verdict(False, f"its proof in {precision} failed: {proven.reason}")
    if proven is not None and (proven.runtime, proven.features) == (runtime, features):
        return Verdict(True, f"its proof in {precision} passed")
    if artifact.metadata.reference is None:
        return Verdict(False, f"it was never proven in {precision}; export it again to have it proven")
    key = [artifact.metadata.seal, precision, runtime, *features]
    kept = None if cache is None else cache / f"trial-{_digest(key)}.json"
    verdict = None if kept is None else _remembered(kept)
    if verdict is None:
        found = _try(artifact, detect)
        verdict = Verdict(found.passed, f"tried in {precision} on its reference pictures: {found.describe()}")
        if kept is not None:
            _remember(kept, verdict)
    return verdict


def _try(artifact: Artifact, detect: Callable[[Picture], Detections]) -> Drift:
    pictures, expected = read_reference(artifact)
    reference = artifact.metadata.reference
    if reference is None:  # ``read_reference`` has refused
        raise ArtifactError(f"{artifact.path} has no reference pictures")
    return drift("reference pictures", expected, [detect(one) for one in pictures], reference.tolerance)


def _encode(picture: Picture) -> NDArray[np.uint8]:
    """The bytes of a JPEG file; a picture that is no RGB as it is."""
    if picture.shape[2] != 3:
        return picture
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return np.frombuffer(file.getvalue(), np.uint8)


def _decode(content: NDArray[np.uint8]) -> Picture:
    if content.ndim == 3:
        return content
    with Image.open(io.BytesIO(content.tobytes()), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))


def _digest(key: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _remembered(path: Path) -> Verdict | None:
    """A kept verdict; None if there is none, or the file is incomplete: then it is tried again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("passed"), bool):
        return None
    return Verdict(content["passed"], str(content.get("reason", "")))


def _remember(path: Path, verdict: Verdict) -> None:
    content = {"passed": verdict.passed, "reason": verdict.reason}
    try:
        write_whole(path, json.dumps(content) + "\n")
    except OSError as error:
        _log.warning(
            "a trial's verdict is not kept: %s cannot be written (%s)", path, error.strerror or error
        )
