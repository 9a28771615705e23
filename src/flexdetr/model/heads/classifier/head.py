"""A classifier in the form of a head: one answer a picture, whose box is the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.model.blocks import ConvBNAct, LearnableAffineBlock
from flexdetr.model.heads.base import Probes
from flexdetr.model.heads.classifier.options import ClassifierOptions
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.model.precision import precisely

# The whole picture, as a cxcywh box in fractions of it.
_WHOLE = (0.5, 0.5, 1.0, 1.0)


class ClassifierHead(nn.Module):
    """The mean of the coarsest level, and a linear layer; see the options for what may stand between."""

    def __init__(
        self, options: ClassifierOptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        width = channels[-1]
        self.features: nn.Module = nn.Identity()
        if options.features is not None:
            self.features = ConvBNAct(width, options.features, 1, act=options.activation)
            width = options.features
        self.hidden: nn.Conv2d | None = None
        if options.hidden is not None:
            self.hidden = nn.Conv2d(width, options.hidden, 1, bias=options.hidden_bias)
            width = options.hidden
        self.lab: nn.Module = LearnableAffineBlock() if options.hidden_lab else nn.Identity()
        self.share, self.downscale = options.dropout, options.downscale
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    queries = 1
    eval_layers = 1
    trained_layers = 1
    limits = None
    selector = ""
    sampling = "none"

    def forward(
        self,
        levels: Sequence[Tensor],
        targets: Targets | None = None,  # noqa: ARG002 - as other heads
        *,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Output:
        """Classify by the coarsest level: logits (B, 1, C), before the softmax; the box is the whole picture."""
        if decoder_layers not in (None, 1) or queries not in (None, 1):
            raise ValueError("a classifier has no decoder layers or queries to choose from")
        x = self.features(levels[-1]).mean((2, 3), keepdim=True)
        if self.hidden is not None:
            x = self.lab(F.relu(self.hidden(x)))
        logits = precisely(self.linear, self._dropped(x.flatten(1)))[:, None]
        boxes = logits.new_tensor(_WHOLE).expand(len(logits), 1, 4)
        return Output(Prediction(logits, boxes))

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.share:
            return x
        kept = 1 - self.share
        if not self.training:
            return x * kept if self.downscale else x
        x = F.dropout(x, self.share)
        return x * kept if self.downscale else x

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable classes of each picture; the box of each is the whole picture."""
        shares = prediction.logits.float()[:, 0].softmax(-1)
        scores, labels = shares.topk(min(top, shares.shape[-1]), dim=-1)
        far = sizes.flip(-1)[:, None].to(scores)
        boxes = torch.cat([torch.zeros_like(far), far], -1).expand(-1, scores.shape[-1], -1)
        return boxes, scores, labels

    def sample_with(self, sampling: str) -> None:
        """Nothing is sampled."""

    def fold(self, layers: int | None = None) -> None:
        """Nothing is for training only.

        Raises:
            ValueError: if ``layers`` is not 1 or None.
        """
        if layers not in (None, 1):
            raise ValueError(f"a classifier has no decoder layers to choose from; got {layers}")

    @staticmethod
    def class_rows() -> tuple[str, ...]:
        """The linear layer."""
        return (r"linear\.(weight|bias)",)

    @staticmethod
    def sensitive() -> tuple[str, ...]:
        """The linear layer, whose logits the softmax spreads."""
        return ("", r"linear")

    @staticmethod
    def probes(layers: int) -> Probes:  # noqa: ARG004 - as other heads
        """There is one row a picture: nothing is selected inside."""
        return Probes("", (), (), {})
