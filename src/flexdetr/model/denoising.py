"""Contrastive denoising queries (DINO, arXiv 2203.03605, section 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flexdetr.model.outputs import DenoisingPlan, Noise, Targets

# Numbers drawn for each query: flip or not, the other label, four distances, four directions.
_DRAWS = 10


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of fractions, kept finite by clipping both x and 1 - x at 1e-5."""
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


class Denoising(nn.Module):
    """Draws queries from the objects themselves: positives near them, negatives a little further off.

    Args:
        num_classes: C; the embedding has one more row, kept at zero, for the padding.
        width: channels of a query.
        queries: about how many queries of each kind a batch gets; the number of groups follows from it.
        label_noise: half of this share of the labels is replaced by a random class.
        box_noise: corners move by up to this times half the box (positives), up to twice that (negatives).
        mirrored: what becomes of a negative whose corners pass each other: D-FINE takes them for one another's; RT-DETR
            leaves a negative size to the clip of the logit.
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        queries: int,
        label_noise: float,
        box_noise: float,
        *,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.num_classes = num_classes
        self.queries = queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.embedding = nn.Embedding(num_classes + 1, width, padding_idx=num_classes)

    def forward(self, targets: Targets) -> tuple[Tensor, Tensor, DenoisingPlan] | None:
        """Denoising queries for a batch.

        Returns:
            Embeddings (B, Qdn, D), box logits (B, Qdn, 4) and the layout; None if the batch has no object.
        """
        most = max((len(labels) for labels in targets.labels), default=0)
        if targets.noise is not None:
            most = max(most, targets.noise.max_objects)
        if most == 0:
            return None
        groups = max(1, self.queries // most)
        labels = _padded(targets.labels, most, self.num_classes)
        boxes = _padded(targets.boxes, most, 0)
        real = labels < self.num_classes
        draws = self._draws((len(labels), groups, 2, most), targets.noise, boxes)
        # (B, groups, 2, N): the positives of a group, then its negatives.
        labels = self._noisy_labels(
            labels[:, None, None].expand(-1, groups, 2, -1), real[:, None, None], draws
        )
        boxes = self._noisy_boxes(boxes[:, None, None].expand(-1, groups, 2, -1, -1), draws)
        plan = DenoisingPlan(groups, most, 2 * groups * most)
        return self.embedding(labels.flatten(1)), inverse_sigmoid(boxes.flatten(1, 3)), plan

    @staticmethod
    def _draws(layout: tuple[int, int, int, int], noise: Noise | None, like: Tensor) -> Tensor:
        """(B, groups, 2, N, 10) uniform in [0, 1): whether and what to flip, how far and which way to move."""
        if noise is None:
            return torch.rand(*layout, _DRAWS, device=like.device, dtype=like.dtype)
        each = [np.random.default_rng(seed).random((*layout[1:], _DRAWS), np.float32) for seed in noise.seeds]
        drawn = torch.from_numpy(np.stack(each))
        if like.device.type == "cuda":  # without waiting for what the device is doing
            drawn = drawn.pin_memory()
        return drawn.to(like.device, like.dtype, non_blocking=True)

    def _noisy_labels(self, labels: Tensor, real: Tensor, draws: Tensor) -> Tensor:
        flip = (draws[..., 0] < self.label_noise * 0.5) & real
        # A float32 below 1 times the number of classes can round up to it.
        other = (draws[..., 1] * self.num_classes).long().clamp(max=self.num_classes - 1)
        return torch.where(flip, other, labels)

    def _noisy_boxes(self, boxes: Tensor, draws: Tensor) -> Tensor:
        """(B, groups, 2, N, 4) cxcywh -> the same with moved corners; index 1 of the third axis moves further."""
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([centre - half, centre + half], -1)
        reach = half.repeat(1, 1, 1, 1, 2) * self.box_noise
        part = draws[..., 2:6] + torch.arange(2, device=draws.device)[:, None, None]
        sign = (draws[..., 6:] < 0.5).to(corners.dtype) * 2 - 1
        corners = (corners + sign * part * reach).clamp(0, 1)
        low, high = corners[..., :2], corners[..., 2:]
        size = high - low
        return torch.cat([(low + high) / 2, size.abs() if self.mirrored else size], -1)


def _padded(rows: list[Tensor], length: int, value: float) -> Tensor:
    """(B, length, ...) of B tensors with at most ``length`` rows."""
    padded = pad_sequence(rows, batch_first=True, padding_value=value)
    missing = length - padded.shape[1]
    return torch.cat([padded, padded.new_full((len(rows), missing, *padded.shape[2:]), value)], 1)


def attention_allowed(plan: DenoisingPlan, queries: int, device: torch.device) -> Tensor:
    """Who may attend to whom: no group sees another, matching queries see no denoising query.

    The denoising queries come first.

    Returns:
        (Qdn + Q, Qdn + Q) bool, True if a row may attend to a column.
    """
    group = torch.arange(plan.num_queries, device=device) // (2 * plan.max_objects)
    group = torch.cat([group, group.new_full((queries,), plan.num_groups)])
    return (group[None, :] == group[:, None]) | (group[None, :] == plan.num_groups)
