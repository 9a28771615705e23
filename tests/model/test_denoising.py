"""Denoising queries: how they are laid out, how far they are moved, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.model.denoising import Denoising, attention_allowed, inverse_sigmoid
from flexdetr.model.outputs import DenoisingPlan, Targets


def centred(*counts: int) -> Targets:
    """Boxes so far inside that no noise reaches the image's border."""
    return Targets(
        [torch.full((count,), 2) for count in counts],
        [torch.tensor([0.5, 0.4, 0.2, 0.1]).repeat(count, 1) for count in counts],
    )


def test_the_mask_is_the_published_one(golden: ModuleType) -> None:
    want = golden.arrays("losses")["denoising_mask"]
    allowed = attention_allowed(DenoisingPlan(14, 7, 196), 300, torch.device("cpu"))
    np.testing.assert_array_equal(~allowed.numpy(), want)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_layout(counts: list[int], queries: int) -> None:
    denoising = Denoising(5, 8, queries, 0.5, 1.0)
    drawn = denoising(centred(*counts))
    if max(counts) == 0:
        assert drawn is None
        return
    assert drawn is not None
    embedding, box_logits, plan = drawn
    assert plan == DenoisingPlan(max(1, queries // max(counts)), max(counts), plan.num_queries)
    assert plan.num_queries == 2 * plan.num_groups * plan.max_objects
    assert embedding.shape == (len(counts), plan.num_queries, 8)
    assert box_logits.shape == (len(counts), plan.num_queries, 4)
    assert box_logits.isfinite().all()
    # Where an image has fewer objects than the fullest, the rest is padding: the row of zeros.
    places = embedding.view(len(counts), plan.num_groups, 2, plan.max_objects, 8)
    for image, count in enumerate(counts):
        assert not places[image, :, :, count:].any()
        assert places[image, :, :, :count].any(-1).all()


def test_positives_stay_within_half_a_box_and_negatives_beyond() -> None:
    torch.manual_seed(0)
    _, box_logits, plan = Denoising(5, 8, 400, 0.5, 1.0)(centred(4))
    boxes = box_logits.sigmoid().view(plan.num_groups, 2, plan.max_objects, 4)
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    moved = (corners - torch.tensor([0.4, 0.35, 0.6, 0.45])).abs() / torch.tensor([0.1, 0.05, 0.1, 0.05])
    # A negative's corners can cross; the logit clips its negative size, and the corners are lost with it.
    whole = (boxes[..., 2:] > 1e-4).all(-1, keepdim=True).expand_as(moved)
    assert moved[:, 0].max() <= 1 + 1e-3
    assert moved[:, 1][whole[:, 1]].min() >= 1 - 1e-3
    assert moved[:, 1][whole[:, 1]].max() <= 2 + 1e-3
    assert abs(moved[:, 0].mean() - 0.5) < 0.05  # uniform


def test_no_noise_gives_the_objects_themselves() -> None:
    denoising = Denoising(5, 8, 3, 0.0, 0.0)
    embedding, box_logits, _ = denoising(centred(2, 1))
    torch.testing.assert_close(box_logits[0].sigmoid(), centred(1).boxes[0].expand(4, 4))
    torch.testing.assert_close(embedding[0], denoising.embedding.weight[2].expand(4, 8))


def test_a_quarter_of_the_labels_is_drawn_anew() -> None:
    """Label noise 0.5 puts half of the labels at risk; a drawn label is the old one once in C times."""
    torch.manual_seed(0)
    denoising = Denoising(10, 8, 4000, 0.5, 1.0)
    embedding, _, _ = denoising(centred(1))
    same = (embedding[0] == denoising.embedding.weight[2]).all(-1).float().mean()
    assert abs(same - (0.75 + 0.25 / 10)) < 0.02


def test_boxes_stay_in_the_image(objects: Callable[..., Targets]) -> None:
    torch.manual_seed(0)
    _, box_logits, _ = Denoising(4, 8, 100, 0.5, 1.0)(objects(5, 2))
    boxes = box_logits.sigmoid()
    assert ((boxes >= 0) & (boxes <= 1)).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 1.5))
def test_inverse_sigmoid_is_finite_and_inverts(x: float) -> None:
    value = inverse_sigmoid(torch.tensor(x, dtype=torch.float64))
    assert value.isfinite()
    if 1e-5 < x < 1 - 1e-5:
        torch.testing.assert_close(value.sigmoid().item(), x, rtol=1e-9, atol=1e-12)
