"""The dense head: its published size, its start, what its cells answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vectors
from flexdetr.config import ConfigError, build
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.heads.yolov8.cells import cell_boxes, decode, expectation
from flexdetr.model.heads.yolov8.head import YOLOv8Head
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.presets import preset

TOTALS = {"n": "yolov8_n", "s": "yolov8_s", "m": "yolov8_m"}


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_has_the_published_size(size: str) -> None:
    row = json.loads((vectors.HERE / "yolov8_counts.json").read_text(encoding="utf-8"))["sizes"][size]
    channels = [row["channels"][f"stride{stride}"] for stride in (8, 16, 32)]
    with torch.device("meta"):
        head = YOLOv8Head(YOLOv8Options(), channels, (8, 16, 32), 80)
    assert sum(parameter.numel() for parameter in head.parameters()) == row["trainable"]["head"]
    if size in TOTALS:
        with torch.device("meta"):
            model = DetectionModel(preset(TOTALS[size]), 80)
        assert sum(each.numel() for each in model.parameters()) == row["trainable"]["total"]


def head(strides: tuple[int, ...] = (8, 16), classes: int = 4) -> YOLOv8Head:
    torch.manual_seed(0)
    return YOLOv8Head(YOLOv8Options(), [16] * len(strides), strides, classes)


def levels(strides: tuple[int, ...] = (8, 16), height: int = 64, width: int = 96) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 16, height // stride, width // stride, generator=draw) for stride in strides]


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32), (16, 32), (32,)])
def test_answers_for_every_cell_of_any_levels(strides: tuple[int, ...]) -> None:
    module = head(strides).train()
    answer = module(levels(strides)).final
    cells = sum((64 // stride) * (96 // stride) for stride in strides)
    assert answer.logits.shape == (2, cells, 4)
    assert answer.boxes.shape == answer.reference.shape == (2, cells, 4)
    assert answer.corners.shape == (2, cells, 64)
    assert module.eval()(levels(strides)).final.corners is None


def test_starts_from_rare_classes_and_small_boxes() -> None:
    module = head().eval()
    with torch.no_grad():
        answer = module([torch.zeros_like(level) for level in levels()]).final
    first, second = answer.logits[0, 0, 0], answer.logits[0, -1, 0]
    assert first.item() == pytest.approx(math.log(5 / 4 / 80**2))
    assert second.item() == pytest.approx(math.log(5 / 4 / 40**2))
    # Equal logits of all bins: a distance of 7.5 cells to each side.
    torch.testing.assert_close(answer.boxes[0, 0], torch.tensor([0.5 / 12, 0.5 / 8, 15 / 12, 15 / 8]))


def test_a_box_is_its_cells_distances() -> None:
    cells = cell_boxes([(2, 3)], torch.zeros(()))
    box = decode(torch.tensor([[1.0, 0.5, 2.0, 1.5]]).expand(6, 4), cells)[4]
    # Cell (1, 1) has its centre at (1.5, 1.5) cells; left 0.5, top 1, right 3.5, bottom 3.
    torch.testing.assert_close(box * torch.tensor([3.0, 2, 3, 2]), torch.tensor([2.0, 2, 3, 2]))
    peak = torch.full((16,), -50.0)
    peak[3] = peak[4] = 50.0
    assert expectation(peak).item() == pytest.approx(3.5)


@pytest.mark.parametrize("asked", [{"decoder_layers": 2}, {"queries": 10}])
def test_it_has_no_queries_and_no_layers(asked: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="head=yolov8 has no"):
        head().eval()(levels(), **asked)


def test_folds(randomise: Callable[..., nn.Module], image: Callable[..., Tensor]) -> None:
    config = build(
        {
            "image_size": [64, 96],
            "backbone": "hgnetv2_atto",
            "encoder": {"strides": [8, 16], "width": 16, "fusion": "pan_c2f", "intra": "sppf", "depth": 0.34},
            "head": "yolov8",
        }
    )
    torch.manual_seed(0)
    model = randomise(DetectionModel(config, 3)).double().eval()
    with torch.no_grad():
        want = model(image().double()).final
        got = fuse(model)(image().double()).final
    assert (got.logits - want.logits).abs().max() <= 1e-10 * want.logits.abs().max()
    torch.testing.assert_close(got.boxes, want.boxes)
    assert not [part for part in fuse(model).modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("option", "value"), [("score", 1.5), ("iou", -0.1), ("max_detections", 0), ("bins", 1)]
)
def test_limits_outside_their_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"head\.{option}"):
        build({"head": {"name": "yolov8", option: value}})
