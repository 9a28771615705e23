"""Whole detectors: every preset, every image size, training with and without objects, and export."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes.gpu import GPU, FakeGPU, on_gpu
from flexdetr.config import Config, ConfigError
from flexdetr.model.csprep import RepVggBlock
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.model.size import measure_module
from flexdetr.presets import PRESETS, preset

# FACTS 7.1: parameters, the batch norms' share that the PyTorch code keeps in buffers, parameters with RepVGG folded
# (counted by the PyTorch code, without that share), and multiply-adds of convolutions and linear layers at 640x640.
PUBLISHED = {
    "rtdetr_r18": (20_184_464, 0, 19_983_248, 30.18),
    "rtdetr_r34": (31_441_668, 0, 31_240_452, 46.11),
    "rtdetr_r50m": (36_593_772, 53_248, 36_392_556, 49.74),
    "rtdetr_r50": (42_891_372, 53_248, 42_095_724, 67.95),
    "rtdetr_r101": (76_556_268, 105_472, 74_772_972, 129.18),
    "rtdetr_hgnetv2_l": (32_925_036, 45_696, 32_129_388, 54.90),
    "rtdetr_hgnetv2_x": (67_374_188, 93_920, 65_590_892, 116.88),
    "rtdetr_hgnetv2_h": (125_584_348, 166_416, 122_420_188, 244.32),
}
BIG = (
    *(f"rtdetr_{size}" for size in ("r34", "r50m", "r50", "r101", "hgnetv2_x", "hgnetv2_h")),
    # Ours, heavier than R18 or another width of one that is tested.
    *(f"rtdetr_ghostnetv3_{width}" for width in ("050", "130", "160")),
    *(f"rtdetr_hgnet_{size}" for size in ("tiny", "small", "base")),
    *("rtdetr_ghostnet_100", "rtdetr_mobilenetv1_100"),
    # Larger than one that differs in widths and depths only.
    *(f"{family}_{size}" for family in ("dfine", "deim") for size in "smlx"),
    *("deim_rtdetrv2_m", "deim_rtdetrv2_l", "yolov8_m", "yolov8_hgnetv2_l"),
)


def architectures() -> list[str]:
    """The first preset of each architecture: RT-DETRv2's are RT-DETR's, trained in another way."""
    seen: dict[str, str] = {}
    for name, config in PRESETS.items():
        network = {"backbone": {"name", "options"}, "encoder": True, "head": True, "attention": True}
        parts = config.model_dump_json(include=network)
        seen.setdefault(parts, name)
    return list(seen.values())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in BIG else []) for name in architectures()],
)
def built(request: pytest.FixtureRequest) -> tuple[str, DetectionModel]:
    """A preset's name and its model with 80 classes, in evaluation mode."""
    torch.manual_seed(0)
    return request.param, DetectionModel(preset(request.param), 80).eval()


def test_a_preset_has_its_published_size(built: tuple[str, DetectionModel]) -> None:
    name, model = built
    size, deploy = measure_module(model, (640, 640)), measure_module(fuse(model), (640, 640))
    assert deploy.params < size.params
    assert deploy.gflops <= size.gflops
    if name not in PUBLISHED:  # a model of our own
        return
    whole, in_buffers, folded, giga = PUBLISHED[name]
    assert parameters(model) - in_buffers == whole
    saved = sum(
        parameters(part) - parameters(part.fuse())
        for part in model.modules()
        if isinstance(part, RepVggBlock)
    )
    assert parameters(model) - in_buffers - saved == folded
    # We run the box head on the selected tokens only; the reference runs it on all 8400.
    spared = (8400 - 300) * (2 * 256 * 256 + 256 * 4) / 1e9
    assert size.gflops / 2 + spared == pytest.approx(giga, rel=0.02)


def test_a_preset_answers_for_any_size(
    built: tuple[str, DetectionModel], image: Callable[..., Tensor]
) -> None:
    name, model = built
    strides = preset(name).encoder.strides
    tokens = sum(-(-64 // stride) * -(-96 // stride) for stride in strides)
    rows = min(getattr(preset(name).head, "queries", tokens), tokens)  # a dense head answers for every token
    with torch.no_grad():
        answer = model(image(1)).final
    assert answer.logits.shape == (1, rows, 80)
    assert answer.boxes.shape == (1, rows, 4)
    inside = (answer.boxes >= 0) & (answer.boxes <= 1)
    # Dense boxes are cut to the image when they are chosen.
    assert inside.all() if model.head.limits is None else answer.boxes.isfinite().all()


def test_a_preset_fuses(
    built: tuple[str, DetectionModel],
    randomise: Callable[..., nn.Module],
    image: Callable[..., Tensor],
    query_difference: Callable[[Prediction, Prediction], float],
) -> None:
    """In float64 to 1e-10. In float32 to 1e-4, or twice the training form's own rounding in deep random networks.

    The last test of each model: it changes it.
    """
    _, model = built
    randomise(model, image(4)).eval()
    with torch.no_grad():
        fused, plain = fuse(model)(image()).final, model(image()).final
        exact = model.double()(image().double()).final
        assert query_difference(fuse(model)(image().double()).final, exact) <= 1e-10
    assert query_difference(fused, plain) <= max(1e-4, 2 * query_difference(plain, exact))


def test_nano_is_as_large_as_promised() -> None:
    """About 4 M parameters and 7 GFLOPs at 640."""
    size = measure_module(DetectionModel(preset("flexdetr_nano"), 80), (640, 640))
    assert 3.5e6 < size.params < 4.5e6
    assert 6.5 < size.gflops < 7.8


@pytest.fixture
def model(small: Callable[..., Config], randomise: Callable[..., nn.Module]) -> DetectionModel:
    torch.manual_seed(0)
    detector = randomise(DetectionModel(small(), 4))
    assert isinstance(detector, DetectionModel)
    return detector


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 96, 64), (2, 32, 32), (1, 32, 160)])
@pytest.mark.parametrize("training", [False, True])
def test_any_size_and_batch(
    model: DetectionModel,
    image: Callable[..., Tensor],
    objects: Callable[..., Targets],
    batch: int,
    height: int,
    width: int,
    training: bool,
) -> None:
    model.train(training)
    targets = objects(*range(1, batch + 1)) if training else None
    output = model(image(batch, height, width), targets)
    tokens = height * width // 64 + height * width // 256
    assert output.final.boxes.shape == (batch, min(20, tokens), 4)
    assert (len(output.aux), output.encoder is not None, len(output.denoising)) == (
        (2, True, 3) if training else (0, False, 0)
    )


def test_images_of_a_batch_do_not_mix(model: DetectionModel, image: Callable[..., Tensor]) -> None:
    model.double().eval()
    with torch.no_grad():
        together = model(image(3).double()).final
        for i in range(3):
            alone = model(image(3)[i : i + 1].double()).final
            torch.testing.assert_close(alone.logits[0], together.logits[i])
            torch.testing.assert_close(alone.boxes[0], together.boxes[i])


@pytest.mark.parametrize("size", [(60, 96), (64, 100)])
def test_other_sizes_are_refused(model: DetectionModel, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"divisible by 32; got {size[0]}x{size[1]}"):
        model(torch.zeros(1, 3, *size))


def every_prediction(output: Output) -> list[Prediction]:
    encoder = [] if output.encoder is None else [output.encoder]
    return [output.final, *output.aux, *encoder, *output.denoising]


@pytest.mark.parametrize("counts", [(2, 0, 1), (0, 0, 0), (1, 1, 1)])
def test_every_trainable_parameter_gets_a_gradient(
    small: Callable[..., Config],
    image: Callable[..., Tensor],
    objects: Callable[..., Targets],
    counts: tuple[int, ...],
) -> None:
    """With and without objects: all ranks of a distributed run have to reduce the same parameters."""
    config = small(attention={"backbone.4": "simam", "backbone.16": "cbam", "encoder.8": "coordinate"})
    model = DetectionModel(config, 4).train()
    model.backbone.freeze(stem=True, stages=0, norms=True)
    output = model(image(3), objects(*counts))
    assert (output.plan is None) is (sum(counts) == 0)
    sum(
        part.square().sum() for each in every_prediction(output) for part in (each.logits, each.boxes)
    ).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == trained
    assert len(trained) < len(list(model.parameters()))


def test_attention_places(small: Callable[..., Config], image: Callable[..., Tensor]) -> None:
    config = small(attention={"backbone.16": "ema", "encoder.16": "eca"})
    model = DetectionModel(config, 4)
    plain = DetectionModel(small(), 4)
    added = {name.rpartition("inserts.")[2].split(".")[0] for name in model.state_dict() if "inserts" in name}
    assert added == {"16"}
    assert parameters(model) > parameters(plain)
    assert model.eval()(image()).final.boxes.isfinite().all()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("encoder.32", r"did you mean .*'encoder\.16'"),
        ("neck.16", r"backbone\.STRIDE or encoder\.STRIDE"),
        ("backbone", r"backbone\.STRIDE or encoder\.STRIDE"),
        ("backbone.32", "no stage of stride 32"),
    ],
)
def test_wrong_places_are_refused(small: Callable[..., Config], place: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DetectionModel(small(attention={place: "ese"}), 4)


def test_no_classes_are_refused(small: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="at least one class; got 0"):
        DetectionModel(small(), 0)


@pytest.mark.parametrize("name", ["hgnetv2_atto", "hgnet_tiny"])
def test_images_are_normalised_as_the_backbone_wants(small: Callable[..., Config], name: str) -> None:
    model = DetectionModel(small(backbone={"name": name}), 4)
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    got = model.normalise(images)
    assert got.dtype == torch.float32
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.backbone.mean, model.backbone.std))
    torch.testing.assert_close(got * std + mean, images / 255, rtol=0, atol=1e-6)


def test_normalising_copies_nothing_to_the_gpu(small: Callable[..., Config]) -> None:
    model = DetectionModel(small(backbone={"name": "hgnet_tiny"}), 4)
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = model.normalise(images)
    with FakeGPU() as gpu:
        model.to(GPU)
        images = images.to(GPU)
        gpu.reset()
        got = model.normalise(images)
        assert on_gpu(got)
        assert (gpu.copies, gpu.syncs) == ([], {})
        assert torch.equal(got.cpu(), expected)


def test_what_normalises_stays_float32_and_outside_of_checkpoints(small: Callable[..., Config]) -> None:
    model = DetectionModel(small(backbone={"name": "hgnet_tiny"}), 4)
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = model.normalise(images)
    assert not any("mean_std" in name for name in [*model.state_dict(), *dict(model.named_buffers())])
    for changed in (
        copy.deepcopy(model).half(),
        copy.deepcopy(model).double(),
        model.to("meta").to_empty(device="cpu"),
    ):
        assert torch.equal(changed.normalise(images), expected)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 40))
def test_layers_and_queries_at_inference(
    small: Callable[..., Config], batch: int, rows: int, columns: int, layers: int, queries: int
) -> None:
    model = DetectionModel(small(), 4).eval()
    images = torch.rand(batch, 3, 32 * rows, 32 * columns)
    with torch.no_grad():
        answer = model(images, decoder_layers=layers, queries=queries).final
    assert answer.logits.shape == (batch, min(queries, 20 * rows * columns), 4)


@pytest.mark.parametrize("sampling", ["bilinear", "discrete"])
def test_it_is_exported_without_data_dependence(
    small: Callable[..., Config],
    randomise: Callable[..., nn.Module],
    image: Callable[..., Tensor],
    sampling: str,
) -> None:
    """torch.export follows every Python branch once: batch sizes stay open, and the graph answers the same."""
    model = randomise(DetectionModel(small(head={"sampling": sampling}), 4)).eval()
    fused = fuse(model)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(fused, (image(2),), dynamic_shapes={"images": {0: batch}}, strict=False)
    with torch.no_grad():
        for count in (1, 3):
            got, want = program.module()(image(count)).final, fused(image(count)).final
            torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got.boxes, want.boxes, rtol=1e-4, atol=1e-5)
