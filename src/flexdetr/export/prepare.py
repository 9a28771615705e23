"""The deploy form with everything around it: uint8 pictures in, boxes in pixels out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.export.errors import ExportError
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import deploy_form
from flexdetr.model.heads.base import Head
from flexdetr.model.outputs import Prediction
from flexdetr.model.postprocess import most
from flexdetr.runtime.process import MAX_DETECTIONS

HEAD = "detector.head"  # path of the head in a deploy form


@dataclass(frozen=True)
class Options:
    """What to export.

    Attributes:
        size: (height, width) that the network sees.
        channels: of the pictures.
        dynamic_size: let the network see pictures as they come, with sides divisible by 32.
        resize_inside: take pictures of any size and resize them to ``size``.
        raw: leave logits and boxes.
        decoder_layers: layers to run; None runs the configured number.
        queries: queries to select; None selects the configured number.
        sampling: how the decoder samples: "model" as it was trained, "gather" the same without GridSample, "discrete"
            the nearest cell (other results; for models trained so).
        top: (query, class) pairs to answer at most.
        target: the kind of board, of the format "board" only.
        smallest: shortest side of a picture where the size is dynamic: the network needs as many cells as queries.
    """

    size: tuple[int, int]
    channels: int = 3
    dynamic_size: bool = False
    smallest: int = 32
    resize_inside: bool = False
    raw: bool = False
    decoder_layers: int | None = None
    queries: int | None = None
    sampling: Literal["model", "gather", "discrete"] = "model"
    top: int = MAX_DETECTIONS
    target: str | None = None


class Preprocess(nn.Module):
    """Pictures as a network wants them.

    ``normalise`` is the model's own, from (B, 3, H, W) values of 0 to 255; ``size`` (height, width) None takes
    pictures as they come.
    """

    def __init__(self, normalise: Callable[[Tensor], Tensor], size: tuple[int, int] | None) -> None:
        super().__init__()
        self.normalise = normalise
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, h, w) normalised."""
        planes = images.permute(0, 3, 1, 2).float()
        if self.size is not None:
            # With antialiasing this is what Pillow does, but for its rounding to whole levels.
            planes = F.interpolate(planes, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.normalise(planes)


class Postprocess(nn.Module):
    """A head's answer as boxes in pixels, clipped to the picture.

    The head is no part of this module, which has no weights.
    """

    def __init__(self, head: Head, top: int) -> None:
        super().__init__()
        self._answer = head.answer
        self.top = top

    def forward(self, logits: Tensor, boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, Q, C), cxcywh boxes (B, Q, 4), sizes (B, 2) -> boxes xyxy (B, K, 4), scores and labels (B, K)."""
        return self._answer(Prediction(logits, boxes), sizes, self.top)


class DeployForm(nn.Module):
    """A detector as it is exported.

    Attributes:
        dtype: what the detector takes its pictures in.
    """

    def __init__(self, detector: DetectionModel, options: Options) -> None:
        super().__init__()
        self.options = options
        self.dtype = torch.float32
        self.preprocess = Preprocess(detector.normalise, options.size if options.resize_inside else None)
        self.detector = detector
        self.postprocess = None if options.raw else Postprocess(detector.head, options.top)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            sizes: (B, 2) int64 height and width of the original pictures; not used by a raw form.

        Returns:
            Boxes xyxy (B, K, 4) in pixels of the originals, scores (B, K), labels (B, K); raw: logits (B, Q, C) and
            cxcywh boxes (B, Q, 4).
        """
        planes = self.preprocess(images)
        answer = self.detector(planes.to(self.dtype), queries=self.options.queries).final
        logits, boxes = answer.logits, answer.boxes
        if self.postprocess is None or sizes is None:
            return logits, boxes
        return self.postprocess(logits, boxes, sizes)

    def is_sensitive(self, path: str) -> bool:
        """Whether a module's own operations compute in float32, in whatever precision the file is computed.

        What makes the network's input and its answer does, and what the head names.

        ``path`` is the module's, like "detector.head.boxes.2".
        """
        if path in ("preprocess", "postprocess", "detector"):
            return True
        outside, _, inside = f"{path}.".partition(f"{HEAD}.")
        own = self.detector.head.sensitive()
        return not outside and any(re.fullmatch(pattern, inside.removesuffix(".")) for pattern in own)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what ``forward`` returns, in order."""
        return ("logits", "boxes") if self.postprocess is None else ("boxes", "scores", "labels")


def prepare(model: DetectionModel, options: Options) -> DeployForm:
    """The form of a model that is exported; the model is left as it is.

    Raises:
        ExportError: if the options do not fit the model.
    """
    options = _decide(model, options)
    detector = deploy_form(model, decoder_layers=options.decoder_layers).cpu().float()
    if options.sampling != "model":
        detector.head.sample_with(options.sampling)
    return DeployForm(detector, options).eval().requires_grad_(False)


def _decide(model: DetectionModel, options: Options) -> Options:
    """Options without None, checked against the model."""
    head = model.head
    trained = head.trained_layers
    layers = head.eval_layers if options.decoder_layers is None else options.decoder_layers
    if not 1 <= layers <= trained:
        raise ExportError(f"decoder_layers must be between 1 and {trained}; got {layers}")
    queries = head.queries if options.queries is None else options.queries
    if queries < 1:
        raise ExportError(f"queries must be at least 1; got {queries}")
    height, width = options.size
    if any(side < 32 or side % 32 for side in options.size):
        raise ExportError(f"the image size must be divisible by 32; got {height}x{width}")
    if options.dynamic_size and options.resize_inside:
        raise ExportError(
            "a graph of dynamic size takes pictures as they come: it cannot resize them as well"
        )
    smallest = 32
    if options.dynamic_size:
        smallest = _smallest(head.strides, queries)
        if min(options.size) < smallest:
            raise ExportError(
                f"with {queries} queries a graph of dynamic size needs sides of at least {smallest}; got "
                f"{height}x{width}: choose fewer queries or a larger size"
            )
    return replace(
        options,
        channels=model.channels,
        decoder_layers=layers,
        queries=queries,
        smallest=smallest,
        top=most(head),
    )


def _smallest(strides: tuple[int, ...], queries: int) -> int:
    """The shortest side, divisible by 32, at which a square picture has a cell for each query."""
    side = 64  # torch.export fixes sides of one cell
    while sum((side // stride) ** 2 for stride in strides) < queries:
        side += 32
    return side


def example(options: Options, batch: int = 2) -> tuple[Tensor, ...]:
    """Inputs to trace with: noise, so that nothing degenerate (equal scores, empty maps) is folded in."""
    height, width = options.size
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (batch, height, width, options.channels), dtype=torch.uint8, generator=drawn
    )
    if options.raw:
        return (images,)
    return images, torch.tensor([[height, width]] * batch)
