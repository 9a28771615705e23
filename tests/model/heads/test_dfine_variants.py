"""DEIMv2's variants of the head of edge distributions: each option, and all of them together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.model.heads.dfine.head import DFINEHead
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.outputs import Prediction, Targets

ALL = {
    "norm": "rms",
    "feed_forward": "swiglu",
    "gate": False,
    "project_tokens": False,
    "position_layers": 3,
    "position_once": True,
    "shared_boxes": True,
    "activation": "silu",
}


def head_of(randomise: Callable[..., nn.Module], **options: object) -> DFINEHead:
    torch.manual_seed(0)
    config = DFINEOptions(
        width=16, layers=3, ffn=24, heads=2, queries=6, points=(3, 2), denoising=4, **options
    )
    module = randomise(DFINEHead(config, (12, 12), (8, 16), 4)).eval()
    assert isinstance(module, DFINEHead)
    return module


@pytest.fixture
def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 12, 8, 12), torch.randn(2, 12, 4, 6)]


@pytest.mark.parametrize("options", [{key: value} for key, value in ALL.items()] + [ALL], ids=[*ALL, "all"])
def test_every_variant_learns_and_folds(
    options: dict[str, object],
    randomise: Callable[..., nn.Module],
    levels: list[Tensor],
    objects: Callable[..., Targets],
    query_difference: Callable[[Prediction, Prediction], float],
) -> None:
    head = head_of(randomise, **options).train()
    head.input_proj.eval()
    output = head(levels, objects(2, 1))
    layers = [output.final, *output.aux, output.encoder, output.pre, *output.denoising, output.pre_denoising]
    sum(part.square().sum() for layer in layers for part in layer if part is not None).backward()
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]
    with torch.no_grad():
        want = head.eval()(levels, decoder_layers=2).final
        head.fold(2)
        assert query_difference(head(levels).final, want) < 1e-6


def test_tokens_are_the_memory_itself(randomise: Callable[..., nn.Module], levels: list[Tensor]) -> None:
    head = head_of(randomise, project_tokens=False)
    memory, shapes = head.memory(levels)
    chosen = head.select(memory, shapes, 5)
    scores = head.encoder_score(memory).max(-1).values
    best = scores.topk(5, dim=1).indices[..., None].expand(-1, -1, 16)
    torch.testing.assert_close(chosen.content, memory.gather(1, best))


@pytest.mark.parametrize("once", [True, False])
def test_positions_stay_or_follow_the_boxes(
    once: bool, randomise: Callable[..., nn.Module], levels: list[Tensor]
) -> None:
    head = head_of(randomise, position_once=once)
    seen: list[Tensor] = []
    for layer in head.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        head(levels)
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1]) is once
    assert torch.equal(seen[1], seen[2]) is once


def test_one_box_head_is_one_set_of_weights(randomise: Callable[..., nn.Module]) -> None:
    shared, own = head_of(randomise, shared_boxes=True), head_of(randomise)
    assert (len(shared.boxes), len(own.boxes)) == (1, 3)


def test_without_a_gate_the_two_are_added(randomise: Callable[..., nn.Module]) -> None:
    layer = head_of(randomise, **ALL).layers[0]
    query, memory = torch.randn(2, 6, 16), torch.randn(2, 120, 16)
    position, reference, shapes = torch.randn(2, 6, 16), torch.rand(2, 6, 4), [(8, 12), (4, 6)]

    def rms(norm: nn.Module, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.get_parameter("weight")

    with torch.no_grad():
        x = rms(layer.norm1, query + layer.attention(query, position, None))
        x = rms(layer.norm2, x + layer.cross_attention(x + position, reference, memory, shapes))
        gate, value = layer.feed_forward.linear1(x).split(12, -1)
        want = rms(layer.norm3, x + layer.feed_forward.linear2(F.silu(gate) * value))
        torch.testing.assert_close(layer(query, position, reference, memory, shapes, None), want)
