"""D-FINE's and DEIM's files: what tells them apart, and what is read off their tensors."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.config import build, merge
from flexdetr.loading import load
from flexdetr.weights.container import WeightsError
from flexdetr.weights.dfine import activation_of, project_of
from flexdetr.weights.loading import load_any


@pytest.fixture(scope="module")
def state(golden: ModuleType) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in golden.checkpoint("dfine_n").items()}


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("dfine_n_coco", "dfine"),
        ("D-FINE-L", "dfine"),
        ("d_fine_s_obj2coco", "dfine"),
        ("deim_dfine_hgnetv2_n_coco_160e", "deim"),
        ("DEIM-M", "deim"),
        ("rtdetrv4_hgnetv2_s", "deim"),
        ("rtv4_s", "deim"),
        ("best_stg2", None),
        ("rtdetrv2_r18", None),
        ("confined", None),
    ],
)
def test_names_tell_the_project(name: str, project: str | None) -> None:
    assert project_of(name) == project


@pytest.mark.parametrize(
    ("project", "name", "activation"),
    [
        ("dfine", "dfine_x_obj2coco", "relu"),
        ("deim", "deim_dfine_hgnetv2_l_coco_50e", "silu"),
        ("deim", "deim_dfine_hgnetv2_x_obj2coco_24e", "relu"),  # the one that kept it
        ("deim", "deim_dfine_hgnetv2_l_obj2coco_24e", "silu"),
    ],
)
def test_the_project_tells_the_activation(project: str, name: str, activation: str) -> None:
    assert activation_of(project, name) == activation


@pytest.mark.parametrize(("name", "activation"), [("dfine_n", "relu"), ("deim_n", "silu")])
def test_the_name_decides_and_it_is_said(
    state: dict[str, torch.Tensor], name: str, activation: str, tmp_path: Path
) -> None:
    torch.save({"model": state}, tmp_path / f"{name}.pth")
    loaded = load_any(tmp_path / f"{name}.pth")
    assert (loaded.config.model, loaded.kind) == (name, name.removesuffix("_n"))
    assert loaded.config.head.activation == activation
    assert f"so activations are {activation}; nothing in the file shows it" in str(loaded.report)
    # What was asked for wins over the name.
    other = "deim" if name == "dfine_n" else "dfine"
    assert load_any(tmp_path / f"{name}.pth", kind=other).config.model == f"{other}_n"


def test_a_name_that_does_not_tell_is_refused_until_it_is_said(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Averaged weights are taken where a training checkpoint holds both."""
    raw = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    file = tmp_path / "best_stg2.pth"
    torch.save({"model": raw, "ema": {"module": state, "updates": 7}}, file)
    with pytest.raises(WeightsError, match="neither the file nor its name tells which"):
        load_any(file)
    detector = load(file, source="deim")
    assert detector.config.model == "deim_n"
    assert isinstance(detector, Detector)
    ours = detector.model.head.get_submodule("pre_box.layers.0").get_parameter("weight")
    assert torch.equal(ours, state["decoder.pre_bbox_head.layers.0.weight"])
    out = tmp_path / "ours.safetensors"
    assert main(["convert", str(file), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "--from dfine" in said
    assert "Traceback" not in said
    assert main(["convert", str(file), "--from", "dfine", "--out", str(out)]) == 0
    assert "taken for D-FINE, as was asked for, so activations are relu" in capsys.readouterr().out
    assert load_any(out).config.head.activation == "relu"
    with pytest.raises(WeightsError, match="is not PaddleDetection RT-DETR"):
        load_any(file.rename(tmp_path / "dfine_n.pth"), kind="paddle")


def test_rtdetrv4_shows_itself(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A layer that only its training has tells its graph, which is DEIM's."""
    projector = {"encoder.feature_projector.0.weight": torch.ones(768, 128)}
    torch.save({"model": state | projector}, tmp_path / "best.pth")
    loaded = load_any(tmp_path / "best.pth")
    assert loaded.config.head.activation == "silu"
    assert loaded.report.title == "RT-DETRv4 (DEIM's graph)"
    assert loaded.report.left["encoder.feature_projector.0.weight"] == "used in training only"


def test_constants_are_read_and_damage_is_told(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    changed = state | {"decoder.reg_scale": torch.tensor([8]), "decoder.up": torch.tensor([-0.25])}
    torch.save(changed, tmp_path / "dfine.pth")
    head = load_any(tmp_path / "dfine.pth").config.head
    assert (head.reg_scale, head.up, head.reg_max, head.points) == (8.0, 0.25, 32, 6)
    torch.save(changed | {"decoder.up": torch.zeros(1)}, tmp_path / "dfine.pth")
    with pytest.raises(WeightsError, match=r"decoder\.up is not a number other than 0"):
        load_any(tmp_path / "dfine.pth")


def test_deims_rtdetrv2_shows_itself(dialects: SimpleNamespace, tmp_path: Path) -> None:
    """Query positions from three layers are DEIM's, which computes with SiLU."""
    config = build(merge(dialects.small.model_dump(), {"head": {"activation": "silu", "position_layers": 3}}))
    model = dialects.make_model(config)
    torch.save({"model": dialects.lyuwenyu(model.state_dict(), points=(4, 4, 4))}, tmp_path / "best.pth")
    loaded = load_any(tmp_path / "best.pth", kind="deim")
    assert loaded.report.title == "DEIM's RT-DETRv2"
    assert (loaded.config.head.activation, loaded.config.head.position_layers) == ("silu", 3)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours = loaded.build()(image, queries=20).final  # no file holds their number
        assert torch.equal(ours.boxes, model(image).final.boxes)
