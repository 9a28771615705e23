"""Box losses: the reference values, every name of the table, and boxes that break careless formulas."""

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
from flexdetr.config import ConfigError
from flexdetr.loss.box_family import BOX_LOSSES, BoxLoss, box_loss_names, option_names, parse_name

ROWS: dict[str, tuple[str, dict[str, float]]] = {
    "iou": ("iou", {}),
    "giou": ("giou", {}),
    "diou": ("diou", {}),
    "ciou": ("ciou", {}),
    "eiou": ("eiou", {}),
    "siou": ("siou", {}),
    "mpdiou": ("mpdiou", {}),
    "mpdiou_640x480": ("mpdiou", {"image_width": 640, "image_height": 480}),
    "wiou_v1": ("wiou_v1", {}),
    "inner_iou_0.7": ("inner_iou", {"ratio": 0.7}),
    "inner_iou_1.2": ("inner_iou", {"ratio": 1.2}),
    "inner_ciou_0.7": ("inner_ciou", {"ratio": 0.7}),
    "inner_ciou_1.2": ("inner_ciou", {"ratio": 1.2}),
    "shape_iou_0": ("shape_iou", {"scale": 0}),
    "shape_iou_1": ("shape_iou", {"scale": 1}),
    "inner_shape_iou_0_0.7": ("inner_shape_iou", {"scale": 0, "ratio": 0.7}),
    "inner_shape_iou_0_1.2": ("inner_shape_iou", {"scale": 0, "ratio": 1.2}),
    "inner_shape_iou_1_0.7": ("inner_shape_iou", {"scale": 1, "ratio": 0.7}),
    "inner_shape_iou_1_1.2": ("inner_shape_iou", {"scale": 1, "ratio": 1.2}),
    "focaler_iou": ("focaler_iou", {}),
    "focaler_giou": ("focaler_giou", {}),
    "focaler_iou_0.2_0.8": ("focaler_iou", {"d": 0.2, "u": 0.8}),
    "piou_v1": ("piou_v1", {}),
    "piou_v2": ("piou_v2", {}),
}

# Their papers hold a factor constant in the gradient: these are compared with the references' gradients only.
CONSTANT_FACTOR = {"ciou", "wiou_v1", "wiou_v2", "wiou_v3"}

HARD_PAIRS = {
    "identical": ([0.5, 0.5, 0.2, 0.3], [0.5, 0.5, 0.2, 0.3]),
    "disjoint": ([0.1, 0.1, 0.1, 0.1], [0.9, 0.8, 0.1, 0.2]),
    "nested": ([0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.6, 0.4]),
    "touching": ([0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]),
    "touching at a corner": ([0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]),
    "thin": ([0.5, 0.5, 1e-7, 0.9], [0.4, 0.5, 0.3, 0.3]),
    "thin target": ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 1e-7, 0.9]),
    "thin crosswise": ([0.5, 0.5, 1e-12, 0.9], [0.5, 0.5, 0.9, 1e-12]),
    "thin and identical": ([0.5, 0.5, 1e-12, 0.9], [0.5, 0.5, 1e-12, 0.9]),
    "no size": ([0.5, 0.5, 0.0, 0.0], [0.4, 0.5, 0.3, 0.3]),
    "no size, same place": ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]),
    "no size, other place": ([0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.0, 0.0]),
    "target without size": ([0.4, 0.5, 0.3, 0.3], [0.5, 0.5, 0.0, 0.0]),
    "no width": ([0.5, 0.5, 0.0, 0.2], [0.5, 0.5, 0.0, 0.2]),
    "denormal": ([0.5, 0.5, 1e-38, 1e-38], [0.5, 0.5, 1e-39, 1e-38]),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return vectors.arrays("iou_losses")


def loss_and_gradient(
    loss: BoxLoss, predicted: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    boxes = torch.tensor(predicted, requires_grad=True)
    values = loss(boxes, torch.tensor(target))
    values.sum().backward()
    assert boxes.grad is not None
    return values.detach().numpy(), boxes.grad.numpy()


def test_every_reference_loss_is_compared() -> None:
    assert set(ROWS) == set(json.loads((vectors.HERE / "iou_losses.json").read_text())["losses"])


@pytest.mark.parametrize("row", ROWS)
def test_reference_values(row: str, golden: dict[str, np.ndarray]) -> None:
    name, options = ROWS[row]
    values, gradient = loss_and_gradient(BoxLoss(name, **options), golden["predicted"], golden["target"])
    np.testing.assert_allclose(values, golden[f"loss:{row}"], rtol=0, atol=1e-9)
    assert np.isfinite(gradient).all()
    expected = golden.get(f"gradient:{row}")
    if expected is not None:
        smooth = np.isfinite(expected)
        assert smooth.mean() > 0.7
        np.testing.assert_allclose(gradient[smooth], expected[smooth], rtol=5e-8, atol=5e-8)


@pytest.mark.parametrize("row", ROWS)
def test_reference_values_in_float32(row: str, golden: dict[str, np.ndarray]) -> None:
    name, options = ROWS[row]
    single = (golden[key].astype(np.float32) for key in ("predicted", "target"))
    values, gradient = loss_and_gradient(BoxLoss(name, **options), *single)
    np.testing.assert_allclose(values, golden[f"loss:{row}"], rtol=0, atol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", box_loss_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_pairs_give_finite_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    predicted = torch.tensor([pair[0] for pair in HARD_PAIRS.values()], dtype=dtype, requires_grad=True)
    target = torch.tensor([pair[1] for pair in HARD_PAIRS.values()], dtype=dtype)
    values = BoxLoss(name)(predicted, target)
    values.sum().backward()
    wrong = [pair for pair, value in zip(HARD_PAIRS, values, strict=True) if not torch.isfinite(value)]
    assert not wrong
    assert predicted.grad is not None
    wrong = [
        pair for pair, row in zip(HARD_PAIRS, predicted.grad, strict=True) if not torch.isfinite(row).all()
    ]
    assert not wrong


@pytest.mark.parametrize("name", box_loss_names())
def test_identical_boxes_lose_nothing(name: str) -> None:
    target = torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.2, 0.01, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(
        BoxLoss(name)(target, target), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("name", sorted(set(BOX_LOSSES) - CONSTANT_FACTOR))
def test_gradient_is_the_derivative(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    predicted = torch.rand(6, 4, dtype=torch.float64, generator=generator) * 0.4 + 0.3
    target = torch.rand(6, 4, dtype=torch.float64, generator=generator) * 0.4 + 0.3
    options = {"constant": 0.5} if name == "nwd" else {}
    loss = BoxLoss(name, **options)
    assert torch.autograd.gradcheck(lambda boxes: loss(boxes, target), predicted.requires_grad_())


coordinate = st.floats(0.0078125, 1, width=32)
one_box = st.tuples(coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=40)
@given(one_box, one_box, st.floats(0.25, 4), st.sampled_from(["iou", "giou", "diou", "ciou", "eiou", "siou"]))
def test_scale_and_place_do_not_matter(
    first: tuple[float, ...], second: tuple[float, ...], scale: float, name: str
) -> None:
    predicted, target = torch.tensor([[first], [second]], dtype=torch.float64)
    shift = torch.tensor([0.3, -0.2, 0, 0], dtype=torch.float64)
    moved = BoxLoss(name)(predicted * scale + shift, target * scale + shift)
    torch.testing.assert_close(moved, BoxLoss(name)(predicted, target), atol=1e-9, rtol=1e-9)


@given(one_box, one_box)
def test_ratio_one_and_full_range_change_nothing(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    predicted, target = torch.tensor([[first], [second]], dtype=torch.float64)
    plain = BoxLoss("siou")(predicted, target)
    torch.testing.assert_close(BoxLoss("inner_siou", ratio=1.0)(predicted, target), plain)
    torch.testing.assert_close(BoxLoss("focaler_siou", d=0.0, u=1.0)(predicted, target), plain)


def test_prefixes_combine_in_either_order() -> None:
    predicted, target = torch.rand(2, 20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"ratio": 0.9, "d": 0.1, "u": 0.8}
    both = BoxLoss("inner_focaler_siou", **options)(predicted, target)
    assert torch.equal(both, BoxLoss("focaler_inner_siou", **options)(predicted, target))
    inner = 1 - BoxLoss("inner_iou", ratio=0.9)(predicted, target)
    stretched = ((inner - 0.1) / 0.7).clamp(0, 1)
    overlap = 1 - BoxLoss("iou")(predicted, target)
    torch.testing.assert_close(both, BoxLoss("siou")(predicted, target) + overlap - stretched)


def test_names_are_parsed() -> None:
    assert parse_name("shape_iou") == ((), "shape_iou")
    assert parse_name("inner_shape_iou") == (("inner",), "shape_iou")
    assert parse_name("inner_focaler_siou") == (("inner", "focaler"), "siou")
    assert option_names("inner_shape_iou") == ("scale", "ratio")
    assert option_names("wiou_v3") == ("alpha", "delta", "momentum")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gioo", {}, "'giou'"),
        ("inner_shape", {}, "inner_shape_iou"),
        ("inner_inner_iou", {}, "unknown box loss 'inner_inner_iou'"),
        ("inner_", {}, "unknown box loss"),
        ("inner_iou", {"ration": 0.7}, "'ratio'"),
        ("giou", {"ratio": 0.7}, "takes none"),
        ("wiou_v3", {"mean": 1.0}, "unknown option 'mean'"),
        ("inner_iou", {"ratio": 0}, "ratio must be above 0; got 0"),
        ("focaler_iou", {"d": 0.9, "u": 0.2}, "d must be below u"),
    ],
)
def test_unknown_names_and_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BoxLoss(name, **options)


def pair_with_iou(overlap: float) -> tuple[Tensor, Tensor]:
    """Nested boxes around the same centre whose IoU is ``overlap``, so that WIoU v1 is 1 - IoU."""
    return torch.tensor([[0.5, 0.5, overlap, 0.5]]), torch.tensor([[0.5, 0.5, 1.0, 0.5]])


def test_wise_iou_focuses_by_the_running_mean() -> None:
    predicted, target = pair_with_iou(0.4)
    second = BoxLoss("wiou_v2", gamma=0.5).eval()
    assert second(predicted, target).item() == pytest.approx(0.6**0.5 * 0.6)
    third = BoxLoss("wiou_v3", alpha=1.9, delta=3.0).eval()
    assert third(predicted, target).item() == pytest.approx(0.6 * 0.6 / (3 * 1.9**-2.4))
    third.mean.fill_(0.2)  # then the outlier degree is delta, where the factor is 1
    assert third(predicted, target).item() == pytest.approx(0.6)


def test_wise_iou_mean_moves_in_training_only_and_is_saved() -> None:
    loss = BoxLoss("wiou_v3", momentum=0.25)
    predicted, target = pair_with_iou(0.4)
    loss(predicted, target)
    assert loss.mean.item() == pytest.approx(0.75 + 0.25 * 0.6)
    loss(torch.empty(0, 4), torch.empty(0, 4))
    loss.eval()(predicted, target)
    assert loss.mean.item() == pytest.approx(0.9)
    other = BoxLoss("wiou_v3")
    other.load_state_dict(loss.state_dict())
    assert other.mean.item() == pytest.approx(0.9)


def test_wise_iou_survives_a_mean_of_zero() -> None:
    loss = BoxLoss("wiou_v3", momentum=1.0)
    target = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert loss(target, target).item() == 0
    assert loss.mean.item() == 0
    assert torch.isfinite(loss.eval()(*pair_with_iou(0.4))).all()


@pytest.mark.parametrize("name", box_loss_names())
def test_losses_broadcast(name: str) -> None:
    predicted, target = torch.rand(5, 7, 4), torch.rand(5, 1, 4)
    loss = BoxLoss(name).eval()
    values = loss(predicted, target)
    assert values.shape == (5, 7)
    torch.testing.assert_close(values[3, 2], loss(predicted[3, 2], target[3, 0]))
    assert loss(predicted[:0], target[:0]).shape == (0, 7)
