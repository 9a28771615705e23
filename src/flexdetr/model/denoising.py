"""Contrastive denoising queries (DINO, arXiv 2203.03605, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flexdetr.model.outputs import DenoisingPlan, Targets


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of fractions, kept finite by clipping both x and 1 - x at ``eps``."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


class Denoising(nn.Module):
    """Draws queries from the objects themselves: positives near them, negatives a little further off.

    Args:
        num_classes: C; the embedding has one more row, kept at zero, for the padding.
        width: channels of a query.
        queries: about how many queries of each kind a batch gets; the number of groups follows from it.
        label_noise: half of this share of the labels is replaced by a random class.
        box_noise: corners move by up to this times half the box (positives), up to twice that (negatives).
    """

    def __init__(
        self, num_classes: int, width: int, queries: int, label_noise: float, box_noise: float
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.queries = queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.embedding = nn.Embedding(num_classes + 1, width, padding_idx=num_classes)

    def forward(self, targets: Targets) -> tuple[Tensor, Tensor, DenoisingPlan] | None:
        """Denoising queries for a batch.

        Args:
            targets: the objects of B images.

        Returns:
            Embeddings (B, Qdn, D), box logits (B, Qdn, 4) and the layout; None where the batch has no object.
        """
        most = max((len(labels) for labels in targets.labels), default=0)
        if most == 0:
            return None
        groups = max(1, self.queries // most)
        labels = pad_sequence(targets.labels, batch_first=True, padding_value=self.num_classes)
        boxes = pad_sequence(targets.boxes, batch_first=True)
        real = labels < self.num_classes
        # (B, groups, 2, N): the positives of a group, then its negatives.
        labels = self._noisy_labels(labels[:, None, None].expand(-1, groups, 2, -1), real[:, None, None])
        boxes = self._noisy_boxes(boxes[:, None, None].expand(-1, groups, 2, -1, -1))
        plan = DenoisingPlan(groups, most, 2 * groups * most)
        return self.embedding(labels.flatten(1)), inverse_sigmoid(boxes.flatten(1, 3)), plan

    def _noisy_labels(self, labels: Tensor, real: Tensor) -> Tensor:
        flip = (torch.rand(labels.shape, device=labels.device) < self.label_noise * 0.5) & real
        return torch.where(flip, torch.randint_like(labels, self.num_classes), labels)

    def _noisy_boxes(self, boxes: Tensor) -> Tensor:
        """(B, groups, 2, N, 4) cxcywh -> the same with moved corners; index 1 of the third axis moves further."""
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([centre - half, centre + half], -1)
        reach = half.repeat(1, 1, 1, 1, 2) * self.box_noise
        part = torch.rand_like(corners)
        part[:, :, 1] += 1
        sign = torch.randint_like(corners, 2) * 2 - 1
        corners = (corners + sign * part * reach).clamp(0, 1)
        low, high = corners[..., :2], corners[..., 2:]
        # Corners of a strongly moved negative may cross; the reference leaves a negative size to the clip of the logit.
        return torch.cat([(low + high) / 2, high - low], -1)


def attention_allowed(plan: DenoisingPlan, queries: int, device: torch.device) -> Tensor:
    """Who may attend to whom: no group sees another, matching queries see no denoising query.

    Args:
        plan: layout of the denoising queries, which come first.
        queries: number of matching queries.
        device: where the mask lives.

    Returns:
        (Qdn + Q, Qdn + Q) bool, True where a row may attend to a column.
    """
    group = torch.arange(plan.num_queries, device=device) // (2 * plan.max_objects)
    group = torch.cat([group, group.new_full((queries,), plan.num_groups)])
    return (group[None, :] == group[:, None]) | (group[None, :] == plan.num_groups)
