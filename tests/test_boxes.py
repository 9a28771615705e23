"""Box conversions and overlaps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flexdetr.boxes import (
    clip_xyxy,
    compare,
    cxcywh_to_xywh,
    cxcywh_to_xyxy,
    giou,
    giou_matrix,
    iou,
    iou_matrix,
    ratio,
    xywh_to_cxcywh,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

side = st.floats(0, 1, width=32)
box = st.tuples(side, side, side, side)
boxes = st.lists(box, min_size=1, max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def corner_iou(first: Tensor, second: Tensor) -> float:
    """IoU of two boxes by their corners: another way than the one under test."""
    a, b = cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)
    shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    return float(shared / union) if union else 0.0


def test_conversions_of_a_known_box() -> None:
    boxes_xyxy = torch.tensor([10.0, 20.0, 40.0, 60.0])
    boxes_xywh = torch.tensor([10.0, 20.0, 30.0, 40.0])
    cxcywh = torch.tensor([25.0, 40.0, 30.0, 40.0])
    assert torch.equal(xyxy_to_cxcywh(boxes_xyxy), cxcywh)
    assert torch.equal(xyxy_to_xywh(boxes_xyxy), boxes_xywh)
    assert torch.equal(cxcywh_to_xyxy(cxcywh), boxes_xyxy)
    assert torch.equal(cxcywh_to_xywh(cxcywh), boxes_xywh)
    assert torch.equal(xywh_to_xyxy(boxes_xywh), boxes_xyxy)
    assert torch.equal(xywh_to_cxcywh(boxes_xywh), cxcywh)


@given(boxes)
def test_conversions_come_back(values: Tensor) -> None:
    for there, back in (
        (cxcywh_to_xyxy, xyxy_to_cxcywh),
        (cxcywh_to_xywh, xywh_to_cxcywh),
        (xywh_to_xyxy, xyxy_to_xywh),
    ):
        torch.testing.assert_close(back(there(values)), values, atol=1e-15, rtol=0)


def test_conversions_take_any_leading_dimensions() -> None:
    values = torch.rand(2, 3, 5, 4)
    assert cxcywh_to_xyxy(values).shape == values.shape
    assert xyxy_to_cxcywh(torch.empty(0, 4)).shape == (0, 4)


def test_clip_cuts_each_side_at_the_border() -> None:
    boxes_xyxy = torch.tensor([[-5.0, -5.0, 120.0, 60.0], [150.0, 10.0, 170.0, 20.0]])
    clipped = clip_xyxy(boxes_xyxy, (50, 100))
    assert clipped.tolist() == [[0, 0, 100, 50], [100, 10, 100, 20]]


@given(box, box)
def test_iou_agrees_with_corners(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    a, b = torch.tensor([first, second], dtype=torch.float64)
    union = float(compare(a, b).union)
    if union > 1e-6:  # corners lose the digits of smaller boxes
        assert float(iou(a, b)) == pytest.approx(corner_iou(a, b), abs=1e-9)


@given(boxes, boxes)
def test_iou_matrix_is_symmetric_and_bounded(first: Tensor, second: Tensor) -> None:
    overlap, general = iou_matrix(first, second), giou_matrix(first, second)
    assert overlap.shape == (len(first), len(second))
    assert torch.equal(overlap, iou_matrix(second, first).T)
    assert torch.equal(general, giou_matrix(second, first).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    assert ((general >= -1 - 1e-12) & (general <= overlap + 1e-12)).all()


@given(boxes)
def test_a_box_overlaps_itself_completely(values: Tensor) -> None:
    for dtype in (torch.float32, torch.float64):
        typed = values.to(dtype)
        area = typed[:, 2] * typed[:, 3]
        expected = (area > torch.finfo(dtype).tiny ** 0.5).to(dtype)
        assert torch.equal(iou(typed, typed), expected)


def test_boxes_thinner_than_the_steps_of_float32_overlap_rightly() -> None:
    thin = torch.tensor([[0.5, 0.5, 1e-9, 0.5]])
    half = torch.tensor([[0.5, 0.5, 5e-10, 0.5]])
    assert iou(thin, thin).item() == 1
    assert iou(thin, half).item() == pytest.approx(0.5)


def test_giou_of_boxes_apart_counts_the_gap() -> None:
    left, right = torch.tensor([0.1, 0.5, 0.2, 1.0]), torch.tensor([0.9, 0.5, 0.2, 1.0])
    assert giou(left, right).item() == pytest.approx(-0.6)


def test_ratio_of_nothing_is_zero_with_zero_gradient() -> None:
    numerator = torch.tensor([0.0, 1.0, 1.0], requires_grad=True)
    denominator = torch.tensor([0.0, 0.0, 2.0], requires_grad=True)
    value = ratio(numerator, denominator)
    value.sum().backward()
    assert value.tolist() == [0, 0, 0.5]
    assert numerator.grad is not None
    assert denominator.grad is not None
    assert numerator.grad.tolist() == [0, 0, 0.5]
    assert denominator.grad.tolist() == [0, 0, -0.25]
