"""Anchors, and the tokens that become queries."""

from __future__ import annotations

import pytest
import torch

from flexdetr.model.heads.selection import anchors, flatten, layer_count, query_count, select


def test_anchors_are_cells_with_a_side_by_level() -> None:
    logits, valid = anchors([(8, 12), (4, 6)], (0.05, 0.1), torch.zeros(1))
    boxes = logits.sigmoid()[0]
    assert logits.shape == (1, 8 * 12 + 4 * 6, 4)
    torch.testing.assert_close(boxes[12 + 3], torch.tensor([3.5 / 12, 1.5 / 8, 0.05, 0.05]))
    torch.testing.assert_close(boxes[96 + 6 + 2], torch.tensor([2.5 / 6, 1.5 / 4, 0.1, 0.1]))
    assert valid.all()  # maps this small have no cell near the border


def test_border_cells_cannot_start_a_box() -> None:
    logits, valid = anchors([(64, 64), (32, 32)], (0.05, 0.1), torch.zeros(1))
    grid = valid[0, : 64 * 64, 0].view(64, 64)
    assert not grid[0].any()
    assert not grid[:, -1].any()
    assert grid[1:-1, 1:-1].all()
    assert (logits[0][~valid[0, :, 0]].sigmoid() == 1).all()
    assert logits.isfinite().all()


def test_levels_become_rows() -> None:
    tokens, shapes = flatten([torch.arange(12.0).view(1, 2, 2, 3), -torch.ones(1, 2, 1, 1)])
    assert shapes == [(2, 3), (1, 1)]
    torch.testing.assert_close(tokens[0, 4], torch.tensor([4.0, 10.0]))
    torch.testing.assert_close(tokens[0, 6], torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize("queries", [3, 50])
def test_the_best_tokens_are_chosen(queries: int) -> None:
    torch.manual_seed(0)
    tokens, scores = torch.randn(2, 7, 5, requires_grad=True), torch.randn(2, 7, 4)
    boxes, _ = anchors([(1, 7)], (0.05,), tokens)
    chosen = select(tokens, scores, boxes, lambda x: x[..., :4], queries)
    count = min(queries, 7)
    best = scores.max(-1).values.sort(-1, descending=True)
    torch.testing.assert_close(chosen.prediction.logits.max(-1).values, best.values[:, :count])
    own = tokens.gather(1, best.indices[:, :count, None].expand(-1, -1, 5))
    torch.testing.assert_close(chosen.content, own)
    torch.testing.assert_close(chosen.box_logits.sigmoid(), chosen.prediction.boxes)
    assert chosen.prediction.boxes.requires_grad
    assert not chosen.content.requires_grad
    assert not chosen.box_logits.requires_grad


def test_numbers_that_there_are_not() -> None:
    assert layer_count(None, default=2, trained=3, training=False) == 2
    assert layer_count(None, default=2, trained=3, training=True) == 3
    for asked in (0, 4):
        with pytest.raises(ValueError, match=f"between 1 and 3; got {asked}"):
            layer_count(asked, default=2, trained=3, training=False)
    with pytest.raises(ValueError, match="for inference"):
        layer_count(2, default=2, trained=3, training=True)
    assert (query_count(None, 5), query_count(2, 5)) == (5, 2)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        query_count(0, 5)
