"""The deploy form: the same answers, a new module, and errors where it is misused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import BackboneConfig, Config
from flexdetr.model.backbones import BACKBONES, build_backbone
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.conv_norm import fold_pairs
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import FuseError, fuse
from flexdetr.weights.loading import load_any

Randomise = Callable[..., nn.Module]
# Each builds within a second; the others are the same code, deeper and wider.
QUICK = ("hgnet_tiny", "hgnetv2_atto", "hgnetv2_b0", "hgnetv2_s", "ghostnetv3_050", "resnet18_vd")
TIMM = (
    "timm/resnet18d",
    "timm/mobilenetv4_conv_small",
    "timm/repvgg_a0",
    "timm/densenet121",
    "timm/convnext_atto",
)


def norms(model: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


def difference(got: list[Tensor], want: list[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BACKBONES),
        *(pytest.param(name, marks=pytest.mark.slow) for name in TIMM),
    ],
)
def test_backbones_agree(name: str, randomise: Randomise, image: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    backbone = randomise(build_backbone(BackboneConfig(name=name), (8, 16, 32)), image(4)).eval()
    with torch.no_grad():
        got, plain = fuse(backbone)(image()), backbone(image())
        fused = fuse(backbone.double())
        exact = backbone(image().double())
        assert difference(fused(image().double()), exact) <= 1e-10
    # Deep random networks magnify rounding: that of the training form then is the measure.
    assert difference(got, plain) <= max(1e-4, 2 * difference(plain, exact))
    if "densenet" not in name:  # its norms come before the convolutions
        assert norms(fused) == 0


@pytest.fixture
def model(small: Callable[..., Config], randomise: Randomise) -> DetectionModel:
    torch.manual_seed(0)
    config = small(attention={"backbone.16": "coordinate", "encoder.8": "ema"})
    detector = randomise(DetectionModel(config, 4)).eval()
    assert isinstance(detector, DetectionModel)
    return detector


def test_a_detector_fuses_into_a_new_one(model: DetectionModel, image: Callable[..., Tensor]) -> None:
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model.double())
    assert isinstance(fused, DetectionModel)
    assert fused.fused
    assert not model.fused
    assert norms(fused) == 0
    with torch.no_grad():
        want, got = model(image(2).double()).final, fused(image(2).double()).final
    assert difference([got.logits, got.boxes], [want.logits, want.boxes]) <= 1e-10
    assert got.logits.dtype == torch.float64
    ours = {tensor.data_ptr() for tensor in fused.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert all(
        torch.equal(value.double(), before[name].double()) for name, value in model.state_dict().items()
    )
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


@pytest.mark.parametrize(
    "case",
    ["lyuwenyu_rtdetr_r18vd", pytest.param("paddledet_rtdetr_hgnetv2_l", marks=pytest.mark.slow)],
)
def test_reference_answers_after_fusing(case: str, golden: ModuleType, tmp_path: Path) -> None:
    model = fuse(load_any(golden.write(case, tmp_path)).build().eval())
    with torch.no_grad():
        answer = model(torch.from_numpy(golden.inputs(case))).final
    difference = golden.compare_queries(answer.logits[0].numpy(), answer.boxes[0].numpy(), case)
    assert difference["hit"] == answer.boxes.shape[1]
    assert difference["logits"] <= 1e-4 * np.abs(golden.expected(case)["logits"]).max()
    assert difference["boxes"] <= 1e-4


def test_training_parts_are_dropped(model: DetectionModel, image: Callable[..., Tensor]) -> None:
    fused = fuse(model)
    assert not [name for name, _ in fused.named_parameters() if "denoising" in name]
    for layers in (1, 2, 3):
        with torch.no_grad():
            want, got = (each(image(), decoder_layers=layers).final.logits for each in (model, fused))
        assert difference([got], [want]) <= 1e-4


def test_decoder_layers_are_dropped_where_asked(model: DetectionModel, image: Callable[..., Tensor]) -> None:
    fused = fuse(model, decoder_layers=2)
    with torch.no_grad():
        want, got = model(image(), decoder_layers=2).final.boxes, fused(image()).final.boxes
    assert difference([got], [want]) <= 1e-4
    assert len(fused.head.layers) == 2
    with pytest.raises(FuseError, match="between 1 and 3; got 4"):
        fuse(model, decoder_layers=4)


def test_misuse_is_refused(model: DetectionModel) -> None:
    with pytest.raises(FuseError, match=r"training mode.*model\.eval\(\)"):
        fuse(model.train())
    fused = fuse(model.eval())
    with pytest.raises(FuseError, match="the deploy form already"):
        fuse(fused)
    with pytest.raises(FuseError, match="the deploy form already"):
        fuse(copy.deepcopy(fused))
    with pytest.raises(FuseError, match="cannot be trained"):
        fused.train()
    assert not fused.eval().training


def test_the_default_type_stays(model: DetectionModel) -> None:
    fuse(model.double())
    assert torch.get_default_dtype() == torch.float32


class Returns(nn.Module):
    """A module whose ``fuse`` returns whatever it was told to."""

    def __init__(self, answer: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def fuse(self) -> object:
        return self.answer(self)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(lambda _: None, "returned NoneType"), (lambda part: part, "returned the module itself")],
)
def test_a_wrong_fuse_is_named(answer: Callable[[nn.Module], object], reason: str) -> None:
    with pytest.raises(FuseError, match=rf"Returns\.fuse\(\) {reason}"):
        fuse(nn.Sequential(Returns(answer)).eval())


def test_a_fuse_that_shares_its_weights_is_copied() -> None:
    part = Returns(lambda part: part.conv)  # type: ignore[attr-defined]
    fused = fuse(nn.Sequential(part).eval())
    assert part.conv.weight.requires_grad
    assert fused[0].weight.data_ptr() != part.conv.weight.data_ptr()


def test_one_module_in_two_places_stays_one() -> None:
    shared = ConvBNAct(4, 4, 3)
    fused = fuse(nn.Sequential(shared, nn.ReLU(), shared).eval())
    assert fused[0] is fused[2]


def test_a_hooked_module_is_not_replaced() -> None:
    """An attention insert in a foreign network hangs on a module's call: what folds would drop it."""
    part = Returns(lambda part: copy.deepcopy(part.conv))  # type: ignore[attr-defined]
    part.register_forward_hook(lambda _module, _inputs, output: output * 2)
    model = nn.Sequential(part).eval()
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(fuse(model)(x), model(x))


def test_timm_with_an_insert(randomise: Randomise, image: Callable[..., Tensor]) -> None:
    backbone = build_backbone(BackboneConfig(name="timm/repvgg_a0"), (8, 16), {8: "ese"})
    backbone = randomise(backbone, image(4)).double().eval()
    fused = fuse(backbone)
    with torch.no_grad():
        assert difference(fused(image().double()), backbone(image().double())) <= 1e-10
    assert norms(fused) == 0


class Pair(nn.Module):
    """A convolution and a norm, used in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        kind = nn.ConvTranspose2d if way == "transposed" else nn.Conv2d
        self.conv = kind(3, 3, 3, padding=1, bias=way == "bias")
        self.norm = nn.BatchNorm2d(3, affine=way != "no affine")
        self.steps = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GELU())

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        if self.way == "two readers":
            y = self.conv(x)
            return self.norm(y) + y
        if self.way == "two calls":
            return self.norm(self.conv(self.conv(x)))
        if self.way == "norm twice":
            return self.norm(self.norm(self.conv(x)))
        if self.way == "activation between":
            return self.norm(F.relu(self.conv(x)))
        if self.way == "norm first":
            return self.conv(self.norm(x))
        if self.way == "by value" and x.sum() > 0:
            return self.norm(x)
        if skip:
            return x
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("way", "folded"),
    [
        ("plain", 2),
        ("bias", 2),
        ("no affine", 2),
        ("transposed", 2),
        ("two readers", 1),
        ("two calls", 1),
        ("norm twice", 1),
        ("activation between", 1),
        ("norm first", 1),
        ("by value", 1),
    ],
)
def test_pairs_fold_where_that_is_sound(way: str, folded: int, randomise: Randomise) -> None:
    part = randomise(Pair(way)).double().eval()
    module = nn.Sequential(part, part.steps)
    want = module(x := torch.randn(2, 3, 5, 7, dtype=torch.float64))
    copied = copy.deepcopy(nn.ModuleList([part]))
    assert fold_pairs(copied) == folded
    assert difference([copied[0].steps(copied[0](x))], [want]) <= 1e-10


def test_a_module_in_two_places_keeps_its_norm() -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Sequential(conv, norm), nn.Sequential(conv, nn.ReLU())).eval()
    assert fold_pairs(model) == 0


def test_tied_weights_keep_their_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).eval()
    model[2].weight = model[0].weight
    assert fold_pairs(model) == 0


def test_a_norm_with_a_hook_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    model[1].register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert fold_pairs(model) == 0


def test_a_standardised_convolution_keeps_its_norm() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean())

    assert fold_pairs(nn.Sequential(Standardised(3, 3, 1), nn.BatchNorm2d(3)).eval()) == 0
