"""The dense loss against the reference's terms and gradients, and what parts of a step add up to."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
import torch
from torch import Tensor

import vectors
from flexdetr.boxes import xyxy_to_cxcywh
from flexdetr.config import ConfigError, build
from flexdetr.loss.criterion import build_criterion
from flexdetr.loss.dense import DenseCriterion
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.model.heads.yolov8.cells import cell_boxes, decode, expectation
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.model.outputs import Output, Prediction, Targets


def output(logits: Tensor, distributions: Tensor, cells: Tensor) -> Output:
    boxes = decode(expectation(distributions), cells)
    every = distributions.flatten(2)
    return Output(Prediction(logits, boxes, every, cells.expand(len(boxes), -1, -1)))


@pytest.mark.parametrize("case", ["tal", "tal_crowded"])
def test_is_the_published_loss(case: str, golden: ModuleType) -> None:
    arrays = golden.arrays(case)
    want = json.loads((vectors.HERE / f"{case}.json").read_text(encoding="utf-8"))["losses"]["plain"]
    cells = cell_boxes([(24, 24), (12, 12), (6, 6)], torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(cells[:, :2] * 192, torch.from_numpy(arrays["cells"]).double())
    logits = torch.from_numpy(arrays["logits"]).double().requires_grad_()
    distributions = torch.from_numpy(arrays["distributions"]).double().requires_grad_()
    images = range(len(logits))
    targets = Targets(
        [torch.from_numpy(arrays[f"target_labels.{i}"]) for i in images],
        [
            xyxy_to_cxcywh(torch.from_numpy(arrays[f"target_boxes.{i}"]).double().reshape(-1, 4)) / 192
            for i in images
        ],
    )
    criterion = DenseCriterion(YOLOv8Options(), logits.shape[-1])
    losses = criterion(output(logits, distributions, cells), targets)
    for name, term in (("bce", "cls"), ("ciou", "box"), ("dfl", "dfl")):
        assert losses.terms[name].item() == pytest.approx(want["terms"][term]["weighted"], abs=1e-4, rel=1e-5)
    assert losses.total.item() == pytest.approx(want["total"], abs=1e-4)
    losses.total.backward()
    for tensor, name in ((logits, "logits"), (distributions, "distributions")):
        expected = torch.from_numpy(arrays[f"gradient.{name}"]).double()
        torch.testing.assert_close(tensor.grad, expected, atol=1e-4, rtol=0)


def drawn(counts: list[int], classes: int = 3) -> tuple[Output, Targets]:
    draw = torch.Generator().manual_seed(len(counts))
    cells = cell_boxes([(8, 12), (4, 6)], torch.zeros(()))
    logits = torch.randn(len(counts), len(cells), classes, generator=draw).requires_grad_()
    distributions = torch.randn(len(counts), len(cells), 4, 16, generator=draw)
    targets = Targets(
        [torch.randint(classes, (count,), generator=draw) for count in counts],
        [0.3 + 0.4 * torch.rand(count, 4, generator=draw) for count in counts],
        list(range(len(counts))),
    )
    return output(logits, distributions.requires_grad_(), cells), targets


def test_parts_of_a_step_add_up_to_the_step() -> None:
    """Losses of two micro-batches, divided by the sum of their shares, are those of the whole batch."""
    whole, targets = drawn([3, 0, 2])
    criterion = DenseCriterion(YOLOv8Options(), 3)
    want = criterion(whole, targets)
    parts = []
    for cut in (slice(0, 1), slice(1, 3)):
        final = whole.final
        part = Prediction(final.logits[cut], final.boxes[cut], final.corners[cut], final.reference[cut])
        own = Targets(targets.labels[cut], targets.boxes[cut], targets.image_ids[cut])
        parts.append(criterion(Output(part), own, num_boxes=7.0))
    share = sum(part.share for part in parts)
    torch.testing.assert_close(sum(part.total for part in parts) / share, want.total)
    for name, value in want.terms.items():
        torch.testing.assert_close(sum(part.terms[name] for part in parts) / share, value)


def test_a_batch_without_objects_learns_that_nothing_is_there() -> None:
    answer, targets = drawn([0, 0])
    losses = DenseCriterion(YOLOv8Options(), 3)(answer, targets)
    losses.total.backward()
    assert losses.terms["ciou"] == losses.terms["dfl"] == 0
    assert losses.terms["bce"] > 0
    assert (answer.final.logits.grad if answer.final.logits.is_leaf else None).gt(0).all()


def test_any_box_loss_of_the_family() -> None:
    answer, targets = drawn([3, 1])
    for name in ("shape_iou", "inner_mpdiou", "wiou_v3"):
        losses = DenseCriterion(YOLOv8Options(box_loss=name), 3)(answer, targets)
        assert losses.terms[name] > 0


def test_predictions_that_are_not_finite_are_refused_with_their_images() -> None:
    answer, targets = drawn([1, 1])
    with torch.no_grad():
        answer.final.logits[1, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="of 1 images are NaN or infinite: 1") as caught:
        DenseCriterion(YOLOv8Options(), 3)(answer, targets)
    assert caught.value.image_ids == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"box": "shape_iou"}}, "loss.box is for heads with queries; .* are head.box_loss"),
        ({"head": {"name": "yolov8", "box_loss": "cious"}}, "did you mean 'ciou'"),
        ({"head": {"name": "yolov8", "box_options": {"scale": 1}}}, "unknown option 'scale'"),
    ],
)
def test_losses_that_the_head_does_not_have_are_refused(changes: dict[str, object], message: str) -> None:
    config = build({"head": {"name": "yolov8"}, **changes})
    with pytest.raises(ConfigError, match=message):
        build_criterion(config.loss, config.head, 3)


def test_a_run_may_derive_encoder_copies() -> None:
    config = build({"head": "yolov8", "loss": {"encoder_copies": 4}})
    assert build_criterion(config.loss, config.head, 3).own_divisor


def test_class_weights_multiply_what_a_class_adds() -> None:
    answer, targets = drawn([3, 1])

    def bce(weights: list[float] | None) -> float:
        criterion = DenseCriterion(YOLOv8Options(), 3)
        criterion.class_weights = None if weights is None else torch.tensor(weights)
        return criterion(answer, targets).terms["bce"].item()

    assert bce([1, 1, 1]) == pytest.approx(bce(None))
    parts = [bce([float(index == one) for index in range(3)]) for one in range(3)]
    assert bce([2, 1, 5]) == pytest.approx(2 * parts[0] + parts[1] + 5 * parts[2], rel=1e-5)
