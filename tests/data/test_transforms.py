from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import tv_tensors
from torchvision.transforms import v2

from flexdetr.config import DataConfig
from flexdetr.data.transforms import (
    Colours,
    Sample,
    Window,
    draw_colours,
    iou_crop,
    plain,
    render,
    resize,
    strong,
    zoom_out,
)

ALWAYS = DataConfig(photometric=1, zoom_out=1, iou_crop=1, flip=1)
NEVER = DataConfig(photometric=0, zoom_out=0, iou_crop=0, flip=0)


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def samples(draw):
    """An image on which each object is a rectangle of its own grey level, and nothing else is lit."""
    height, width = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    count = draw(st.integers(0, 4))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    boxes = []
    for index in range(count):
        x0, y0 = draw(st.integers(0, width - 6)), draw(st.integers(0, height - 6))
        x1, y1 = draw(st.integers(x0 + 5, width)), draw(st.integers(y0 + 5, height))
        image[y0:y1, x0:x1] = 60 * (index + 1)
        boxes.append((x0, y0, x1, y1))
    return Sample(image, np.array(boxes, dtype=np.float32).reshape(-1, 4), np.arange(count))


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda steps: (32 * steps[0], 32 * steps[1]))


@given(samples(), sizes, st.integers(0, 2**32), st.sampled_from([strong, plain]))
def test_boxes_stay_inside_and_labels_aligned(sample, size, seed, transform):
    before = sample.image.copy()
    result = transform(sample, size, np.random.default_rng(seed), ALWAYS)
    height, width = size
    assert result.image.shape == (height, width, 3)
    assert result.image.dtype == np.uint8
    assert result.boxes_xyxy.dtype == np.float32
    assert result.boxes_xyxy.shape == (len(result.labels), 4)
    assert (result.boxes_xyxy >= 0).all()
    assert (result.boxes_xyxy <= [width, height, width, height]).all()
    assert (result.boxes_xyxy[:, 2:] - result.boxes_xyxy[:, :2] >= 1 - 1e-4).all()
    assert set(result.labels) <= set(sample.labels)
    assert (sample.image == before).all()  # cached images must survive


@given(samples(), st.integers(0, 2**32))
def test_same_seed_same_sample(sample, seed):
    first, second = (strong(sample, (64, 64), np.random.default_rng(seed), ALWAYS) for _ in range(2))
    assert (first.image == second.image).all()
    assert (first.boxes_xyxy == second.boxes_xyxy).all()


@given(st.integers(0, 2**32), st.booleans())
def test_boxes_follow_the_pixels(seed, flip):
    """A single bright rectangle is where its box says, through zoom-out, crop, flip and resize."""
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[20:45, 30:70] = 255
    sample = Sample(image, np.array([[30, 20, 70, 45]], dtype=np.float32), np.array([1]))
    config = ALWAYS.model_copy(update={"photometric": 0.0, "flip": float(flip)})
    result = strong(sample, (96, 128), np.random.default_rng(seed), config)
    lit = result.image[..., 0] > 127
    rows, columns = np.nonzero(lit)
    truth = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert result.boxes_xyxy[0] == pytest.approx(
        np.array(truth), abs=2.5
    )  # half a source pixel at the largest zoom


@given(samples(), sizes)
def test_flipping_twice_is_identity(sample, size):
    height, width = sample.size
    once = render(sample, Window(0, 0, width, height), size, flip=True)
    twice = render(once, Window(0, 0, size[1], size[0]), size, flip=True)
    straight = render(sample, Window(0, 0, width, height), size)
    assert np.abs(twice.image.astype(int) - straight.image).max() <= 1  # resize is not bit-symmetric
    assert twice.boxes_xyxy == pytest.approx(straight.boxes_xyxy, abs=1e-3)
    assert (twice.labels == straight.labels).all()


def test_without_augmentation_it_is_the_resize_of_pillow():
    image = _noise(48, 72)
    sample = Sample(image, np.array([[8, 6, 36, 24]], dtype=np.float32), np.array([2]))
    result = strong(sample, (32, 64), np.random.default_rng(0), NEVER)
    pillow = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR))
    assert np.abs(result.image.astype(int) - pillow).max() <= 1
    assert result.boxes_xyxy[0] == pytest.approx(np.array([8 * 64 / 72, 4, 32, 16]))
    assert (result.image == plain(sample, (32, 64), np.random.default_rng(0), NEVER).image).all()


def test_outside_of_the_image_is_black():
    sample = Sample(
        np.full((10, 10, 3), 200, dtype=np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    )
    result = render(sample, Window(-10, -20, 30, 20), (40, 40), colours=Colours(brightness=1.1))
    assert (result.image[20:30, 10:20] == 220).all()
    assert result.image.sum() == 220 * 100 * 3


def test_slivers_are_dropped():
    boxes = np.array([[0, 0, 20, 20], [0, 0, 9.5, 20], [9, 0, 20, 20], [12, 0, 20, 20]], dtype=np.float32)
    sample = Sample(_noise(20, 20), boxes, np.arange(4))
    window = Window(0, 0, 10, 20)
    assert render(sample, window, (20, 10)).labels.tolist() == [0, 1, 2]
    assert render(sample, window, (20, 10), least_side=2).labels.tolist() == [0, 1]
    assert render(sample, window, (20, 10), least_visible=0.6).labels.tolist() == [1]


@given(st.integers(10, 300), st.integers(10, 300), st.integers(0, 2**32))
def test_zoom_out_holds_the_image(width, height, seed):
    window = zoom_out(width, height, np.random.default_rng(seed))
    assert window.x0 <= 0 <= width <= window.x1
    assert window.y0 <= 0 <= height <= window.y1
    assert window.width <= 4 * width
    assert window.height <= 4 * height


@given(samples(), st.integers(0, 2**32))
def test_crop_holds_the_centres_that_it_says(sample, seed):
    if not len(sample.labels):
        return
    height, width = sample.size
    window = Window(-10, -5, width + 20, height)
    crop, keep = iou_crop(sample.boxes_xyxy, window, np.random.default_rng(seed))
    assert window.x0 <= crop.x0 < crop.x1 <= window.x1
    assert window.y0 <= crop.y0 < crop.y1 <= window.y1
    assert keep.any()
    if crop != window:
        centres = (sample.boxes_xyxy[:, :2] + sample.boxes_xyxy[:, 2:]) / 2
        inside = ((centres > [crop.x0, crop.y0]) & (centres < [crop.x1, crop.y1])).all(axis=1)
        assert (inside == keep).all()
        assert 0.5 <= crop.width / crop.height <= 2
        assert crop.width >= int(0.3 * window.width)


def test_crop_draws_like_torchvision():
    """Sides and share of untouched images agree with RandomIoUCrop's over many draws."""
    boxes = np.array([[20, 20, 60, 70], [100, 30, 180, 90], [30, 100, 70, 120]], dtype=np.float32)
    window = Window(0, 0, 200, 150)
    rng = np.random.default_rng(0)
    ours = [iou_crop(boxes, window, rng)[0] for _ in range(1000)]
    reference = v2.RandomIoUCrop()
    torch.manual_seed(0)
    tensors = [tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(150, 200))]
    drawn = [reference.make_params(tensors) for _ in range(200)]
    areas = [crop.width * crop.height for crop in ours]
    reference_areas = [crop["width"] * crop["height"] if crop else 200 * 150 for crop in drawn]
    assert ks_2samp(areas, reference_areas).pvalue > 0.01
    untouched = np.mean([crop == window for crop in ours])
    assert untouched == pytest.approx(np.mean([not crop for crop in drawn]), abs=0.1)


@pytest.mark.parametrize("contrast_first", [True, False])
def test_colours_are_those_of_torchvision(contrast_first):
    image = (_noise(40, 56) // 4 + 96).astype(np.uint8)  # mid tones: nothing is clipped on the way
    ours = Colours(1.1, 0.8, 1.3, 0.0, contrast_first, (2, 0, 1)).apply(image)
    functional = v2.functional
    steps = [
        lambda tensor: functional.adjust_contrast(tensor, 0.8),
        lambda tensor: functional.adjust_saturation(tensor, 1.3),
    ]
    tensor = functional.adjust_brightness(torch.from_numpy(image).permute(2, 0, 1), 1.1)
    for step in steps if contrast_first else steps[::-1]:
        tensor = step(tensor)
    expected = functional.permute_channels(tensor, [2, 0, 1]).permute(1, 2, 0).numpy()
    assert (
        np.abs(ours.astype(int) - expected).max() <= 3
    )  # the mean is taken of every 16th pixel, rounding differs


def test_hue_turns_as_in_torchvision():
    image = np.array([[[200, 80, 80], [80, 200, 80], [90, 90, 210], [150, 150, 150]]], dtype=np.uint8)
    for hue in (-0.05, 0.05):
        ours = Colours(hue=hue).apply(image).astype(int)
        expected = (
            v2.functional.adjust_hue(torch.from_numpy(image).permute(2, 0, 1), hue).permute(1, 2, 0).numpy()
        )
        assert np.abs(ours - expected).max() <= 20
        assert (ours[0, 3] == 150).all()
    assert Colours(hue=1 / 3).apply(image)[0, 0].tolist() == [80, 200, 80]


def test_colours_do_nothing_by_default_and_leave_the_input():
    image = _noise(8, 8)
    copy = image.copy()
    assert (Colours().apply(image) == image).all()
    Colours(brightness=0.5).apply(image)
    assert (image == copy).all()


def test_drawn_colours_occur_as_often_as_asked():
    rng = np.random.default_rng(0)
    assert draw_colours(rng, 0.0) is None
    drawn = [draw_colours(rng, 0.5) for _ in range(2000)]
    assert np.mean([colours is None for colours in drawn]) == pytest.approx(0.5**5, abs=0.02)
    changed = np.mean([colours is not None and colours.hue != 0 for colours in drawn])
    assert changed == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [(9, 200), (64, 32), (33, 97), (1, 1)])
def test_resize_is_that_of_torchvision(capability, channels, size, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    whole = np.random.default_rng(1).integers(0, 256, (60, 90, channels), dtype=np.uint8)
    for image in (whole, whole[7:48, 3:80], whole[:, :1], whole[::2, ::-1].copy()):
        planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        expected = v2.functional.resize(planes, list(size), antialias=True)[0].permute(1, 2, 0).numpy()
        assert (resize(image, size) == expected).all()


def test_resize_keeps_what_already_fits():
    image = _noise(32, 32)
    assert resize(image, (32, 32)) is image


def test_crop_ends_even_where_no_crop_can_fit():
    boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
    for seed in range(20):
        crop, keep = iou_crop(boxes, Window(0, 0, 4000, 3), np.random.default_rng(seed))
        assert keep.all()
        assert crop.width > 0
