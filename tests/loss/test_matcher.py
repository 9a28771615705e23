"""Matching: minimal cost, one image at a time, and what happens to NaN."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.config import LossConfig
from flexdetr.loss.matcher import Match, Matcher, NonFiniteError, denoising_match
from flexdetr.model.outputs import DenoisingPlan, Prediction, Targets

CLASSES = 3


def make_targets(counts: list[int], seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    return Targets(
        [torch.randint(CLASSES, (count,), generator=generator) for count in counts],
        [torch.rand(count, 4, generator=generator) * 0.5 + 0.2 for count in counts],
        [f"image{index}.jpg" for index in range(len(counts))],
    )


def make_prediction(images: int, queries: int, seed: int = 0) -> Prediction:
    generator = torch.Generator().manual_seed(100 + seed)
    return Prediction(
        torch.randn(images, queries, CLASSES, generator=generator),
        torch.rand(images, queries, 4, generator=generator) * 0.5 + 0.2,
    )


def pair_cost(config: LossConfig, logit: float, predicted: list[float], target: list[float]) -> float:
    """The cost of one pair, written out."""
    score = 1 / (1 + np.exp(-logit))
    focal = -0.25 * (1 - score) ** 2 * np.log(score) + 0.75 * score**2 * np.log(1 - score)
    a, b = ([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (predicted, target))
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = predicted[2] * predicted[3] + target[2] * target[3] - shared
    enclosing = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    giou = shared / union - (enclosing - union) / enclosing
    distance = sum(abs(p - t) for p, t in zip(predicted, target, strict=True))
    return config.class_cost * focal + config.l1_cost * distance - config.box_cost * giou


def test_cost_of_every_pair_of_an_image() -> None:
    config = LossConfig(class_cost=1.5, l1_cost=4, box_cost=3)
    prediction, targets = make_prediction(2, 4), make_targets([2, 1])
    costs = Matcher(config).costs([prediction], targets)
    assert costs.shape == (3, 4)
    owners = [(0, 0), (0, 1), (1, 0)]
    for row, (image, item) in zip(costs, owners, strict=True):
        label = targets.labels[image][item]
        for query, cost in enumerate(row):
            logit = float(prediction.logits[image, query, label])
            boxes = prediction.boxes[image, query].tolist(), targets.boxes[image][item].tolist()
            assert float(cost) == pytest.approx(pair_cost(config, logit, *boxes), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 10_000))
def test_assignment_is_the_cheapest_of_all(counts: list[int], queries: int, seed: int) -> None:
    targets, prediction = make_targets(counts, seed), make_prediction(len(counts), queries, seed)
    matcher = Matcher(LossConfig())
    match = matcher({"final": prediction}, targets)["final"]
    costs = matcher.costs([prediction], targets).double().numpy()
    first = 0
    for image, count in enumerate(counts):
        own = match.images == image
        assert own.sum() == min(count, queries)
        assert len(set(match.queries[own])) == len(set(match.objects[own])) == own.sum()
        block = costs[first : first + count]
        few, many = (block, queries) if count <= queries else (block.T, count)
        cheapest = min(sum(few[range(len(few)), choice]) for choice in permutations(range(many), len(few)))
        assert costs[match.objects[own], match.queries[own]].sum() == pytest.approx(cheapest, abs=1e-6)
        assert ((match.objects[own] >= first) & (match.objects[own] < first + count)).all()
        first += count


def test_layers_are_matched_on_their_own() -> None:
    targets = make_targets([3, 0, 2])
    layers = {
        "final": make_prediction(3, 6, 1),
        "aux0": make_prediction(3, 6, 2),
        "encoder": make_prediction(3, 9, 3),
    }
    matcher = Matcher(LossConfig())
    together = matcher(layers, targets)
    assert list(together) == list(layers)
    for name, prediction in layers.items():
        alone = matcher({name: prediction}, targets)[name]
        for mine, other in zip(together[name], alone, strict=True):
            assert mine.dtype == np.int64
            np.testing.assert_array_equal(mine, other)


def test_all_costs_travel_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: transfers.append(tensor.shape) or original(tensor)
    )
    layers = {f"aux{index}": make_prediction(2, 5, index) for index in range(6)}
    Matcher(LossConfig())(layers, make_targets([2, 3]))
    assert transfers == [(5, 30)]


def test_a_perfect_query_is_found() -> None:
    targets = make_targets([1, 1])
    prediction = make_prediction(2, 8)
    prediction.boxes[0, 5], prediction.boxes[1, 2] = targets.boxes[0][0], targets.boxes[1][0]
    prediction.logits[0, 5, targets.labels[0]], prediction.logits[1, 2, targets.labels[1]] = 5.0, 5.0
    match = Matcher(LossConfig())({"final": prediction}, targets)["final"]
    assert match.queries.tolist() == [5, 2]
    assert match.objects.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["iou", "ciou", "inner_shape_iou", "wiou_v3", "nwd"])
def test_any_box_loss_is_a_cost(name: str) -> None:
    targets, prediction = make_targets([2, 2]), make_prediction(2, 6)
    matcher = Matcher(LossConfig(matcher_box=name, box="inner_shape_iou", box_options={"scale": 1.0}))
    before = matcher({"final": prediction}, targets)["final"]
    after = matcher({"final": prediction}, targets)["final"]
    assert len(before.objects) == 4
    np.testing.assert_array_equal(before.queries, after.queries)


def test_half_precision_is_matched_in_float32() -> None:
    targets, prediction = make_targets([2]), make_prediction(1, 6)
    half = Prediction(prediction.logits.bfloat16(), prediction.boxes.bfloat16())
    assert Matcher(LossConfig()).costs([half], targets).dtype == torch.float32


def test_nan_is_refused_with_the_image_and_the_layer() -> None:
    layers = {"final": make_prediction(3, 4, 0), "aux0": make_prediction(3, 4, 1)}
    layers["aux0"].boxes[1, 2, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'image1.jpg'.*boxes of layer 'aux0'") as caught:
        Matcher(LossConfig())(layers, make_targets([1, 1, 1]))
    assert caught.value.image_ids == ("image1.jpg",)
    assert "final" not in str(caught.value)
    assert isinstance(caught.value, FloatingPointError)


def test_infinite_logits_are_refused() -> None:
    prediction = make_prediction(2, 4)
    prediction.logits[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'image0.jpg'.*logits of layer 'final'"):
        Matcher(LossConfig())({"final": prediction}, make_targets([2, 1]))


def test_broken_targets_are_named_too() -> None:
    targets = make_targets([1, 1])
    targets.boxes[1][0, 3] = torch.inf
    with pytest.raises(NonFiniteError, match=r"'image1.jpg'.*target boxes") as caught:
        Matcher(LossConfig())(
            {"final": make_prediction(2, 4)}, Targets(targets.labels, targets.boxes, [7, "image1.jpg"])
        )
    assert caught.value.image_ids == ("image1.jpg",)


def test_no_objects_no_pairs() -> None:
    match = Matcher(LossConfig())({"final": make_prediction(2, 4)}, make_targets([0, 0]))["final"]
    assert [part.shape for part in match] == [(0,)] * 3


def test_denoising_pairs_follow_the_plan() -> None:
    match = denoising_match(
        DenoisingPlan(num_groups=2, max_objects=3, num_queries=12), make_targets([3, 0, 1])
    )
    pairs = list(zip(*(part.tolist() for part in match), strict=True))
    group = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (2, 0, 3)]
    assert pairs == group + [(image, query + 6, item) for image, query, item in group]
    assert isinstance(match, Match)


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_copies_give_each_object_as_many_queries_of_its_own(copies: int) -> None:
    torch.manual_seed(0)
    prediction = Prediction(torch.randn(2, 20, 3), torch.rand(2, 20, 4) * 0.3 + 0.3)
    boxes = [torch.rand(4, 4) * 0.3 + 0.3, torch.zeros(0, 4)]
    targets = Targets([torch.tensor([0, 1, 2, 0]), torch.zeros(0, dtype=torch.int64)], boxes, ["a", "b"])
    matcher = Matcher(LossConfig())
    match = matcher({"encoder": prediction}, targets, copies={"encoder": copies})["encoder"]
    assert sorted(match.objects.tolist()) == sorted([0, 1, 2, 3] * copies)
    assert len(set(match.queries.tolist())) == 4 * copies
    repeated = Targets(
        [targets.labels[0].repeat(copies), targets.labels[1]], [boxes[0].repeat(copies, 1), boxes[1]]
    )
    costs = matcher.costs([prediction], targets).numpy()
    same = matcher({"encoder": prediction}, repeated)["encoder"]
    total = costs[match.objects, match.queries].sum()
    assert total == pytest.approx(costs[same.objects % 4, same.queries].sum(), rel=1e-5)
