"""Self-attention against torch's own, and the position embedding against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexdetr.model.self_attention import MLP, SelfAttention, sine_position


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torchs_attention(masked: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, 4).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        ours.query_key.weight.copy_(theirs.in_proj_weight[:32])
        ours.value.weight.copy_(theirs.in_proj_weight[32:])
        ours.output.weight.copy_(theirs.out_proj.weight)
    tokens, position = torch.randn(2, 1, 2, 7, 16, dtype=torch.float64).unbind(0)
    tokens, position = tokens[0], position[0]
    allowed = torch.rand(7, 7) < 0.6
    allowed.fill_diagonal_(True)
    placed = tokens + position
    want, _ = theirs(placed, placed, tokens, attn_mask=~allowed if masked else None, need_weights=False)
    got = ours(tokens, position, allowed if masked else None)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([4, 8, 32]))
def test_position_goes_row_by_row(height: int, width: int, channels: int) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    grid = sine_position(height, width, channels, like).view(height, width, channels)
    count = channels // 4
    for row, column in [(0, 0), (height - 1, 0), (0, width - 1), (height - 1, width - 1)]:
        omega = [10000 ** (-i / count) for i in range(count)]
        want = [
            *(math.sin(row * each) for each in omega),
            *(math.cos(row * each) for each in omega),
            *(math.sin(column * each) for each in omega),
            *(math.cos(column * each) for each in omega),
        ]
        torch.testing.assert_close(grid[row, column], torch.tensor(want, dtype=torch.float64))


def test_on_squares_it_is_the_published_one() -> None:
    """There, width runs first and the map is flattened column by column: the transpose of ours, twice."""
    side, channels = 5, 16
    omega = 10000.0 ** -(torch.arange(4) / 4)
    across, down = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    w, h = across.flatten()[:, None] * omega, down.flatten()[:, None] * omega
    published = torch.cat([w.sin(), w.cos(), h.sin(), h.cos()], 1)[None]
    torch.testing.assert_close(sine_position(side, side, channels, published), published)


def test_mlp_has_relu_between_its_layers_only() -> None:
    torch.manual_seed(0)
    mlp = MLP(3, 5, 2, 2)
    x = torch.randn(40, 3)
    want = mlp.layers[1](mlp.layers[0](x).clamp(min=0))
    torch.testing.assert_close(mlp(x), want)
    assert (mlp.layers[0](x) < 0).any()
