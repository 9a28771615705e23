"""Task-aligned assignment against the reference's, and what it does at the edges."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexdetr.boxes import xyxy_to_cxcywh
from flexdetr.loss.assigner import Assignment, assign


def tensors(golden: ModuleType, case: str) -> tuple[dict[str, np.ndarray], list[Tensor], list[Tensor]]:
    arrays = golden.arrays(case)
    images = range(len(arrays["logits"]))
    labels = [torch.from_numpy(arrays[f"target_labels.{i}"]) for i in images]
    boxes = [
        xyxy_to_cxcywh(torch.from_numpy(arrays[f"target_boxes.{i}"]).reshape(-1, 4).float()) for i in images
    ]
    return arrays, labels, boxes


@pytest.mark.parametrize("case", ["tal", "tal_crowded"])
def test_is_the_published_assignment(case: str, golden: ModuleType) -> None:
    arrays, labels, boxes = tensors(golden, case)
    found = assign(
        torch.from_numpy(arrays["logits"]).float(),
        xyxy_to_cxcywh(torch.from_numpy(arrays["boxes"]).float()),
        torch.from_numpy(arrays["cells"]).float(),
        torch.cat(labels),
        torch.cat(boxes),
        [len(each) for each in labels],
    )
    starts = np.cumsum([0, *(len(each) for each in labels)])
    for image in range(len(labels)):
        own = found.images == image
        objects = np.full(len(arrays["cells"]), -1)
        scores = np.zeros(len(arrays["cells"]))
        objects[found.cells[own]] = found.objects[own] - starts[image]
        scores[found.cells[own]] = found.scores[own]
        np.testing.assert_array_equal(objects, arrays[f"plain.{image}.object"])
        np.testing.assert_allclose(scores, arrays[f"plain.{image}.score"], atol=2e-5)


def grid(size: int) -> Tensor:
    place = torch.arange(size) + 0.5
    return torch.stack([place.repeat(size), place.repeat_interleave(size)], -1)


def simple(objects: list[list[float]], counts: list[int], *, size: int = 6, classes: int = 2) -> Assignment:
    """Cells that all predict the box of one cell's size, with equal scores."""
    centres = grid(size)
    boxes = torch.cat([centres, torch.ones(size * size, 2)], -1).expand(len(counts), -1, -1)
    return assign(
        torch.zeros(len(counts), size * size, classes),
        boxes,
        centres,
        torch.zeros(len(objects), dtype=torch.int64),
        torch.tensor(objects).reshape(-1, 4),
        counts,
    )


def test_a_batch_without_objects_has_no_pairs() -> None:
    found = simple([], [0, 0])
    assert all(part.numel() == 0 for part in found)


def test_an_object_between_centres_has_no_cell() -> None:
    assert not len(simple([[1.0, 1.0, 0.4, 0.4]], [1]).cells)


def test_a_centre_on_the_edge_counts() -> None:
    assert simple([[1.0, 0.75, 1.0, 0.5]], [1]).cells.tolist() == [0, 1]


def test_of_two_equal_objects_the_first_takes_every_cell() -> None:
    found = simple([[2.0, 2.0, 2.0, 2.0]] * 2, [2])
    assert set(found.objects.tolist()) == {0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_batch_is_its_images_one_by_one(seed: int, counts: list[int]) -> None:
    """Each cell has one object of its own image, scores are at most the CIoU's bound, and images do not mix."""
    draw = torch.Generator().manual_seed(seed)
    size, classes = 8, 3
    centres, total = grid(size), sum(counts)
    logits = torch.randn(len(counts), size * size, classes, generator=draw)
    sides = 0.5 + 3 * torch.rand(len(counts), size * size, 2, generator=draw)
    boxes = torch.cat([centres.expand(len(counts), -1, -1), sides], -1)
    labels = torch.randint(classes, (total,), generator=draw)
    objects = torch.cat(
        [8 * torch.rand(total, 2, generator=draw), 0.5 + 4 * torch.rand(total, 2, generator=draw)], -1
    )
    found = assign(logits, boxes, centres, labels, objects, counts)
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    pairs = list(zip(found.images.tolist(), found.cells.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    start = 0
    for image, count in enumerate(counts):
        part = slice(start, start + count)
        alone = assign(
            logits[image : image + 1],
            boxes[image : image + 1],
            centres,
            labels[part],
            objects[part],
            [count],
        )
        own = found.images == image
        assert torch.equal(found.cells[own], alone.cells)
        assert torch.equal(found.objects[own] - start, alone.objects)
        torch.testing.assert_close(found.scores[own], alone.scores)
        start += count
