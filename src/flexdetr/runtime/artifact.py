"""An exported detector on disk: a folder with the model's files and ``metadata.json``, which says how to use them.

Nothing is guessed when one is opened: the format version has to be known, and every file has to be there with the
content that was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flexdetr.classes import Classes
from flexdetr.config import nearest
from flexdetr.files import sha256
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.formats import FORMATS, SUFFIXES
from flexdetr.runtime.nms import Limits
from flexdetr.runtime.parity import Parity, Precision, Proven, Tolerance
from flexdetr.runtime.process import Selection, decode, label

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 2
# Version 1 names no precision that was proven, and is computed in float32; see ``ArtifactMetadata.precisions``.
OLDEST_VERSION = 1
METADATA = "metadata.json"


class ArtifactError(ValueError):
    """An artifact that cannot be used; the message is one sentence that says why."""


class Input(BaseModel):
    """What the graph takes: uint8 pictures (B, H, W, channels) and, unless it is raw, their original sizes (B, 2).

    Attributes:
        name: the pictures' name in the graph.
        sizes: the name of the (height, width) of the original pictures, int64; None for a raw graph.
        dtype: of the pictures.
        layout: of the pictures.
        colour_order: of the pictures: "as stored" where they have other channels than three or one. Programs that
            know "RGB" alone, like FlexDETR's before there was any other, refuse these.
        channels: of the pictures.
        value_range: stored values (low, high) that become 0 and 255; None: see ``flexdetr.pixel_form.PixelForm``.
        size: (height, width) that the network sees.
        dynamic_size: whether the network sees pictures as they come, with sides divisible by 32.
        smallest: shortest side that it takes.
        resize: "inside" where the graph takes pictures of any size and resizes them itself, "outside" where they have
            to come in the network's size.
        resize_method: how to resize, and how the training did.
        batch: "dynamic": any number of pictures of one size.
        normalisation: done inside, to the uint8 values: times scale, minus mean, divided by std.
        middle: of a classifier, the side of the square in the middle that it is shown of a picture, as a share of the
            shorter side, before anything is resized; None for the whole picture.
    """

    model_config = ConfigDict(frozen=True)

    name: str = "images"
    sizes: str | None = "sizes"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour_order: Literal["RGB", "grey", "as stored"] = "RGB"
    channels: int = Field(default=3, ge=1)
    value_range: tuple[float, float] | None = None
    size: tuple[int, int]
    dynamic_size: bool = False
    smallest: int = 1
    resize: Literal["inside", "outside"]
    resize_method: str = "bilinear with antialiasing, as Pillow; the aspect ratio is not kept"
    batch: Literal["dynamic"] = "dynamic"
    normalisation: dict[str, Any] = Field(default_factory=dict)
    middle: float | None = Field(default=None, gt=0, le=1)

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become."""
        return PixelForm(self.channels, self.value_range)


class Outputs(BaseModel):
    """What the graph answers.

    Attributes:
        names: of the outputs, in order: boxes, scores, labels; of a raw graph: logits, boxes.
        box_format: "xyxy pixels of the original picture"; of a raw graph "cxcywh fractions".
        labels: what the labels count; the data set's own ids are in ``classes``.
        top: (query, class) pairs that are answered at most.
    """

    model_config = ConfigDict(frozen=True)

    names: tuple[str, ...]
    box_format: Literal["xyxy pixels of the original picture", "cxcywh fractions"]
    labels: str = "position in classes, from 0"
    top: int = Field(gt=0)


class Suppression(BaseModel):
    """How overlapping boxes of a dense head are suppressed: inside the graph, or of a raw graph by the runtime.

    Attributes:
        score: (box, class) pairs with a score above this are candidates.
        iou: a candidate goes if its IoU with a better one of its class is above this.
        max_detections: pairs that are kept at most.
    """

    model_config = ConfigDict(frozen=True)

    score: float = Field(ge=0, le=1)
    iou: float = Field(ge=0, le=1)
    max_detections: int = Field(ge=1)

    @property
    def limits(self) -> Limits:
        """The same for ``flexdetr.runtime.nms``."""
        return Limits(self.score, self.iou, self.max_detections)


class File(BaseModel):
    """One of the artifact's files."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ReferencePictures(BaseModel):
    """Pictures with the PyTorch model's detections, to try a precision with where it was not proven.

    For the file in the folder see ``flexdetr.runtime.trial``; ``tolerance`` is what passes in half precision.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    tolerance: Tolerance


class ArtifactMetadata(BaseModel):
    """The content of ``metadata.json``.

    Attributes:
        format_version: of this layout; a newer one than ours is refused.
        format: of the model's files, one of ``flexdetr.runtime.formats.FORMATS``.
        precision: "fp32", "fp16" or "int8": see docs/deploy.md for what is in which then.
        model: the preset's name.
        task: what it does with a picture, like "detect" or "classify".
        classes: ``[{"id": the data set's own id, "name": name}, ...]``, by the graph's labels.
        input: see ``Input``.
        outputs: see ``Outputs``.
        raw: whether the graph ends with logits and boxes, without post-processing.
        suppression: of a dense head's boxes; None if the head needs none.
        thresholds: lowest scores to keep, by class name, or "default" for all.
        made: how: versions, checkpoint, decoder layers, queries, sampling, layers kept in float32 ...
        licence: of the weights.
        provenance: where the weights came from, nearest ancestor first.
        parity: the proof: how far the artifact was from the PyTorch model when it was made, in float32.
        precisions: proofs by what was computed in: a runtime that may choose takes none but those that passed.
        reference: what other precisions, or other CPUs, are tried with; None if there is nothing to choose.
        files: by name inside the folder, the model's own file first.
        seal: sha256 of all the above but ``thresholds``, which may be edited by hand.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    format: str
    precision: str = "fp32"
    model: str = "custom"
    task: str = "detect"
    classes: list[dict[str, Any]]
    input: Input
    outputs: Outputs
    raw: bool = False
    suppression: Suppression | None = None
    thresholds: dict[str, float] = Field(default_factory=dict)
    made: dict[str, Any] = Field(default_factory=dict)
    licence: str = "unknown"
    provenance: list[dict[str, Any]] = Field(default_factory=list)
    parity: Parity | None = None
    precisions: dict[Precision, Proven] = Field(default_factory=dict)
    reference: ReferencePictures | None = None
    files: dict[str, File] = Field(min_length=1)
    seal: str = ""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(nearest(name, FORMATS, "format"))
        return name

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, File]) -> dict[str, File]:
        for name in files:
            if not name or Path(name).name != name or "\\" in name:
                raise ValueError(f"a file's name must be a plain name inside the folder, not {name!r}")
        return files

    @model_validator(mode="after")
    def _reference_is_there(self) -> Self:
        if self.reference is not None and self.reference.file not in self.files:
            raise ValueError(f"the reference pictures {self.reference.file!r} are not among the files")
        return self

    @field_validator("classes")
    @classmethod
    def _classes_fit(cls, classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        Classes.from_json(classes)
        return classes


@dataclass(frozen=True)
class Artifact:
    """An exported detector."""

    path: Path
    metadata: ArtifactMetadata

    @property
    def parity(self) -> Parity | None:
        """The proof that was made at export."""
        return self.metadata.parity

    @property
    def written_precision(self) -> Precision:
        """What a runtime computes in that has no choice."""
        return "fp16" if self.metadata.precision == "fp16" else "fp32"

    @property
    def classes(self) -> Classes:
        """Names and data-set ids, by the graph's labels."""
        return Classes.from_json(self.metadata.classes)

    def read_answers(
        self,
        answers: Sequence[NDArray[Any]],
        sizes: Sequence[tuple[int, int]],
        threshold: float | list[float] = 0.0,
    ) -> list[Detections]:
        """Detections from what a runtime gave.

        ``sizes`` are (height, width) of the original pictures; ``threshold`` is the lowest score to keep, for
        all classes or one for each.
        """
        if self.metadata.raw:
            top, suppression = self.metadata.outputs.top, self.metadata.suppression
            limits = None if suppression is None else suppression.limits
            return [
                decode(logits, boxes, size, self.classes, threshold, top, limits=limits)
                for logits, boxes, size in zip(*answers, sizes, strict=True)
            ]
        if self.metadata.suppression is not None:
            self._tell_full(answers[1])
        return [
            label(Selection(*chosen), size, self.classes, threshold)
            for *chosen, size in zip(*answers, sizes, strict=True)
        ]

    def _tell_full(self, scores: NDArray[Any]) -> None:
        """Say where a graph that suppresses boxes answered as many as it can: it cannot tell how many it dropped."""
        for mine in scores:
            if len(mine) and mine.min() > 0:
                _LOG.info(
                    "all %d boxes that this graph answers are taken, down to the score %.3g, and it may have dropped "
                    "others: it was exported with these limits (max_detections)",
                    len(mine), mine.min(),
                )  # fmt: skip

    @property
    def model_file(self) -> Path:
        """The file that a runtime opens."""
        return self.path / next(iter(self.metadata.files))


def is_artifact(path: str | Path) -> bool:
    """Whether a path means an artifact (as opposed to a checkpoint): by its name and what lies beside it alone."""
    path = Path(path)
    if path.is_dir():
        return (path / METADATA).is_file()
    return path.name == METADATA or path.suffix.lower() in SUFFIXES


def open_artifact(path: str | Path, *, verify: bool = True) -> Artifact:
    """Read an artifact and check that it is whole.

    ``path`` is its folder, or a file inside it; ``verify`` compares the files' sha256 with what was written.

    Raises:
        ArtifactError: if it is no artifact, of a newer format, incomplete or changed.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist")
    folder = path if path.is_dir() else path.parent
    document = folder / METADATA
    if not document.is_file():
        alone = "" if path.is_dir() else f"{path.name} alone is not enough: "
        raise ArtifactError(f"{folder} is not an artifact: {alone}it holds no {METADATA}")
    metadata = _parse(document)
    if path.is_file() and path.name not in (METADATA, *metadata.files):
        raise ArtifactError(
            f"{path.name} is not part of the artifact {folder}: its {METADATA} does not list it"
        )
    artifact = Artifact(folder, metadata)
    for name, expected in metadata.files.items():
        _check(folder / name, expected, verify=verify)
    return artifact


def _parse(document: Path) -> ArtifactMetadata:
    try:
        content = json.loads(document.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{document} cannot be read as JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ArtifactError(
            f"{document} is not the description of a FlexDETR artifact: it has no format_version"
        )
    if not OLDEST_VERSION <= version <= FORMAT_VERSION:
        what = (
            "update flexdetr, or export again with this one" if version > FORMAT_VERSION else "export again"
        )
        raise ArtifactError(
            f"{document.parent} has format version {version}, and this FlexDETR reads {OLDEST_VERSION} to "
            f"{FORMAT_VERSION}: {what}"
        )
    try:
        metadata = ArtifactMetadata.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(key) for key in problem["loc"])
        raise ArtifactError(f"{document}: {place}: {problem['msg']}") from error
    if metadata.seal != _seal(content):
        raise ArtifactError(
            f"{document} was changed after the export: everything but its thresholds, classes above all, belongs to "
            "the model's file; restore it, or export again"
        )
    return metadata


def _check(path: Path, expected: File, *, verify: bool) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(
            f"{path.name} is missing from the artifact {path.parent}: copy the whole folder, or export again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file; copy the whole folder again, or export again")
    if size != expected.bytes or (verify and sha256(path) != expected.sha256):
        raise ArtifactError(
            f"{path} is not what was exported (its sha256 differs from {METADATA}): it was changed or copied in part; "
            "copy it again, or export again"
        )


def describe_files(folder: Path, names: list[str]) -> dict[str, File]:
    """Size and sha256 of files of a folder, in this order."""
    return {name: File(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size) for name in names}


def write_metadata(folder: Path, metadata: ArtifactMetadata) -> Artifact:
    """Write ``metadata.json`` into the folder of the model's files, sealed."""
    content = metadata.model_dump(mode="json")
    content["seal"] = _seal(content)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METADATA).write_text(text + "\n", encoding="utf-8")
    return Artifact(folder, metadata.model_copy(update={"seal": content["seal"]}))


def _seal(content: dict[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if key not in ("seal", "thresholds")}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
