"""Denoising queries in front of the selected ones, and the predictions of both taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flexdetr.model.denoising import Denoising, attention_allowed
from flexdetr.model.heads.selection import Selection
from flexdetr.model.outputs import DenoisingPlan, Output, Prediction, Targets


class Queries(NamedTuple):
    """What a decoder begins with.

    Attributes:
        content: (B, Qdn + Q, D), denoising queries first.
        box_logits: (B, Qdn + Q, 4).
        plan: layout of the denoising queries; None if there are none.
        allowed: who may attend to whom; None allows all.
    """

    content: Tensor
    box_logits: Tensor
    plan: DenoisingPlan | None = None
    allowed: Tensor | None = None


def with_denoising(selected: Selection, denoising: Denoising | None, targets: Targets | None) -> Queries:
    """Selected queries, behind denoising queries where there are targets to draw them from."""
    content, box_logits, _ = selected
    if denoising is None or targets is None:
        return Queries(content, box_logits)
    drawn = denoising(targets)
    if drawn is None:
        # No object in this batch: keep the embedding in the graph, so that all ranks reduce the same gradients.
        unused = 0.0 * denoising.embedding.weight.sum().to(content.dtype)
        return Queries(content + unused, box_logits)
    embedding, noisy, plan = drawn
    allowed = attention_allowed(plan, content.shape[1], content.device)
    return Queries(
        torch.cat([embedding.to(content.dtype), content], 1),
        torch.cat([noisy, box_logits], 1),
        plan,
        allowed,
    )


def assemble(
    layers: Sequence[Prediction],
    plan: DenoisingPlan | None,
    *,
    encoder: Prediction | None = None,
    pre: Prediction | None = None,
) -> Output:
    """A head's output.

    The ``layers`` of the decoder and ``pre``, plain boxes after the first layer, have the denoising queries
    first; ``encoder`` is the selected tokens' own prediction.
    """
    if plan is None:
        return Output(layers[-1], tuple(layers[:-1]), encoder, pre=pre)
    noisy, clean = slice(plan.num_queries), slice(plan.num_queries, None)
    *aux, final = (layer.of(clean) for layer in layers)
    return Output(
        final,
        tuple(aux),
        encoder,
        tuple(layer.of(noisy) for layer in layers),
        plan,
        None if pre is None else pre.of(clean),
        None if pre is None else pre.of(noisy),
    )
