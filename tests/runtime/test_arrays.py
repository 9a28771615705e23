"""Arrays and tensors as pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.runtime.arrays import ArrayError, as_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def test_a_picture_stays_itself() -> None:
    assert as_picture(RGB) is RGB


@pytest.mark.parametrize(
    "value",
    [
        np.moveaxis(RGB, 2, 0),
        RGB.astype(np.uint16) * 257,
        RGB.astype(np.float32) / 255,
        RGB.astype(np.float64),
        (np.moveaxis(RGB, 2, 0) / 255).astype(np.float16),
        np.dstack([RGB, np.full((6, 8), 255, np.uint8)]),
    ],
)
def test_forms_of_one_picture(value: np.ndarray) -> None:
    got = as_picture(value)
    assert got.dtype == np.uint8
    assert got.flags["C_CONTIGUOUS"]
    assert (got == RGB).all()


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (1, 6, 8)])
def test_grey(shape: tuple[int, ...]) -> None:
    grey = RGB[:, :, 0].reshape(shape)
    assert (as_picture(grey) == RGB[:, :, :1]).all()


def test_transparency_lies_over_black() -> None:
    picture = np.full((2, 2, 4), 200, np.uint8)
    picture[..., 3] = 0
    assert (as_picture(picture) == 0).all()


def test_sides_that_could_be_either() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert (as_picture(array) == array).all()
    assert (as_picture(torch.from_numpy(array)) == np.moveaxis(array, 0, 2)).all()


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    picture = torch.from_numpy(RGB).permute(2, 0, 1)
    assert (as_picture(picture) == RGB).all()
    assert (as_picture(picture.float().div(255).requires_grad_()) == RGB).all()
    assert as_picture((picture / 255).bfloat16()).shape == RGB.shape
    assert (as_picture(torch.from_numpy(RGB)) == RGB).all()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((2, 3, 6, 8), np.uint8), r"batch of shape \(2, 3, 6, 8\): give list"),
        (np.zeros((6, 8, 2), np.uint8), r"got shape \(6, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got shape \(0, 8, 3\)"),
        (np.zeros((6, 8, 3), np.int64), "got int64"),
        (np.zeros((6, 8), bool), "got bool"),
        (np.full((6, 8, 3), np.nan), "not finite"),
        (np.linspace(-2, 2, 48).reshape(6, 8), "-2 to 2: is the picture normalised"),
    ],
)
def test_what_is_no_picture(value: np.ndarray, reason: str) -> None:
    with pytest.raises(ArrayError, match=reason):
        as_picture(value)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3, 4)), st.booleans())
def test_every_shape_gives_its_own(height: int, width: int, channels: int, first: bool) -> None:
    value = np.zeros((channels, height, width) if first else (height, width, channels), np.uint8)
    got = as_picture(value)
    if first and width in (1, 3, 4):  # an array's channels are the last side where they can be
        assert got.shape == (channels, height, 3)
    else:
        assert got.shape == (height, width, 3)
