"""Query selection and refinement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flexdetr.config import Config
from flexdetr.model.heads.rtdetr.head import RTDETRHead
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.model.outputs import Targets

CONFIG = RTDETROptions(width=16, layers=3, ffn=24, heads=2, queries=6, points=(3, 2), denoising=4)


@pytest.fixture
def decoder(randomise: Callable[..., nn.Module]) -> RTDETRHead:
    torch.manual_seed(0)
    module = randomise(RTDETRHead(CONFIG, (12, 12), (8, 16), 4)).eval()
    assert isinstance(module, RTDETRHead)
    return module


@pytest.fixture
def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 12, 8, 12), torch.randn(2, 12, 4, 6)]


def test_the_best_tokens_become_queries(decoder: RTDETRHead, levels: list[Tensor]) -> None:
    memory, shapes = decoder.memory(levels)
    assert shapes == [(8, 12), (4, 6)]
    content, box_logits, prediction = decoder.select(memory, shapes, 6)
    scores = decoder.encoder_score(decoder.memory_norm(decoder.memory_proj(memory)))
    best = scores.max(-1).values.sort(-1, descending=True).values[:, :6]
    torch.testing.assert_close(prediction.logits.max(-1).values, best)
    torch.testing.assert_close(box_logits.sigmoid(), prediction.boxes)
    assert not content.requires_grad
    assert not box_logits.requires_grad
    assert prediction.boxes.requires_grad


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_layers_answer_as_the_training_layers_do(
    decoder: RTDETRHead, levels: list[Tensor], count: int
) -> None:
    with torch.no_grad():
        answer = decoder(levels, decoder_layers=count)
        decoder.train()
        decoder.input_proj.eval()  # the norms keep their statistics
        trained = decoder(levels)
    assert not answer.aux
    want = [*trained.aux, trained.final][count - 1]
    torch.testing.assert_close(answer.final.logits, want.logits)
    torch.testing.assert_close(answer.final.boxes, want.boxes)


def test_number_of_queries(decoder: RTDETRHead, levels: list[Tensor]) -> None:
    assert decoder(levels, queries=2).final.boxes.shape == (2, 2, 4)
    assert decoder(levels).final.logits.shape == (2, 6, 4)
    everything = decoder(levels, queries=10_000)
    assert everything.final.boxes.shape == (2, 8 * 12 + 4 * 6, 4)


@pytest.mark.parametrize("options", [{"decoder_layers": 0}, {"decoder_layers": 4}, {"queries": 0}])
def test_impossible_numbers_are_refused(
    decoder: RTDETRHead, levels: list[Tensor], options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        decoder(levels, **options)


def test_training_runs_all_layers(decoder: RTDETRHead, levels: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="for inference"):
        decoder.train()(levels, decoder_layers=2)


def test_configured_layers_run_at_inference(levels: list[Tensor]) -> None:
    decoder = RTDETRHead(CONFIG.model_copy(update={"eval_layers": 2}), (12, 12), (8, 16), 4).eval()
    with torch.no_grad():
        torch.testing.assert_close(decoder(levels).final, decoder(levels, decoder_layers=2).final)
        assert len(decoder.train()(levels).aux) == 2


def test_gradients_look_forward_twice(decoder: RTDETRHead, levels: list[Tensor]) -> None:
    """A layer's box teaches its own step and the one before (DINO, section 3.4), and none further back."""
    decoder.train()
    output = decoder(levels)
    output.final.boxes.sum().backward()
    reached = [
        head.layers[-1].bias.grad is not None and bool(head.layers[-1].bias.grad.any())
        for head in decoder.boxes
    ]
    assert reached == [False, True, True]


def test_denoising_queries_do_not_reach_the_others(
    decoder: RTDETRHead, levels: list[Tensor], objects: Callable[..., Targets]
) -> None:
    decoder.train()
    decoder.input_proj.eval()
    with torch.no_grad():
        with_them, without = decoder(levels, objects(3, 1)), decoder(levels)
    assert with_them.plan is not None
    assert with_them.plan.num_queries == with_them.denoising[0].boxes.shape[1] == 6
    assert len(with_them.denoising) == 3
    for got, want in zip((*with_them.aux, with_them.final), (*without.aux, without.final), strict=True):
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.boxes, want.boxes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_every_parameter_gets_a_gradient(
    decoder: RTDETRHead, levels: list[Tensor], objects: Callable[..., Targets], counts: tuple[int, int]
) -> None:
    """Also without a single object: all ranks of a distributed run have to reduce the same parameters."""
    decoder.train()
    output = decoder(levels, objects(*counts))
    every = [output.final, *output.aux, output.encoder, *output.denoising]
    sum(
        part.square().sum() for prediction in every for part in (prediction.logits, prediction.boxes)
    ).backward()
    missing = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_anchors_grow_with_the_stride(decoder: RTDETRHead) -> None:
    sides = decoder.constants([(8, 12), (4, 6)])["anchors"].sigmoid()[0, [0, -1], 2]
    torch.testing.assert_close(sides, torch.tensor([0.05, 0.1]))


def test_deims_variant(levels: list[Tensor], objects: Callable[..., Targets]) -> None:
    """SiLU wherever there was ReLU, and query positions from three layers of one width."""
    torch.manual_seed(0)
    head = RTDETRHead(
        CONFIG.model_copy(update={"activation": "silu", "position_layers": 3}), (12, 12), (8, 16), 4
    ).train()
    assert [tuple(layer.weight.shape) for layer in head.query_position.layers] == [
        (16, 4),
        (16, 16),
        (16, 16),
    ]
    assert not [part for part in head.modules() if isinstance(part, nn.ReLU)]
    assert len(head(levels, objects(2, 1)).aux) == 2


def test_bf16_predictions_are_precise(decoder: RTDETRHead, levels: list[Tensor]) -> None:
    with torch.no_grad():
        want = decoder(levels)
        with torch.autocast("cpu", torch.bfloat16):
            got = decoder(levels)
        half = decoder.bfloat16()([level.bfloat16() for level in levels])
    assert got.final.boxes.dtype == got.final.logits.dtype == half.final.boxes.dtype == torch.float32
    assert got.final.boxes.shape == half.final.boxes.shape == want.final.boxes.shape


def test_the_published_start(small: Callable[..., Config]) -> None:
    """Scores of 0.01, and boxes that are the anchors."""
    section = small().head
    decoder = RTDETRHead(section, (32, 32), (8, 16), 4).eval()
    levels = [torch.randn(1, 32, 8, 12), torch.randn(1, 32, 4, 6)]
    memory, shapes = decoder.memory(levels)
    _, box_logits, _ = decoder.select(memory, shapes, 5)
    answer = decoder(levels, queries=5).final
    torch.testing.assert_close(answer.boxes, box_logits.sigmoid(), rtol=1e-4, atol=1e-5)
    assert all((score.bias.sigmoid() - 0.01).abs().max() < 1e-6 for score in decoder.scores)
