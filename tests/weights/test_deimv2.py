"""DEIMv2's checkpoints: what is told from the tensors, and the models that need DINOv3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from flexdetr.cli import main
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any


@pytest.fixture
def atto(golden: ModuleType) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value.copy()) for key, value in golden.checkpoint("deimv2_atto").items()}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, torch.Tensor]], Path]:
    def save(state: dict[str, torch.Tensor]) -> Path:
        torch.save({"model": state}, tmp_path / "deimv2_hgnetv2_atto_coco.pth")
        return tmp_path / "deimv2_hgnetv2_atto_coco.pth"

    return save


def test_a_shared_box_head_is_kept_once(
    atto: dict[str, torch.Tensor], write: Callable[[dict[str, torch.Tensor]], Path]
) -> None:
    loaded = load_any(write(atto))
    assert loaded.config.model == "deimv2_atto"
    assert loaded.config.head.shared_boxes
    assert not [name for name in loaded.state() if name.startswith("head.boxes.1.")]
    assert sum(parameter.numel() for parameter in loaded.build().parameters()) == 508_983


def test_box_heads_that_differ_are_all_kept(
    atto: dict[str, torch.Tensor], write: Callable[[dict[str, torch.Tensor]], Path]
) -> None:
    atto["decoder.dec_bbox_head.2.layers.0.bias"] += 1
    loaded = load_any(write(atto))
    assert not loaded.config.head.shared_boxes
    assert len(loaded.build().head.boxes) == 3


@pytest.mark.parametrize(("anchors", "size"), [(500, 320), (845, 416), (2000, 640)])
def test_the_number_of_anchors_tells_the_size(
    anchors: int, size: int, atto: dict[str, torch.Tensor], write: Callable[[dict[str, torch.Tensor]], Path]
) -> None:
    atto["decoder.anchors"] = torch.zeros(1, anchors, 4)
    assert load_any(write(atto)).config.image_size == (size, size)


def test_a_model_on_dinov3_is_answered_in_a_sentence(
    atto: dict[str, torch.Tensor],
    write: Callable[[dict[str, torch.Tensor]], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    atto = {name: tensor for name, tensor in atto.items() if not name.startswith("backbone.")}
    file = write({"backbone.dinov3.cls_token": torch.zeros(1, 1, 192), **atto})
    sentence = "DEIMv2 on DINOv3, whose weights are gated and under a licence of their own"
    with pytest.raises(WeightsError, match=sentence):
        load_any(file)
    assert main(["info", str(file)]) == 1
    error = capsys.readouterr().err
    assert "DINOv3" in error
    assert "Traceback" not in error
