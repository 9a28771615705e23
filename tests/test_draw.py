"""Drawing leaves the picture's size alone, marks each box, and survives boxes at the edge."""

from __future__ import annotations

import numpy as np
import pytest

from flexdetr.draw import class_colour, draw_detections
from flexdetr.runtime.detections import Detections


def test_marks_the_box_and_copies_the_picture() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    found = Detections([[50, 60, 150, 160]], [0.9], [7], ["cat"], [3])
    drawn = draw_detections(image, found)
    assert drawn.shape == image.shape
    assert not image.any()
    assert tuple(drawn[159, 100]) == class_colour(3)  # the lower edge
    assert tuple(drawn[110, 50]) == class_colour(3)  # the left edge
    assert not drawn[110, 100].any()  # inside


@pytest.mark.parametrize("box", [[0, 0, 300, 200], [299, 199, 300, 200], [10, 10, 10, 10], [0, 0, 0.4, 0.4]])
def test_boxes_at_the_edge_and_without_area(box: list[float]) -> None:
    found = Detections([box], [0.5], [1], ["a name that is longer than the picture is wide, by far"], [0])
    assert draw_detections(np.zeros((200, 300, 3), np.uint8), found).any()


def test_nothing_found_changes_nothing() -> None:
    image = np.full((40, 50, 3), 7, np.uint8)
    assert (draw_detections(image, Detections.empty()) == image).all()


def test_the_first_eighty_classes_have_their_own_colours() -> None:
    assert len({class_colour(index) for index in range(80)}) == 80
