"""Scores, boxes and places are computed in float32 under autocast, by every head."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flexdetr.config import Config
from flexdetr.model.detector import DetectionModel
from flexdetr.model.heads import HEADS, heads_of, shared_options
from flexdetr.model.outputs import Targets
from flexdetr.model.precision import precisely, widen, without_autocast

BF16 = torch.bfloat16


@pytest.fixture(params=heads_of("detect"))
def detector(
    request: pytest.FixtureRequest,
    small: Callable[..., Config],
    randomise: Callable[..., nn.Module],
    image: Callable[..., Tensor],
) -> DetectionModel:
    torch.manual_seed(0)
    config = small()
    options = HEADS[request.param].options(**shared_options(config.head.model_dump(), request.param))
    model = randomise(DetectionModel(config.model_copy(update={"head": options}), 4), image(2)).eval()
    assert isinstance(model, DetectionModel)
    return model


def rounded(x: Tensor) -> float:
    """The share of values that bf16 holds exactly: about 1 in 65536 by chance, all of them where bf16 made them."""
    return float((x == x.to(BF16).to(x.dtype)).double().mean())


def in_layers(model: DetectionModel, run: Callable[[], object]) -> dict[str, set[torch.dtype]]:
    """The types that each layer of the head was given and gave."""
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda _layer, given, gave: seen.setdefault(name, set()).update({given[0].dtype, gave.dtype})

    handles = [
        layer.register_forward_hook(watch(name))
        for name, layer in model.head.named_modules()  # type: ignore[attr-defined]  # a Head is a module
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def test_what_a_head_calls_sensitive_is_computed_in_float32(
    detector: DetectionModel, image: Callable[..., Tensor], objects: Callable[..., Targets]
) -> None:
    """In training as well, with denoising queries."""

    def both() -> None:
        with torch.autocast("cpu", BF16):
            with torch.no_grad():
                detector(image(2))
            detector.train()(image(2), objects(2, 1))

    types = in_layers(detector, both)
    patterns = detector.head.sensitive()
    precise = {name for name in types if any(re.fullmatch(pattern, name) for pattern in patterns)}
    assert any(re.fullmatch(pattern, detector.head.selector) for pattern in patterns)
    assert len(precise) > 3
    assert all(types[name] == {torch.float32} for name in precise)
    others = [kinds for name, kinds in types.items() if name not in precise]
    assert len(others) > 3
    assert all(BF16 in kinds for kinds in others), "the rest is what bf16 makes faster"


def test_logits_are_not_rounded(detector: DetectionModel, image: Callable[..., Tensor]) -> None:
    """Logits that were rounded to bf16 and widened tie, and the order of ties decides which queries are best."""
    tokens: list[Tensor] = []
    detector.head.get_submodule(detector.head.selector).register_forward_hook(
        lambda _layer, _given, gave: tokens.append(gave)
    )
    with torch.no_grad(), torch.autocast("cpu", BF16):
        final = detector(image(2)).final
    for logits in (*tokens, final.logits):
        assert logits.dtype == torch.float32
        assert rounded(logits) < 0.01
        best = logits.max(-1).values
        assert len(best.unique()) == best.numel()
    assert final.boxes.dtype == torch.float32
    assert rounded(final.boxes) < 0.01


def test_gradients_reach_everything_under_autocast(
    detector: DetectionModel, image: Callable[..., Tensor], objects: Callable[..., Targets]
) -> None:
    detector.train()
    with torch.autocast("cpu", BF16):
        output = detector(image(2), objects(2, 1))
    answers = [*output.aux, *output.denoising, output.final, output.encoder, output.pre, output.pre_denoising]
    parts = [part for answer in answers if answer is not None for part in answer]
    sum(part.square().sum() for part in parts if part is not None and part.requires_grad).backward()
    assert not [name for name, value in detector.named_parameters() if value.grad is None]


def test_whole_models_in_bf16_answer_in_float32(
    detector: DetectionModel, image: Callable[..., Tensor]
) -> None:
    with torch.no_grad():
        final = detector.to(BF16)(image().to(BF16)).final
    assert final.logits.dtype == final.boxes.dtype == torch.float32


@pytest.mark.parametrize("lowered", [False, True])
def test_a_head_compiles_whole(detector: DetectionModel, image: Callable[..., Tensor], lowered: bool) -> None:
    """Without breaks of the graph, with and without autocast; the arithmetic itself is left to torch here."""
    with torch.no_grad(), torch.autocast("cpu", BF16, enabled=lowered):
        levels = detector.encoder(detector.backbone(image()))
        compiled = torch.compile(detector.head, fullgraph=True, backend="eager")
        found, expected = compiled(levels).final, detector.head(levels).final
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_exported_graphs_hold_no_autocast(detector: DetectionModel, image: Callable[..., Tensor]) -> None:
    with torch.no_grad():
        program = torch.export.export(detector, (image(),))
    assert "autocast" not in str(program.graph)


def test_precisely_computes_as_the_layer_does() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    short = x.to(BF16)
    expected = layer(short.float())
    with torch.autocast("cpu", BF16):
        assert layer(x).dtype == BF16
        assert torch.equal(precisely(layer, short), expected)
        assert precisely(torch.matmul, short, x.T).dtype == torch.float32
        assert layer(x).dtype == BF16, "autocast goes on behind it"
    assert torch.equal(precisely(layer, x), layer(x))


def test_precisely_keeps_wider_types_and_whole_numbers() -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    assert precisely(nn.Linear(2, 2).double(), x).dtype == torch.float64
    assert precisely(torch.sigmoid, x).dtype == torch.float64
    index = torch.tensor([[0, 1, 0]]).T
    picked = precisely(lambda values, places: values.gather(1, places), x.to(BF16), index)
    assert torch.equal(picked, x.to(BF16).float().gather(1, index))


def test_precisely_computes_in_the_type_of_narrow_weights() -> None:
    layer = nn.Linear(2, 2).half()
    x = torch.randn(3, 2)
    assert torch.equal(precisely(layer, x), layer(x.half()).float())


def test_without_autocast_is_empty_where_there_is_none() -> None:
    with without_autocast(torch.device("cpu")) as context:
        assert context is None
    x = torch.randn(2, 2)
    assert widen(x) is x
    assert widen(x.half()).dtype == torch.float32
