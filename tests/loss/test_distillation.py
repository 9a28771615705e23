"""What a teacher's loss measures, and that its weight gives it the share that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexdetr.config import LossConfig
from flexdetr.loss.companion import Share
from flexdetr.loss.distillation import AnswerTeaching, ClassTeaching, FeatureTeaching, on_grid
from flexdetr.model.outputs import Observed, Output, Prediction, Targets

NOTHING = Targets([], [])


def seen(deep: Tensor, final: Prediction | None = None) -> Observed:
    final = final or Prediction(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4))
    return Observed(Output(final), [deep], deep)


def test_features_that_agree_in_direction_cost_nothing() -> None:
    deep = torch.randn(2, 4, 3, 5)
    teaching = FeatureTeaching(lambda _: 7 * deep, 4, 4, share=0.1)
    with torch.no_grad():
        teaching.projector.weight.copy_(torch.eye(4))
        teaching.projector.bias.zero_()
    losses = teaching(seen(deep), torch.zeros(2), NOTHING, Share(1.0, 2))
    assert losses.total.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        teaching.projector.weight.neg_()
    assert teaching(seen(deep), torch.zeros(2), NOTHING, Share(1.0, 2)).total.item() == pytest.approx(
        2, abs=1e-6
    )


def test_the_loss_is_a_mean_over_the_steps_images() -> None:
    deep, features = torch.randn(4, 4, 3, 5), torch.randn(4, 6, 3, 5)
    teaching = FeatureTeaching(lambda images: features[images], 4, 6, share=0.1)
    whole, one, other = (
        teaching(seen(deep[part]), part, NOTHING, Share(1.0, 4)).total
        for part in (torch.arange(4), torch.arange(3), torch.tensor([3]))
    )
    torch.testing.assert_close(one + other, whole)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_weight_gives_the_teacher_its_share_of_the_gradient(share: float) -> None:
    torch.manual_seed(0)
    deep, features, others = torch.randn(2, 5, 4, 4), torch.randn(2, 6, 8, 8), torch.randn(2, 5, 4, 4)
    teaching = FeatureTeaching(lambda _: features, 5, 6, share=share)
    for _ in range(300):
        teaching.begin()
        level = deep.clone().requires_grad_()
        taught = teaching(seen(level), level, NOTHING, Share(1.0, 2)).total
        (taught + (level * others).sum() / 100).backward()
        teaching.settle(teaching.collected())
    assert level.grad is not None
    rest = others.norm() / 100
    own = (level.grad - others / 100).norm()
    assert own / (own + rest) == pytest.approx(share, rel=0.01)


def test_a_fixed_weight_stays() -> None:
    deep = torch.randn(1, 4, 2, 2, requires_grad=True)
    teaching = FeatureTeaching(lambda _: torch.ones(1, 3, 2, 2), 4, 3, share=0.1, weight=5.0)
    teaching(seen(deep), torch.zeros(1), NOTHING, Share(1.0, 1)).total.backward()
    teaching.settle(teaching.collected())
    assert teaching.strength == 5


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (8, 8)])
def test_features_are_brought_to_any_grid(size: tuple[int, int]) -> None:
    features = torch.full((1, 2, 4, 4), 3.0)
    torch.testing.assert_close(on_grid(features, size), torch.full((1, 2, *size), 3.0))


def answer(boxes: Tensor, labels: Tensor, classes: int) -> Prediction:
    """A query for each box, sure of its class."""
    logits = torch.full((1, len(boxes), classes), -6.0)
    logits[0, torch.arange(len(boxes)), labels] = 6.0
    return Prediction(logits, boxes[None])


def test_the_same_answer_costs_nothing_in_any_order_of_queries_and_classes() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.3], [0.8, 0.7, 0.2, 0.1]])
    labels = torch.tensor([0, 1, 2])
    targets = Targets([labels[:2]], [boxes[:2]])
    order = [2, 0, 1]  # the teacher's class that is each of ours
    theirs = torch.tensor([order[label] for label in labels])
    turned = torch.tensor([2, 0, 1])
    teacher = answer(boxes[turned], theirs[turned], 3)
    teaching = AnswerTeaching(lambda _: teacher, order, LossConfig(), 1.0)
    student = answer(boxes, labels, 3)
    losses = teaching(seen(torch.zeros(1, 1, 1, 1), student), torch.zeros(1), targets, Share(2.0, 1))
    assert losses.total.item() == pytest.approx(0, abs=1e-6)
    moved = student._replace(boxes=(student.boxes + 0.01).requires_grad_())
    losses = teaching(seen(torch.zeros(1, 1, 1, 1), moved), torch.zeros(1), targets, Share(2.0, 1))
    assert losses.terms["distill_l1"].item() == pytest.approx(5 * 2 * 4 * 0.01 / 2, rel=1e-4)
    losses.total.backward()
    assert moved.boxes.grad is not None
    assert moved.boxes.grad[0, :2].abs().sum() > 0
    assert moved.boxes.grad[0, 2].abs().sum() == 0, "the query without an object learns nothing"


def test_a_classifiers_answers_are_learned_at_their_temperature() -> None:
    student = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(1))
    order = [2, 0, 3, 1]
    boxes = torch.zeros(3, 1, 4)

    def loss(logits: Tensor, temperature: float, images: int = 3) -> Tensor:
        teaching = ClassTeaching(lambda _: Prediction(teacher, boxes), order, temperature, 0.5)
        deep = torch.zeros(3, 1, 1, 1)
        return teaching(seen(deep, Prediction(logits, boxes)), boxes, NOTHING, Share(3.0, images)).total

    for temperature in (1.0, 4.0):
        one, other = (
            (student[:, 0] / temperature).softmax(-1),
            (teacher[:, 0, order] / temperature).softmax(-1),
        )
        expected = 0.5 * temperature**2 * (other * (other / one).log()).sum(-1).mean()
        assert loss(student, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
        assert loss(teacher[..., order], temperature).item() == pytest.approx(0, abs=1e-6)
    assert loss(student, 1.0, images=6).item() == pytest.approx(loss(student, 1.0).item() / 2)
