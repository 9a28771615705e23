"""Overlaps by hand, and of boxes without area."""

from __future__ import annotations

import numpy as np
import pytest

from flexdetr.runtime.overlaps import iou_matrix


def test_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    others = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [2, 2, 4, 4]], np.float32)
    assert iou_matrix(boxes, others) == pytest.approx(np.array([[1 / 3, 1, 0.04], [0, 0, 0]]))
    assert iou_matrix(others, boxes, of_first=True)[:, 0] == pytest.approx([0.5, 1, 1])


def test_boxes_without_area_overlap_nothing() -> None:
    none = np.zeros((1, 4), np.float32)
    assert iou_matrix(none, none).tolist() == [[0.0]]
    assert iou_matrix(none, none, of_first=True).tolist() == [[0.0]]
    assert iou_matrix(none[:0], none).shape == (0, 1)
