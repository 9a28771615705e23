"""What a trained, frozen network teaches a detector: its features, or its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flexdetr.config import LossConfig
from flexdetr.loss.box_family import BoxLoss, known_options
from flexdetr.loss.companion import Share
from flexdetr.loss.criterion import Losses
from flexdetr.loss.matcher import Match, Matcher, full_precision, to_device
from flexdetr.loss.terms import softplus
from flexdetr.model.outputs import Observed, Prediction, Targets
from flexdetr.model.precision import without_autocast

_MOMENTUM = 0.05  # a step's share in the weight that is found
_STRENGTHS = (1e-3, 1e3)  # the least and the largest weight that is found


class FeatureTeaching(nn.Module):
    """The detector's deepest level learns to tell what a teacher's features are.

    Deep semantic injection of RT-DETRv4 (arXiv 2510.25257): one linear layer projects the level behind the block
    within it onto the teacher's channels, and the loss is 1 - cosine at every place of the student's grid. The
    teacher's features are brought to this grid by averaging or interpolation.

    The weight follows the gradients, so that the teacher has a fixed share of what reaches the level. It departs from
    the paper, which looks once an epoch at the share that the block's own weights have of the detector's gradient and
    corrects the weight where that leaves a band: here both gradients are measured where they meet, and the weight
    moves a little in each step.

    Args:
        teacher: (B, 3, H, W) uint8 RGB -> (B, T, h, w) features; it is no part of this module's state.
        width: D, channels of the student's deepest level.
        teacher_width: T.
        share: of the gradient's norm that comes from the teacher, above 0 and below 1.
        weight: a fixed weight instead; None finds it.

    Attributes:
        strength: () the weight; it starts at 1.
    """

    strength: Tensor

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        width: int,
        teacher_width: int,
        *,
        share: float,
        weight: float | None = None,
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # in a tuple: a module that is an attribute would be saved and moved along
        self.projector = nn.Linear(width, teacher_width)
        self.found = weight is None
        self.odds = share / (1 - share)
        self.register_buffer("strength", torch.tensor(1.0 if weight is None else weight))
        self.begin()

    def begin(self) -> None:
        """Forget the gradients of a step."""
        self._squares: list[Tensor] = []

    def forward(self, seen: Observed, images: Tensor, targets: Targets, step: Share) -> Losses:  # noqa: ARG002 - of every companion
        """The loss "distill_cosine" of a micro-batch: a mean over places, and over the step's images."""
        deep = seen.deep
        with torch.no_grad():
            features = self._teacher[0](images)
        taken = deep.view_as(
            deep
        )  # the teacher's own way into the level, so that its gradient can be told apart
        projected = self.projector(taken.flatten(2).transpose(1, 2))
        with without_autocast(deep.device):
            wanted = on_grid(full_precision(features), (deep.shape[-2], deep.shape[-1]))
            given = full_precision(projected)
            wanted = wanted.flatten(2).transpose(1, 2).to(given.dtype)
            distances = 1 - F.cosine_similarity(given, wanted, dim=-1)
            total = self.strength * (distances.mean(1).sum() / step.images)
        if self.found and deep.requires_grad:
            self._measure(taken, deep)
        return Losses(total, {"distill_cosine": total.detach()})

    def _measure(self, taken: Tensor, deep: Tensor) -> None:
        """Note, when the gradients come, the squares of their norms: the teacher's, and that of all others."""
        own: list[Tensor] = []

        def of_teacher(gradient: Tensor) -> None:
            own.append(full_precision(gradient))

        def of_all(gradient: Tensor) -> None:
            mine = own.pop()
            others = full_precision(gradient) - mine
            self._squares.append(torch.stack([mine.square().sum(), others.square().sum()]))

        taken.register_hook(of_teacher)  # type: ignore[no-untyped-call]
        deep.register_hook(of_all)  # type: ignore[no-untyped-call]

    def collected(self) -> Tensor:
        """(2,) squared norms of the teacher's gradient and of all others at the level, over the step's images."""
        return torch.stack(self._squares).sum(0) if self._squares else self.strength.new_zeros(2)

    def settle(self, total: Tensor) -> None:
        """Move the weight towards the one that would have given the teacher its share of the step."""
        if not self.found:
            return
        usable = torch.isfinite(total).all() & (total > 0).all()
        mine, others = torch.where(usable, total, 1.0).to(self.strength).sqrt()
        wanted = self.odds * others / mine  # relative to the weight that was used
        moved = (self.strength * wanted**_MOMENTUM).clamp(*_STRENGTHS)
        self.strength.copy_(torch.where(usable, moved, self.strength))


class AnswerTeaching(nn.Module):
    """The queries that answer for an object learn the teacher's answer for it.

    The teacher's predictions are matched with the objects as the student's last layer is, and what the two give to the
    same object is compared: scores of all classes by their Kullback-Leibler divergence, boxes by L1 and the box loss
    with the weights of ``LossConfig``.

    ``teacher`` gives predictions for (B, 3, H, W) uint8 RGB; ``order`` is the teacher's class that is each of
    the student's.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Prediction],
        order: Sequence[int],
        config: LossConfig,
        weight: float,
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # see FeatureTeaching
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)
        self.config, self.weight = config, weight
        self.matcher = Matcher(config)
        options = known_options(config.matcher_box, config.box_options)
        self._box_loss = BoxLoss(config.matcher_box, **options).eval()

    def begin(self) -> None:
        """Nothing is collected."""

    def forward(self, seen: Observed, images: Tensor, targets: Targets, step: Share) -> Losses:
        """The losses "distill_class", "distill_l1" and "distill_box" of a micro-batch.

        Raises:
            NonFiniteError: if predictions of an image with objects are NaN or Inf.
        """
        order = self.get_buffer("order")
        with torch.no_grad():
            answer = self._teacher[0](images)
        with without_autocast(images.device):
            student = Prediction(
                full_precision(seen.output.final.logits), full_precision(seen.output.final.boxes)
            )
            teacher = Prediction(
                full_precision(answer.logits)[..., order].to(student.logits.dtype),
                full_precision(answer.boxes).to(student.boxes.dtype),
            )
            matches = self.matcher({"student": student, "teacher": teacher}, targets)
            pairs = torch.from_numpy(_paired(matches["student"], matches["teacher"]))
            image, one, other = to_device(pairs, images.device)
            mine, theirs = student.logits[image, one], teacher.logits[image, other]
            scores = theirs.sigmoid()
            # Binary cross-entropy with soft targets, less what it is for equal scores.
            classes = (softplus(mine) - scores * mine) - (softplus(theirs) - scores * theirs)
            boxes, wanted = student.boxes[image, one], teacher.boxes[image, other]
            config = self.config
            sums = torch.stack(
                [
                    config.classification_weight * classes.sum(),
                    config.l1_weight * (boxes - wanted).abs().sum(),
                    config.box_weight * self._box_loss(boxes, wanted).sum(),
                ]
            )
            values = self.weight * sums / step.objects
        names = ("distill_class", "distill_l1", "distill_box")
        return Losses(values.sum(), dict(zip(names, values.detach().unbind(), strict=True)))

    def collected(self) -> Tensor:
        """Nothing."""
        return torch.zeros(1, device=self.get_buffer("order").device)

    def settle(self, total: Tensor) -> None:
        """Nothing follows from a step."""


class ClassTeaching(nn.Module):
    """A classifier learns the probabilities that another one gives to all classes of the same, augmented picture.

    The loss is the Kullback-Leibler divergence of the student's from the teacher's at a temperature, times its square,
    so that its gradient stays as large at any (arXiv 1503.02531, section 2); GhostNetV3 (arXiv 2404.11202, section 3.2)
    trains so.

    ``teacher`` gives a prediction, logits (B, 1, T), for (B, 3, H, W) uint8 RGB; ``order`` is the teacher's
    class that is each of the student's, ``temperature`` that of both.
    """

    def __init__(
        self, teacher: Callable[[Tensor], Prediction], order: Sequence[int], temperature: float, weight: float
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # see FeatureTeaching
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)
        self.temperature, self.weight = temperature, weight

    def begin(self) -> None:
        """Nothing is collected."""

    def forward(self, seen: Observed, images: Tensor, targets: Targets, step: Share) -> Losses:  # noqa: ARG002
        """The loss "distill_class" of a micro-batch."""
        with torch.no_grad():
            answer = self._teacher[0](images)
        with without_autocast(images.device):
            mine = full_precision(seen.output.final.logits) / self.temperature
            theirs = full_precision(answer.logits)[..., self.get_buffer("order")].to(mine) / self.temperature
            distance = F.kl_div(
                mine.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True
            )
            loss = self.weight * self.temperature**2 * distance / step.images
        return Losses(loss, {"distill_class": loss.detach()})

    def collected(self) -> Tensor:
        """Nothing."""
        return torch.zeros(1, device=self.get_buffer("order").device)

    def settle(self, total: Tensor) -> None:
        """Nothing follows from a step."""


def on_grid(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Features (B, T, h, w) on another grid: averaged where that is coarser, interpolated where it is finer."""
    if features.shape[-2:] == size:
        return features
    if features.shape[-2] >= size[0] and features.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(features, size)
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def _paired(student: Match, teacher: Match) -> np.ndarray:
    """(3, P) image, student's query and teacher's query of each object that both have matched."""
    _, one, other = np.intersect1d(student.objects, teacher.objects, assume_unique=True, return_indices=True)
    return np.stack([student.images[one], student.queries[one], teacher.queries[other]])
