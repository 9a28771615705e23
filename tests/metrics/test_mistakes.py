from pathlib import Path

import numpy as np
import pytest

from flexdetr.data.dataset import Record
from flexdetr.metrics.confusion import Ranking
from flexdetr.metrics.mistakes import find_mistakes
from flexdetr.metrics.score_calibration import calibrate


def record(boxes, labels, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(labels), bool) if crowd is None else np.array(crowd)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Record(Path("a.jpg"), 1, 100, 100, boxes, np.array(labels, np.int64), crowd, areas)


def found(boxes, scores, labels):
    return {
        1: (
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(labels, np.int64),
        )
    }


def test_each_kind_is_told_apart():
    truth = record([[0, 0, 20, 20], [40, 40, 60, 60], [70, 70, 90, 90], [0, 70, 20, 90]], [0, 0, 1, 1])
    answer = found(
        [[0, 0, 20, 20], [1, 0, 20, 20], [48, 40, 68, 60], [70, 70, 90, 91], [70, 0, 80, 10], [0, 0, 5, 5]],
        [0.9, 0.8, 0.7, 0.6, 0.55, 0.1],
        [0, 0, 0, 0, 1, 1],
    )
    mistakes = find_mistakes([truth], answer, [0.5, 0.5])
    kinds = {mistake.kind: mistake for mistake in mistakes.wrong}
    assert (mistakes.kept, mistakes.right) == (5, 1)
    assert kinds["duplicate"].score == pytest.approx(0.8)
    assert kinds["wrong place"].iou == pytest.approx(240 / 560)
    assert kinds["wrong class"].other.tolist() == [70, 70, 90, 90]
    assert kinds["false alarm"].other is None
    assert len(mistakes.of("missed")) == 3
    assert mistakes.duplicate_rate == pytest.approx(1 / 5)
    (right,) = mistakes.found
    assert (right.kind, right.label, right.iou) == ("right", 0, 1.0)
    assert right.other.tolist() == [0, 0, 20, 20]


def test_crowds_and_empty_images_are_no_mistakes():
    crowd = record([[0, 0, 50, 50]], [0], crowd=[True])
    assert not find_mistakes([crowd], found([[0, 0, 20, 20]], [0.9], [0]), [0.5]).wrong
    nothing = find_mistakes([record([], [])], {}, [0.5])
    assert (nothing.wrong, nothing.kept) == ((), 0)
    assert np.isnan(nothing.duplicate_rate)


def test_missed_objects_come_largest_first():
    truth = record([[0, 0, 5, 5], [0, 0, 50, 50]], [0, 0])
    assert [one.box_xyxy[2] for one in find_mistakes([truth], {}, [0.5]).of("missed")] == [50, 5]


def test_calibration_is_the_distance_between_score_and_truth():
    honest = Ranking(np.array([0.75] * 4), np.array([True, True, True, False]), 3)
    assert calibrate([honest]).error == pytest.approx(0)
    boasting = Ranking(np.array([0.95] * 2), np.array([True, False]), 1)
    assert calibrate([boasting]).error == pytest.approx(0.45)
    both = calibrate([honest, boasting])
    assert both.counts.sum() == 6
    assert np.isnan(calibrate([]).error)
