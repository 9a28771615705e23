"""D-FINE's own terms: the published criteria's values and gradients, and what must hold for any batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vectors
from flexdetr.config import LossConfig
from flexdetr.loss.criterion import Criterion, build_criterion
from flexdetr.loss.distribution import between_bins, distances_to
from flexdetr.loss.matcher import Match
from flexdetr.loss.supervision import supervised_layers, union
from flexdetr.model.distances import bin_distances, boxes_at
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.outputs import DenoisingPlan, Output, Prediction, Targets

# The published criterion, its class loss here and there, and whether it has the terms on distributions.
REFERENCES = {
    "dfine": ("varifocal", "vfl", True),
    "deim": ("mal", "mal", True),
    "deimv2_atto": ("mal", "mal", False),
}
BATCHES = ("dfine_losses", "dfine_losses_single")


class Reference:
    """Predictions, targets and answers of one batch of the published criteria."""

    def __init__(self, batch: str, dtype: torch.dtype = torch.float64) -> None:
        self.arrays = vectors.arrays(batch)
        description = json.loads((vectors.HERE / f"{batch}.json").read_text())
        self.results, info = description["results"], description["info"]
        self.counts = info["objects"]
        self.leaves = {
            key: torch.tensor(value, dtype=dtype, requires_grad=True)
            for key, value in self.arrays.items()
            if key.startswith(("decoder_", "encoder_", "pre_", "denoising_"))
            and key.endswith(("logits", "boxes", "corners"))
            and "reference" not in key
        }
        leaves = self.leaves
        # The plain boxes are the reference of all layers' distributions, from which no gradient goes back.
        pre = Prediction(leaves["pre_logits"], self._pre_boxes("", dtype))
        pre_denoising = Prediction(leaves["denoising_pre_logits"], self._pre_boxes("denoising_", dtype))
        layers = self._layers("decoder", pre.boxes)
        encoder = Prediction(leaves["encoder_logits"], leaves["encoder_boxes"])
        plan = DenoisingPlan(info["denoising_groups"], max(self.counts), info["denoising_split"][0])
        denoising = tuple(self._layers("denoising", pre_denoising.boxes))
        self.output = Output(
            layers[-1], tuple(layers[:-1]), encoder, denoising, plan, pre=pre, pre_denoising=pre_denoising
        )
        images = range(len(self.counts))
        self.targets = Targets(
            [torch.tensor(self.arrays[f"target_labels.{image}"]) for image in images],
            [torch.tensor(self.arrays[f"target_boxes.{image}"]).to(dtype) for image in images],
            list(images),
        )

    def _pre_boxes(self, prefix: str, dtype: torch.dtype) -> Tensor:
        boxes = torch.tensor(self.arrays[f"{prefix}reference_boxes"], dtype=dtype, requires_grad=True)
        self.leaves[f"{prefix}pre_boxes"] = boxes
        return boxes

    def _layers(self, prefix: str, reference: Tensor) -> list[Prediction]:
        parts = (self.leaves[f"{prefix}_{part}"] for part in ("logits", "boxes", "corners"))
        return [Prediction(*layer, reference.detach()) for layer in zip(*parts, strict=True)]

    def criterion(self, source: str) -> Criterion:
        classification, _, distributions = REFERENCES[source]
        options = DFINEOptions() if distributions else DFINEOptions(fgl_weight=0, ddf_weight=0, unite=False)
        made = build_criterion(
            LossConfig(classification=classification), options, self.output.final.logits.shape[-1]
        )
        assert isinstance(made, Criterion)
        return made


def reference_name(term: str, source: str) -> str:
    """``giou.denoising3`` as ``loss_giou_dn_3``."""
    kind, _, layer = term.partition(".")
    theirs = {REFERENCES[source][0]: REFERENCES[source][1], "l1": "bbox"}.get(kind, kind)
    suffixes = {"": "", "encoder": "_enc_0", "pre": "_pre", "denoising_pre": "_dn_pre"}
    number = layer.removeprefix("aux").removeprefix("denoising")
    kinds = "_aux_" if layer.startswith("aux") else "_dn_"
    return f"loss_{theirs}{suffixes.get(layer, kinds + number)}"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("source", REFERENCES)
def test_terms_and_gradients_are_the_references(batch: str, source: str) -> None:
    reference = Reference(batch)
    losses = reference.criterion(source)(reference.output, reference.targets)
    losses.total.backward()
    expected = reference.results[source]
    assert losses.total.item() == pytest.approx(expected["total"], rel=1e-11)
    terms = {reference_name(term, source): value.item() for term, value in losses.terms.items()}
    # A term that is reported as 0, of the last denoising layer's distillation from itself, is left out here.
    assert set(terms) == {name for name, value in expected["terms"].items() if value["unweighted"]}
    for name, value in terms.items():
        assert value == pytest.approx(expected["terms"][name]["weighted"], rel=1e-10), name
    for name, norms in expected["gradient_l1"].items():
        gradient = reference.leaves[name].grad
        by_layer = np.atleast_1d(norms)
        layers = torch.zeros(len(by_layer), 1, 1, 1) if gradient is None else gradient
        layers = layers if layers.dim() == 4 else layers[None]
        np.testing.assert_allclose(layers.abs().sum((1, 2, 3)).numpy(), by_layer, rtol=1e-10, err_msg=name)
    for part in ("logits", "boxes", "corners"):
        stored = reference.arrays.get(f"gradient.{source}.{part}")
        gradient = reference.leaves[f"decoder_{part}"].grad
        if stored is not None and gradient is not None:
            np.testing.assert_allclose(gradient[-1].numpy(), stored, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("late", [False, True])
def test_matches_and_their_union_are_the_references(batch: str, late: bool) -> None:
    reference = Reference(batch)
    matcher = reference.criterion("dfine").matcher
    matcher.late = late
    first = np.cumsum([0, *reference.counts])
    layers = list(supervised_layers(reference.output, reference.targets, matcher, unite=True))
    kind = "match_late" if late else "match"
    for layer in layers:
        if layer.name.startswith("denoising"):
            assert layer.box_match is layer.match
            continue
        name = layer.name.replace("aux", "aux_")
        for image in range(len(reference.counts)):
            own = layer.match.images == image
            queries, objects = layer.match.queries[own], layer.match.objects[own] - first[image]
            # Stored in the order of objects or of queries: compared as pairs.
            expected = {
                tuple(pair)
                for pair in zip(
                    reference.arrays[f"{kind}.{name}.{image}.query"].tolist(),
                    reference.arrays[f"{kind}.{name}.{image}.object"].tolist(),
                    strict=True,
                )
            }
            assert set(zip(queries.tolist(), objects.tolist(), strict=True)) == expected
    if late:
        return
    united = layers[0].box_match
    for image in range(len(reference.counts)):
        own = united.images == image
        np.testing.assert_array_equal(united.queries[own], np.sort(reference.arrays[f"union.{image}.query"]))
        order = np.argsort(reference.arrays[f"union.{image}.query"])
        np.testing.assert_array_equal(
            united.objects[own] - first[image], reference.arrays[f"union.{image}.object"][order]
        )


@pytest.mark.parametrize("source", REFERENCES)
def test_float32_is_close(source: str) -> None:
    reference = Reference("dfine_losses", torch.float32)
    losses = reference.criterion(source)(reference.output, reference.targets)
    assert losses.total.dtype == torch.float32
    for term, value in losses.terms.items():
        expected = reference.results[source]["terms"][reference_name(term, source)]["weighted"]
        assert value.item() == pytest.approx(expected, rel=1e-5), term


@pytest.mark.parametrize("key", ["dfine_pieces"])
def test_distances_and_bins_are_the_references(key: str) -> None:
    arrays = vectors.arrays(key)
    points, boxes = torch.tensor(arrays["points"]), torch.tensor(arrays["boxes"])
    checked = 0
    for name in arrays:
        if not name.startswith("bbox2distance.") or not name.endswith(".bin"):
            continue
        scale = float(name.removeprefix("bbox2distance.").removesuffix(".bin"))
        lower, share = between_bins(distances_to(points, boxes, scale), bin_distances(32, 0.5, scale))
        stem = name.removesuffix("bin")
        # The published label of "beyond the last bin" is 31.9; published powers are taken in float32.
        expected = np.floor(arrays[name]) + arrays[f"{stem}right"]
        np.testing.assert_allclose((lower + share).numpy(), expected.reshape(lower.shape), atol=1e-6)
        checked += 1
    assert checked


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 16))
def test_a_box_is_found_again_from_its_distances(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, boxes = torch.rand(2, 5, 4, dtype=torch.float64, generator=generator) * 0.5 + 0.1
    torch.testing.assert_close(boxes_at(reference, distances_to(reference, boxes, scale), scale), boxes)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_two_bins_around_a_distance_give_it_back(values: list[float]) -> None:
    bins = bin_distances(16, 0.5, 4.0)
    distances = torch.tensor(values, dtype=torch.float64)
    lower, share = between_bins(distances, bins)
    found = bins[lower] * (1 - share) + bins[lower + 1] * share
    torch.testing.assert_close(found, distances.clamp(float(bins[0]), float(bins[-1])))


def match(*pairs: tuple[int, int, int]) -> Match:
    images, queries, objects = np.array(pairs, np.int64).reshape(-1, 3).T
    return Match(images, queries, objects)


def test_a_query_keeps_the_object_that_most_layers_give_it() -> None:
    united = union(
        [
            match((0, 3, 0), (0, 5, 1)),
            match((0, 3, 1), (0, 4, 0)),
            match((0, 3, 1), (1, 3, 2)),
            match((0, 5, 0)),
        ]
    )
    assert [tuple(map(int, pair)) for pair in zip(*united, strict=True)] == [
        (0, 3, 1),
        (0, 4, 0),
        (0, 5, 0),  # as many votes as object 1: the first
        (1, 3, 2),
    ]


def test_no_matches_have_no_union() -> None:
    assert not len(union([match(), match()]).objects)


def output_of(
    counts: list[int], *, queries: int = 6, layers: int = 2, seed: int = 0
) -> tuple[Output, Targets]:
    """A random output of a head of distributions in training mode, every prediction a leaf."""
    generator = torch.Generator().manual_seed(seed)

    def predict(rows: int, reference: Tensor | None) -> Prediction:
        logits = torch.randn(len(counts), rows, 3, dtype=torch.float64, generator=generator).requires_grad_()
        boxes = torch.rand(len(counts), rows, 4, dtype=torch.float64, generator=generator) * 0.5 + 0.2
        corners = torch.randn(
            len(counts), rows, 132, dtype=torch.float64, generator=generator
        ).requires_grad_()
        return Prediction(logits, boxes.requires_grad_(), None if reference is None else corners, reference)

    plan = DenoisingPlan(3, max(counts), 6 * max(counts)) if max(counts) else None
    pre = predict(queries, None)
    free = [predict(queries, pre.boxes.detach()) for _ in range(layers)]
    noisy: tuple[Prediction, ...] = ()
    pre_noisy = None
    if plan is not None:
        pre_noisy = predict(plan.num_queries, None)
        noisy = tuple(predict(plan.num_queries, pre_noisy.boxes.detach()) for _ in range(layers))
    output = Output(
        free[-1], tuple(free[:-1]), predict(queries, None), noisy, plan, pre=pre, pre_denoising=pre_noisy
    )
    targets = Targets(
        [torch.randint(3, (count,), generator=generator) for count in counts],
        [torch.rand(count, 4, dtype=torch.float64, generator=generator) * 0.5 + 0.2 for count in counts],
    )
    return output, targets


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0], [1], [9, 1]])
def test_every_batch_has_a_finite_loss_and_gradient(counts: list[int]) -> None:
    output, targets = output_of(counts)
    losses = build_criterion(LossConfig(), DFINEOptions(), 3)(output, targets)
    losses.total.backward()
    assert all(torch.isfinite(value) for value in losses.terms.values())
    for prediction in (output.final, *output.aux, *output.denoising):
        assert prediction.corners is not None
        assert prediction.corners.grad is not None
        assert torch.isfinite(prediction.corners.grad).all()
    if not any(counts):
        assert all(
            value == 0 for name, value in losses.terms.items() if name.startswith(("l1", "giou", "fgl"))
        )
        assert losses.terms["ddf.aux0"] > 0  # as published: what the last layer believes is learned anyway


def test_parts_of_a_step_add_up_to_its_localization_loss() -> None:
    output, targets = output_of([2, 3])
    criterion = build_criterion(LossConfig(), DFINEOptions(unite=False, ddf_weight=0), 3)
    whole = criterion(output, targets).terms["fgl"]
    parts = 0.0
    for image in range(2):
        cut = slice(image, image + 1)
        final = Prediction(*(values[cut] for values in output.final if values is not None))
        own = Targets(targets.labels[cut], targets.boxes[cut])
        parts += float(criterion(Output(final), own, num_boxes=5).terms["fgl"])
    assert parts == pytest.approx(float(whole))


def test_terms_of_no_weight_are_left_out() -> None:
    output, targets = output_of([2])
    options = DFINEOptions(fgl_weight=0, ddf_weight=0)
    terms = build_criterion(LossConfig(), options, 3)(output, targets).terms
    assert {name.partition(".")[0] for name in terms} == {"varifocal", "l1", "giou"}


def test_an_encoder_with_copies_keeps_its_own_pairs() -> None:
    output, targets = output_of([2])
    criterion = build_criterion(LossConfig(encoder_copies=2), DFINEOptions(), 3)
    assert isinstance(criterion, Criterion)
    layers = {
        layer.name: layer for layer in supervised_layers(output, targets, criterion.matcher, unite=True)
    }
    assert layers["encoder"].box_match is layers["encoder"].match
    assert len(layers["encoder"].match.objects) == 4
    assert layers["final"].box_match is layers["aux0"].box_match
