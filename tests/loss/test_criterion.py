"""The whole loss: the reference's terms and gradients, empty batches, and what must not change it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vectors
from flexdetr.classes import Classes
from flexdetr.config import ConfigError, LossConfig
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.criterion import Criterion, Losses, class_weights
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.loss.supervision import supervised_layers
from flexdetr.model.outputs import DenoisingPlan, Output, Prediction, Targets

# The reference's class loss and its name there.
REFERENCES = {"rtdetrv2": ("varifocal", "vfl"), "deim": ("mal", "mal")}
BATCHES = ("losses", "losses_empty")


class Reference:
    """Predictions, targets and answers of one golden batch, in float64."""

    def __init__(self, batch: str) -> None:
        self.arrays = vectors.arrays(batch)
        description = json.loads((vectors.HERE / f"{batch}.json").read_text())
        self.results, info = description["results"], description["info"]
        self.counts = info["objects"]
        self.leaves = {
            key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for key, value in self.arrays.items()
            if key.startswith(("decoder_", "encoder_")) or key in ("denoising_logits", "denoising_boxes")
        }
        pairs = zip(self.leaves["decoder_logits"], self.leaves["decoder_boxes"], strict=True)
        layers = [Prediction(*pair) for pair in pairs]
        plan, denoising = None, ()
        if info["denoising_groups"]:
            queries = info["denoising_split"][0]
            plan = DenoisingPlan(info["denoising_groups"], max(self.counts), queries)
            pairs = zip(self.leaves["denoising_logits"], self.leaves["denoising_boxes"], strict=True)
            denoising = tuple(Prediction(*pair) for pair in pairs)
        encoder = Prediction(self.leaves["encoder_logits"], self.leaves["encoder_boxes"])
        self.output = Output(layers[-1], tuple(layers[:-1]), encoder, denoising, plan)
        images = range(len(self.counts))
        self.targets = Targets(
            [torch.tensor(self.arrays[f"target_labels.{image}"]) for image in images],
            [torch.tensor(self.arrays[f"target_boxes.{image}"]).double() for image in images],
            list(images),
        )

    def criterion(self, source: str) -> Criterion:
        return Criterion(LossConfig(classification=REFERENCES[source][0]), self.output.final.logits.shape[-1])


def reference_name(term: str, source: str) -> str:
    """``giou.denoising3`` as ``loss_giou_dn_3``."""
    kind, _, layer = term.partition(".")
    name = {REFERENCES[source][0]: f"loss_{REFERENCES[source][1]}", "l1": "loss_bbox", "giou": "loss_giou"}[
        kind
    ]
    if layer == "encoder":
        return f"{name}_enc_0"
    for ours, theirs in (("aux", "aux"), ("denoising", "dn")):
        if layer.startswith(ours):
            return f"{name}_{theirs}_{layer.removeprefix(ours)}"
    return name


@pytest.fixture(params=BATCHES)
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


@pytest.mark.parametrize("source", REFERENCES)
def test_terms_and_gradients_are_the_references(reference: Reference, source: str) -> None:
    losses = reference.criterion(source)(reference.output, reference.targets)
    losses.total.backward()
    expected = reference.results[source]
    assert losses.total.item() == pytest.approx(expected["total"], rel=1e-12)
    terms = {reference_name(term, source): value.item() for term, value in losses.terms.items()}
    assert set(terms) == set(expected["terms"])
    for name, value in terms.items():
        assert value == pytest.approx(expected["terms"][name]["weighted"], rel=1e-11), name
    for name, norms in expected["gradient_l1"].items():
        gradient = reference.leaves[name].grad
        assert gradient is not None
        layers = gradient if gradient.dim() == 4 else gradient[None]
        np.testing.assert_allclose(layers.abs().sum((1, 2, 3)).numpy(), norms, rtol=1e-12)
    for part in ("logits", "boxes"):
        gradient = reference.leaves[f"decoder_{part}"].grad
        assert gradient is not None
        stored = reference.arrays[f"gradient.{source}.{part}"]  # in float32
        np.testing.assert_allclose(gradient[-1].numpy(), stored, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("source", REFERENCES)
def test_unweighted_terms_are_the_references(reference: Reference, source: str) -> None:
    config = LossConfig(
        classification=REFERENCES[source][0], classification_weight=1, l1_weight=1, box_weight=1
    )
    criterion = Criterion(config, reference.output.final.logits.shape[-1])
    for term, value in criterion(reference.output, reference.targets).terms.items():
        expected = reference.results[source]["terms"][reference_name(term, source)]["unweighted"]
        assert value.item() == pytest.approx(expected, rel=1e-11), term


def test_assignments_and_costs_are_the_references(reference: Reference) -> None:
    matcher = reference.criterion("rtdetrv2").matcher
    first = np.cumsum([0, *reference.counts])
    layers = list(supervised_layers(reference.output, reference.targets, matcher))
    assert [layer.name for layer in layers[:2]] == ["final", "aux0"]
    costs = matcher.costs([reference.output.final], reference.targets).T.numpy()
    for layer in layers:
        for image in range(len(reference.counts)):
            own = layer.match.images == image
            queries, objects = layer.match.queries[own], layer.match.objects[own] - first[image]
            if layer.name.startswith("denoising"):
                np.testing.assert_array_equal(queries, reference.arrays[f"denoising_positive.{image}"])
                continue
            name = layer.name.replace("aux", "aux_")
            np.testing.assert_array_equal(queries, reference.arrays[f"match.{name}.{image}.query"])
            np.testing.assert_array_equal(objects, reference.arrays[f"match.{name}.{image}.object"])
    for image in range(len(reference.counts)):
        expected = reference.arrays[f"cost.final.{image}"]  # in float32
        np.testing.assert_allclose(costs[:, first[image] : first[image + 1]], expected, rtol=0, atol=1e-6)


def test_float32_is_close() -> None:
    reference = Reference("losses")

    def cast(layers: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
        return tuple(Prediction(layer.logits.float(), layer.boxes.float()) for layer in layers)

    output = reference.output
    assert output.encoder is not None
    final, encoder = cast((output.final, output.encoder))
    output = Output(final, cast(output.aux), encoder, cast(output.denoising), output.plan)
    targets = Targets(reference.targets.labels, [boxes.float() for boxes in reference.targets.boxes])
    total = reference.criterion("rtdetrv2")(output, targets).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(reference.results["rtdetrv2"]["total"], rel=2e-6)


def make_batch(
    counts: list[int], *, queries: int = 12, classes: int = 4, layers: int = 2, seed: int = 0
) -> tuple[Output, Targets, list[Tensor]]:
    """A random output of a detector in training mode, its targets, and the leaves to differentiate."""
    generator = torch.Generator().manual_seed(seed)
    leaves: list[Tensor] = []

    def predict(rows: int) -> Prediction:
        logits = torch.randn(len(counts), rows, classes, dtype=torch.float64, generator=generator) - 2
        boxes = torch.rand(len(counts), rows, 4, dtype=torch.float64, generator=generator) * 0.5 + 0.2
        leaves.extend([logits.requires_grad_(), boxes.requires_grad_()])
        return Prediction(logits, boxes)

    plan = DenoisingPlan(3, max(counts), 6 * max(counts)) if max(counts) else None
    denoising = tuple(predict(plan.num_queries) for _ in range(layers)) if plan else ()
    output = Output(
        predict(queries),
        tuple(predict(queries) for _ in range(layers - 1)),
        predict(queries),
        denoising,
        plan,
    )
    targets = Targets(
        [torch.randint(classes, (count,), generator=generator) for count in counts],
        [torch.rand(count, 4, dtype=torch.float64, generator=generator) * 0.5 + 0.2 for count in counts],
        list(range(len(counts))),
    )
    return output, targets, leaves


def permute_queries(prediction: Prediction, order: Tensor) -> Prediction:
    return Prediction(prediction.logits[:, order], prediction.boxes[:, order])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_order_of_queries_does_not_matter(counts: list[int], seed: int) -> None:
    output, targets, _ = make_batch(counts, seed=seed)
    criterion = Criterion(LossConfig(), 4)
    expected = criterion(output, targets)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert output.encoder is not None
    changed = output._replace(
        final=permute_queries(output.final, order),
        aux=tuple(permute_queries(layer, order) for layer in output.aux),
        encoder=permute_queries(output.encoder, order),
    )
    assert_same(criterion(changed, targets), expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_order_of_objects_does_not_matter(counts: list[int], seed: int) -> None:
    output, targets, _ = make_batch(counts, seed=seed)
    output = output._replace(denoising=(), plan=None)  # denoising queries belong to their objects by order
    criterion = Criterion(LossConfig(), 4)
    turned = Targets(
        [labels.flip(0) for labels in targets.labels], [boxes.flip(0) for boxes in targets.boxes]
    )
    assert_same(criterion(output, turned), criterion(output, targets))


def assert_same(actual: Losses, expected: Losses) -> None:
    torch.testing.assert_close(actual.total, expected.total)
    assert list(actual.terms) == list(expected.terms)
    for name, value in expected.terms.items():
        torch.testing.assert_close(actual.terms[name], value, msg=name)


@pytest.mark.parametrize("classification", CLASS_LOSSES)
@pytest.mark.parametrize("counts", [[3, 0, 2], [0, 0], [1]])
def test_every_prediction_gets_a_finite_gradient(classification: Any, counts: list[int]) -> None:
    output, targets, leaves = make_batch(counts)
    losses = Criterion(LossConfig(classification=classification), 4)(output, targets)
    losses.total.backward()
    assert losses.total.item() == pytest.approx(sum(value.item() for value in losses.terms.values()))
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_batch_without_objects_trains_class_scores_only() -> None:
    output, targets, leaves = make_batch([0, 0])
    losses = Criterion(LossConfig(), 4)(output, targets)
    losses.total.backward()
    assert losses.total.item() > 0
    assert all(leaf.grad is not None for leaf in leaves)  # zeros, not nothing: every rank reduces the same
    assert all(value == 0 for name, value in losses.terms.items() if name.startswith(("l1", "giou")))
    assert output.final.boxes.grad is not None
    assert not output.final.boxes.grad.any()


def test_plan_without_objects_is_allowed() -> None:
    output, targets, _ = make_batch([0, 0])
    dummy = output._replace(denoising=(output.final,), plan=DenoisingPlan(1, 6, 12))
    losses = Criterion(LossConfig(), 4)(dummy, targets)
    torch.testing.assert_close(losses.terms["varifocal.denoising0"], losses.terms["varifocal"])


def test_names_and_weights_of_terms() -> None:
    output, targets, _ = make_batch([2, 1])
    config = LossConfig(classification="mal", box="inner_shape_iou", box_options={"ratio": 0.8}, box_weight=3)
    terms = Criterion(config, 4)(output, targets).terms
    layers = ("", ".aux0", ".encoder", ".denoising0", ".denoising1")
    assert list(terms) == [kind + layer for kind in ("mal", "l1", "inner_shape_iou") for layer in layers]
    assert not any(value.requires_grad for value in terms.values())
    once = Criterion(config.model_copy(update={"box_weight": 1.0}), 4)(output, targets).terms
    torch.testing.assert_close(terms["inner_shape_iou.aux0"], 3 * once["inner_shape_iou.aux0"])


@pytest.mark.parametrize("num_boxes", [6, 6.0, torch.tensor(6.0)])
def test_the_given_number_of_boxes_divides(num_boxes: Tensor | float) -> None:
    output, targets, _ = make_batch([2, 1])
    criterion = Criterion(LossConfig(), 4)
    own, given_number = criterion(output, targets), criterion(output, targets, num_boxes=num_boxes)
    torch.testing.assert_close(given_number.total * 2, own.total)


@pytest.mark.parametrize("num_boxes", [0, 0.5, torch.tensor(0.25)])
def test_the_number_of_boxes_is_at_least_one(num_boxes: Tensor | float) -> None:
    output, targets, _ = make_batch([0, 1])
    criterion = Criterion(LossConfig(), 4)
    assert torch.equal(
        criterion(output, targets, num_boxes=num_boxes).total, criterion(output, targets).total
    )


def test_more_objects_than_queries() -> None:
    output, targets, leaves = make_batch([5, 1], queries=3)
    losses = Criterion(LossConfig(), 4)(output, targets)
    losses.total.backward()
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_half_precision_predictions_give_a_float32_loss() -> None:
    output, targets, _ = make_batch([2, 1])
    final = Prediction(output.final.logits.bfloat16(), output.final.boxes.bfloat16())
    losses = Criterion(LossConfig(), 4)(Output(final), targets)
    assert losses.total.dtype == torch.float32


def test_only_the_mean_of_wise_iou_is_state() -> None:
    assert not Criterion(LossConfig(), 4).state_dict()
    criterion = Criterion(LossConfig(box="wiou_v3", matcher_box="wiou_v3"), 4)
    assert list(criterion.state_dict()) == ["box_loss.mean"]
    output, targets, _ = make_batch([2, 1])
    criterion(output, targets)
    assert criterion.box_loss.mean < 1


def test_options_reach_the_losses_that_know_them() -> None:
    output, targets, _ = make_batch([2, 1])
    config = LossConfig(box="inner_giou", matcher_box="shape_iou", box_options={"ratio": 0.9, "scale": 1.0})
    assert torch.isfinite(Criterion(config, 4)(output, targets).total)
    with pytest.raises(ConfigError, match="'scale'"):
        Criterion(LossConfig(box="shape_iou", box_options={"scala": 1.0}), 4)


def test_unknown_box_losses_are_refused() -> None:
    with pytest.raises(ConfigError, match="'giou'"):
        Criterion(LossConfig(box="gioux"), 4)
    with pytest.raises(ConfigError, match="'ciou'"):
        Criterion(LossConfig(matcher_box="cioux"), 4)


def test_a_head_of_another_size_is_refused() -> None:
    output, targets, _ = make_batch([1])
    with pytest.raises(ValueError, match="4 classes, but the criterion expects 80"):
        Criterion(LossConfig(), 80)(output, targets)


def test_nan_predictions_are_refused() -> None:
    output, targets, _ = make_batch([2, 1])
    with torch.no_grad():
        output.aux[0].boxes[1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="aux0") as caught:
        Criterion(LossConfig(), 4)(output, targets)
    assert caught.value.image_ids == (1,)


def test_class_weights_multiply_what_a_class_adds() -> None:
    """Each class alone, weighted, adds up to the whole; weights of 1 change nothing."""
    torch.manual_seed(0)
    output = Output(Prediction(torch.randn(2, 7, 3), torch.rand(2, 7, 4) * 0.3 + 0.2))
    targets = Targets(
        [torch.tensor([0, 2]), torch.tensor([1])],
        [torch.rand(2, 4) * 0.2 + 0.3, torch.rand(1, 4) * 0.2 + 0.3],
    )

    def of(weights: list[float] | None) -> dict[str, float]:
        criterion = Criterion(LossConfig(), 3)
        criterion.class_weights = None if weights is None else torch.tensor(weights)
        return {name: value.item() for name, value in criterion(output, targets).terms.items()}

    plain = of(None)
    assert of([1, 1, 1]) == pytest.approx(plain)
    parts = [of([float(index == one) for index in range(3)]) for one in range(3)]
    weighted = of([2, 1, 5])
    assert weighted["varifocal"] == pytest.approx(
        2 * parts[0]["varifocal"] + parts[1]["varifocal"] + 5 * parts[2]["varifocal"]
    )
    assert weighted["l1"] == plain["l1"]


def test_class_weights_go_by_name() -> None:
    classes = Classes.of(["cat", "dog", "a bird"])
    assert class_weights({}, classes) is None
    found = class_weights({"a bird": 4.0}, classes)
    assert found is not None
    assert found.tolist() == [1, 1, 4]
    with pytest.raises(ConfigError, match=r"data\.class_weights: unknown class 'dogs'; did you mean 'dog'\?"):
        class_weights({"dogs": 2.0}, classes)
