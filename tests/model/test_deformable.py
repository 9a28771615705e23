"""Deformable attention against a slow, plain reading of its equation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexdetr.model import deformable
from flexdetr.model.deformable import DeformableAttention
from flexdetr.model.gathering import RowSums

SHAPES = [(4, 6), (2, 3), (1, 2)]


def cell(level: Tensor, row: int, column: int) -> Tensor:
    """(h, w, C) at a cell, zero outside."""
    inside = 0 <= row < level.shape[0] and 0 <= column < level.shape[1]
    return level[row, column] if inside else torch.zeros_like(level[0, 0])


def bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """(h, w, C) at a place in fractions of the map, whose cells' centres are at (i + 0.5) / size."""
    column, row = x * level.shape[1] - 0.5, y * level.shape[0] - 0.5
    left, top = math.floor(column), math.floor(row)
    right, down = column - left, row - top
    return (
        cell(level, top, left) * (1 - right) * (1 - down)
        + cell(level, top, left + 1) * right * (1 - down)
        + cell(level, top + 1, left) * (1 - right) * down
        + cell(level, top + 1, left + 1) * right * down
    )


def discrete(level: Tensor, x: float, y: float) -> Tensor:
    """(h, w, C) at RT-DETRv2's nearest cell, clamped to the map."""
    row = min(max(math.floor(y * level.shape[0] + 0.5), 0), level.shape[0] - 1)
    column = min(max(math.floor(x * level.shape[1] + 0.5), 0), level.shape[1] - 1)
    return level[row, column]


def slow(attention: DeformableAttention, query: Tensor, reference: Tensor, memory: Tensor) -> Tensor:
    """Deformable DETR's eq. 3 with RT-DETR's box-relative offsets, one point at a time."""
    heads, points = attention.heads, attention.points
    value = attention.value(memory)
    width = value.shape[-1] // heads
    out = torch.zeros_like(query)
    sample = discrete if attention.sampling == "discrete" else bilinear
    for b in range(query.shape[0]):
        levels, start = [], 0
        for rows, columns in SHAPES[: len(points)]:
            levels.append(value[b, start : start + rows * columns].view(rows, columns, -1))
            start += rows * columns
        for q in range(query.shape[1]):
            offsets = attention.offsets(query[b, q]).view(heads, sum(points), 2)
            weights = attention.weights(query[b, q]).view(heads, sum(points)).softmax(-1)
            x, y, w, h = reference[b, q].tolist()
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                point = 0
                for level, count in zip(levels, points, strict=True):
                    for _ in range(count):
                        right, down = offsets[head, point].tolist()
                        place = x + right / count * 0.5 * w, y + down / count * 0.5 * h
                        out[b, q, part] += weights[head, point] * sample(level[..., part], *place)
                        point += 1
    return attention.output(out)


@pytest.mark.parametrize("sampling", ["bilinear", "discrete", "gather"])
@pytest.mark.parametrize("points", [(4, 4, 4), (3, 6, 1), (2, 5)])
def test_equals_the_equation(sampling: str, points: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, points, sampling).double()
    for layer in (attention.offsets, attention.weights):
        torch.nn.init.normal_(layer.weight)
    shapes = SHAPES[: len(points)]
    memory = torch.randn(2, sum(rows * columns for rows, columns in shapes), 8, dtype=torch.float64)
    query = torch.randn(2, 5, 8, dtype=torch.float64)
    reference = torch.rand(2, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        got = attention(query, reference, memory, shapes)
        want = slow(attention, query, reference, memory)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-7)  # 1 / points is kept in float32


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_the_centre_of_a_cell_gives_the_cell(height: int, width: int, data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    attention = DeformableAttention(4, 1, (1,)).double()
    value = torch.randn(1, height * width, 1, 4, dtype=torch.float64)
    place = torch.tensor([(column + 0.5) / width, (row + 0.5) / height], dtype=torch.float64)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    got = attention.gather(value, place.view(1, 1, 1, 1, 2), one, [(height, width)])
    torch.testing.assert_close(got[0, 0], value[0, row * width + column, 0])


def test_starts_on_rays_with_equal_weights() -> None:
    attention = DeformableAttention(8, 4, (2, 3))
    query = torch.randn(1, 1, 8)
    offsets = attention.offsets(query).view(4, 5, 2)
    torch.testing.assert_close(attention.weights(query), torch.zeros(1, 1, 20))
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    steps = torch.tensor([1.0, 2.0, 1.0, 2.0, 3.0])
    torch.testing.assert_close(offsets, directions[:, None] * steps[:, None], atol=1e-6, rtol=0)


def test_bf16_values_are_read_at_precise_places() -> None:
    """A place rounded to bf16 would be off by a third of a cell on a map 80 cells wide."""
    attention = DeformableAttention(4, 1, (1,))
    ramp = torch.arange(80.0)[None, :, None, None].expand(1, 80, 1, 4)
    place = torch.tensor([0.90123, 0.5]).view(1, 1, 1, 1, 2)
    one = torch.ones(1, 1, 1, 1)
    want = attention.gather(ramp, place, one, [(1, 80)])
    got = attention.gather(ramp.bfloat16(), place, one.bfloat16(), [(1, 80)])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2**-8, atol=0)


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, places (some outside) and weights of two pictures, with gradients."""
    torch.manual_seed(0)
    tokens = sum(rows * columns for rows, columns in SHAPES)
    value = torch.randn(2, tokens, 2, 4, dtype=torch.float64, requires_grad=True)
    places = (torch.rand(2, 5, 2, 9, 2, dtype=torch.float64) * 1.6 - 0.3).requires_grad_()
    weights = torch.rand(2, 5, 2, 9, dtype=torch.float64).softmax(-1).requires_grad_()
    return value, places, weights


def test_sums_of_rows_have_the_gradients_of_grid_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = DeformableAttention(8, 2, (2, 4, 3)).double()
    inputs = _inputs()
    outer = torch.randn(2, 5, 8, dtype=torch.float64)
    answers = []
    for exporting in (False, True):
        monkeypatch.setattr(deformable, "_exporting", lambda exporting=exporting: exporting)
        out = attention.gather(*inputs, SHAPES)
        assert ("RowSums" in str(out.grad_fn.next_functions)) is not exporting  # type: ignore[union-attr]
        answers.append((out, *torch.autograd.grad(out, inputs, outer)))
    for ours, grid in zip(*answers, strict=True):
        torch.testing.assert_close(ours, grid, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_gradients_of_row_sums(wanted: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=wanted[0])
    share = torch.randn(4, 5, dtype=torch.float64, requires_grad=wanted[1])
    index = torch.randint(0, 6, (4, 5))  # the last row is read by none, others more than once
    assert torch.autograd.gradcheck(RowSums.apply, (table, index, share))


@pytest.mark.parametrize("sampling", ["bilinear", "gather"])
def test_places_that_are_no_numbers_show(sampling: str) -> None:
    """A run that diverges has to be told by its loss, not to end in an index out of range."""
    attention = DeformableAttention(8, 2, (2, 4, 3), sampling).double()  # type: ignore[arg-type]
    value, places, weights = (tensor.detach() for tensor in _inputs())
    places[0, 1, 0, 3] = math.nan
    mixed = attention.gather(value, places, weights, SHAPES)
    assert mixed[0, 1, :4].isnan().all()
    assert mixed.isnan().sum() == 4


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_graph_samples_grids() -> None:
    """Readers of graphs know GridSample; "embedding_bag" is for this process only."""
    attention = DeformableAttention(8, 2, (2, 4, 3)).double()

    def sample(value: torch.Tensor, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return attention.gather(value, places, weights, SHAPES)

    graph = str(torch.jit.trace(sample, _inputs()).graph)
    assert "aten::grid_sampler" in graph
    assert "embedding_bag" not in graph
