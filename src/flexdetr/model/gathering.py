"""Deformable sampling as sums of rows: for CPUs, and for runtimes and converters without GridSample.

Bilinear interpolation with zeros outside is the sum of four cells with weights of their own. They are multiplied into
the attention weights, so that all levels, points and corners are read at once, and the values stay as they lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def gather_rows(
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    shapes: Sequence[tuple[int, int]],
    points: Sequence[int],
) -> Tensor:
    """The weighted sum of bilinear samples as one gather of rows and one product of matrices, to be exported.

    Args:
        value: (B, S, H, D / H), levels one after the other, rows first.
        locations: (B, Q, H, P, 2) xy fractions, P over all levels.
        weights: (B, Q, H, P), summing to 1 over P.
        shapes: (height, width) of each level.
        points: sampling points on each level; they sum to P.

    Returns:
        (B, Q, D).
    """
    index, share = corners(locations, weights, value.shape[1], shapes, points)
    width, count = value.shape[-1], index.shape[-1]
    taken = value.reshape(-1, width)[index.flatten()].reshape(-1, count, width)
    mixed = share.to(value.dtype).reshape(-1, 1, count) @ taken
    return mixed.reshape(*index.shape[:2], -1)


def sum_rows(
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    shapes: Sequence[tuple[int, int]],
    points: Sequence[int],
) -> Tensor:
    """What ``gather_rows`` computes, without putting down the rows that it reads: for training and prediction on a CPU.

    Args:
        value: (B, S, H, D / H), levels one after the other, rows first.
        locations: (B, Q, H, P, 2) xy fractions, P over all levels; float32 at least.
        weights: (B, Q, H, P), summing to 1 over P.
        shapes: (height, width) of each level.
        points: sampling points on each level; they sum to P.

    Returns:
        (B, Q, D) in the type of ``locations``.
    """
    wide = weights.to(locations.dtype)
    index, share = corners(locations, wide, value.shape[1], shapes, points, torch.int32)
    table = value.to(share.dtype).reshape(-1, value.shape[-1])
    mixed = RowSums.apply(table, index.flatten(0, 2), share.flatten(0, 2))
    return mixed.reshape(*index.shape[:2], -1)


def corners(
    locations: Tensor,
    weights: Tensor,
    tokens: int,
    shapes: Sequence[tuple[int, int]],
    points: Sequence[int],
    dtype: torch.dtype = torch.int64,
) -> tuple[Tensor, Tensor]:
    """The four cells around each sampling point as rows of all values, and what each of them counts.

    Args:
        locations: (B, Q, H, P, 2) xy fractions.
        weights: (B, Q, H, P).
        tokens: S.
        shapes: (height, width) of each level.
        points: sampling points on each level.
        dtype: of the rows; int32 is read faster, and ONNX gathers want int64.

    Returns:
        Rows of values (B * S * H, D / H) and their weights, both (B, Q, H, 4 P).
    """
    batch, heads = locations.shape[0], locations.shape[2]

    def each(numbers: Sequence[int]) -> Tensor:
        """One number per level -> one per point; products, because sizes are traced where they are dynamic."""
        parts = [locations.new_ones(count) * number for count, number in zip(points, numbers, strict=True)]
        return torch.cat(parts)

    rows, columns = each([height for height, _ in shapes]), each([width for _, width in shapes])
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
    # Numbers of cells, times the heads, are whole numbers that float32 holds exactly up to 16 million.
    head = torch.arange(heads, dtype=locations.dtype, device=locations.device)[:, None]
    first = each(starts) * heads + head  # (H, P)
    across = _neighbours(locations[..., 0] * columns - 0.5, columns - 1)
    down = _neighbours(locations[..., 1] * rows - 0.5, rows - 1)
    lines = [(row * (columns * heads) + first, share * weights) for row, share in down]
    steps = [(column * heads, share) for column, share in across]
    index = torch.cat([line + step for line, _ in lines for step, _ in steps], -1).to(dtype)
    # A place that is not a number makes the sum none either, and must not read elsewhere.
    index = index.clamp(min=0)
    share = torch.cat([part * other for _, part in lines for _, other in steps], -1)
    image = torch.arange(batch, dtype=dtype, device=locations.device)[:, None, None, None]
    return index + image * (tokens * heads), share


def _neighbours(place: Tensor, last: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The cells before and behind a position, kept inside 0 to last, with their weights; none for one outside."""
    before = place.detach().floor()
    behind = before + 1
    found = []
    for cell, share in ((before, behind - place), (behind, place - before)):
        inside = torch.minimum(cell.clamp(min=0), last)
        found.append((inside, share * (cell == inside).to(share.dtype)))
    return found


class RowSums(torch.autograd.Function):
    """``out[i] = sum over k of share[i, k] * table[index[i, k]]``, for CPUs.

    ``embedding_bag`` computes it in one pass, but spends ten times as long on its gradients. Here the table's gradient
    is a bag too, of the output's rows, ordered by the row of the table that they read.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, share: Tensor) -> Tensor:  # noqa: ANN401
        """Table (N, C), index (R, K) of integers and share (R, K) -> (R, C)."""
        ctx.save_for_backward(table, index, share)
        return F.embedding_bag(index, table, per_sample_weights=share, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # noqa: ANN401
        """(R, C) -> gradients of the table and of the shares."""
        table, index, share = ctx.saved_tensors
        grad = grad.contiguous()
        of_table, of_share = None, None
        if ctx.needs_input_grad[0]:
            of_table = _by_row(index, share, grad, len(table))
        if ctx.needs_input_grad[2]:
            of_share = _products(grad, table, index)
        return of_table, None, of_share


def _by_row(index: Tensor, share: Tensor, grad: Tensor, rows: int) -> Tensor:
    """``out[index[i, k]] += share[i, k] * grad[i]``, in the order of i, so that sums are the same in every run."""
    from scipy.sparse import csr_array  # a second, which prediction does without

    # As a sparse matrix (R, N) whose columns are put in order: a pass that counts, three times as fast as torch's sort.
    columns = index.flatten().numpy()
    begins = np.arange(0, columns.size + 1, index.shape[1], dtype=columns.dtype)
    given = (share.flatten().numpy(), columns, begins)
    by_column = csr_array(given, shape=(len(index), rows)).tocsc()
    read, starts = torch.from_numpy(by_column.indices), torch.from_numpy(by_column.indptr[:-1])
    return F.embedding_bag(
        read, grad, starts, per_sample_weights=torch.from_numpy(by_column.data), mode="sum"
    )


def _products(first: Tensor, second: Tensor, index: Tensor) -> Tensor:
    """Products (R, K) of each row of the first (R, C) with its K rows of the second (N, C)."""
    begins = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype)
    with (
        warnings.catch_warnings()
    ):  # torch calls its compressed rows "beta", and unchecked, once in each process
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        places = torch.sparse_csr_tensor(
            begins,
            index.flatten(),
            first.new_zeros(index.numel()),
            (len(first), len(second)),
            check_invariants=False,  # every row has K entries
        )
    return torch.sparse.sampled_addmm(places, first, second.t(), beta=0.0).values().view(index.shape)
