"""Queries whose boxes are distributions of edges, corrected layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flexdetr.model.heads.dfine.head import DFINEHead
from flexdetr.model.heads.dfine.layer import QualityEstimator, TargetGate
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.outputs import Prediction, Targets

CONFIG = DFINEOptions(width=16, layers=3, ffn=24, heads=2, queries=6, points=(3, 2), denoising=4)
STRIDES = (8, 16)


@pytest.fixture
def head(randomise: Callable[..., nn.Module]) -> DFINEHead:
    torch.manual_seed(0)
    module = randomise(DFINEHead(CONFIG, (12, 12), STRIDES, 4)).eval()
    assert isinstance(module, DFINEHead)
    return module


@pytest.fixture
def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 12, 8, 12), torch.randn(2, 12, 4, 6)]


def train(head: DFINEHead) -> DFINEHead:
    """In training, with norms that keep their statistics."""
    head.train()
    head.input_proj.eval()
    return head


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_layers_answer_as_the_training_layers_do(
    head: DFINEHead, levels: list[Tensor], count: int
) -> None:
    with torch.no_grad():
        answer = head(levels, decoder_layers=count)
        trained = train(head)(levels)
    assert not answer.aux
    assert answer.pre is None
    assert answer.final.corners is None
    want = [*trained.aux, trained.final][count - 1]
    torch.testing.assert_close(answer.final.logits, want.logits)
    torch.testing.assert_close(answer.final.boxes, want.boxes)


def test_boxes_are_the_sum_of_corrections_from_one_box(head: DFINEHead, levels: list[Tensor]) -> None:
    """Every layer's boxes are its corners, measured from the first layer's plain boxes."""
    output = train(head)(levels)
    assert output.pre is not None
    start = output.pre.boxes.detach()
    for layer in (*output.aux, output.final):
        assert layer.corners is not None
        assert layer.corners.shape == (2, 6, 4 * 33)
        assert layer.reference is not None
        assert not layer.reference.requires_grad
        torch.testing.assert_close(layer.reference, start)
        torch.testing.assert_close(layer.boxes, head.distributions(layer.corners, start))


def test_gradients_reach_earlier_corners_and_no_reference(head: DFINEHead, levels: list[Tensor]) -> None:
    output = train(head)(levels)
    output.final.boxes.sum().backward()
    assert all(bool(mlp.layers[-1].bias.grad.any()) for mlp in head.boxes)
    assert head.pre_box.layers[-1].bias.grad is None
    assert head.encoder_box.layers[-1].bias.grad is None


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_every_parameter_gets_a_gradient(
    head: DFINEHead, levels: list[Tensor], objects: Callable[..., Targets], counts: tuple[int, int]
) -> None:
    """Also without a single object: all ranks of a distributed run have to reduce the same parameters."""
    output = head.train()(levels, objects(*counts))
    every = [output.final, *output.aux, output.encoder, output.pre, *output.denoising]
    sum(part.square().sum() for prediction in every for part in prediction[:2]).backward()
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_denoising_queries_are_apart_from_the_others(
    head: DFINEHead, levels: list[Tensor], objects: Callable[..., Targets]
) -> None:
    train(head)
    with torch.no_grad():
        with_them, without = head(levels, objects(3, 1)), head(levels)
    assert with_them.plan is not None
    assert with_them.pre_denoising is not None
    assert with_them.plan.num_queries == with_them.pre_denoising.boxes.shape[1] == 6
    assert [layer.boxes.shape[1] for layer in with_them.denoising] == [6, 6, 6]
    for layer in with_them.denoising:
        assert layer.reference is not None
        torch.testing.assert_close(layer.reference, with_them.pre_denoising.boxes)
    pairs = zip(
        (with_them.pre, *with_them.aux, with_them.final),
        (without.pre, *without.aux, without.final),
        strict=True,
    )
    for got, want in pairs:
        torch.testing.assert_close(got[:2], want[:2], rtol=1e-4, atol=1e-5)


def test_the_deploy_form_drops_what_it_does_not_need(
    head: DFINEHead, levels: list[Tensor], query_difference: Callable[[Prediction, Prediction], float]
) -> None:
    with torch.no_grad():
        want = head(levels, decoder_layers=2).final
        everything = sum(parameter.numel() for parameter in head.parameters())
        head.fold(2)
        assert query_difference(head(levels).final, want) < 1e-6
    assert list(head.scores) == ["1"]
    assert (len(head.layers), len(head.boxes), head.trained_layers, head.denoising) == (2, 2, 2, None)
    assert sum(parameter.numel() for parameter in head.parameters()) < everything
    with pytest.raises(ValueError, match="scores after 2 decoder layers only; got 1"):
        head(levels, decoder_layers=1)


def test_the_number_of_layers_stays_free_where_none_is_chosen(head: DFINEHead, levels: list[Tensor]) -> None:
    with torch.no_grad():
        want = head(levels, decoder_layers=1).final
        head.fold()
        torch.testing.assert_close(head(levels, decoder_layers=1).final, want)
    with pytest.raises(ValueError, match="between 1 and 3; got 4"):
        head.fold(4)


@pytest.mark.parametrize("options", [{"decoder_layers": 0}, {"decoder_layers": 4}, {"queries": 0}])
def test_impossible_numbers_are_refused(
    head: DFINEHead, levels: list[Tensor], options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        head(levels, **options)


def test_the_split_form_is_the_whole_one(
    head: DFINEHead, levels: list[Tensor], query_difference: Callable[[Prediction, Prediction], float]
) -> None:
    """Boards choose the queries on the host, between two graphs."""
    with torch.no_grad():
        memory, tokens, scores, boxes = head.encode(levels, head.constants([(8, 12), (4, 6)]))
        best = scores.max(-1).values.topk(6, 1).indices[..., None]
        content = tokens.gather(1, best.expand(-1, -1, 16))
        reference = boxes.gather(1, best.expand(-1, -1, 4))
        got = Prediction(*head.decode(content, reference, memory, [(8, 12), (4, 6)], 3))
        assert query_difference(got, head(levels).final) < 1e-5


def test_the_gate_starts_at_a_half_each() -> None:
    gate = TargetGate(4, nn.Identity())
    query, attended = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    torch.testing.assert_close(gate(query, attended), (query + attended) / 2)


def test_quality_sees_the_largest_shares_of_each_edge() -> None:
    estimator = QualityEstimator(nn.ReLU, top=2, hidden=3)
    seen: list[Tensor] = []
    estimator.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = torch.tensor([0.1, 0.6, 0.3]).log().repeat(4)[None, None]
    assert estimator(logits).shape == (1, 1, 1)
    torch.testing.assert_close(seen[0][0, 0].view(4, 3), torch.tensor([[0.6, 0.3, 0.45]]).expand(4, 3))
    torch.testing.assert_close(estimator(logits), torch.zeros(1, 1, 1))  # before training


def test_levels_of_its_own_width_are_not_projected() -> None:
    assert not list(DFINEHead(CONFIG, (16, 16), STRIDES, 4).input_proj.parameters())
    assert list(DFINEHead(CONFIG, (12, 12), STRIDES, 4).input_proj.parameters())


def test_anchors_start_at_the_finest_level() -> None:
    sides = (
        DFINEHead(CONFIG, (16, 16), (16, 32), 4).constants([(8, 12), (4, 6)])["anchors"].sigmoid()[0, :, 2]
    )
    torch.testing.assert_close(sides[[0, -1]], torch.tensor([0.05, 0.1]))


def test_the_published_start(levels: list[Tensor]) -> None:
    """Scores of 0.01, and boxes that are the anchors through all layers."""
    torch.manual_seed(0)
    head = DFINEHead(CONFIG, (12, 12), STRIDES, 4).eval()
    with torch.no_grad():
        memory, shapes = head.memory(levels)
        selected = head.select(memory, shapes, 5)
        answer = head(levels, queries=5).final
    torch.testing.assert_close(answer.boxes, selected.box_logits.sigmoid(), rtol=1e-4, atol=1e-5)
    assert all((score.linear.bias.sigmoid() - 0.01).abs().max() < 1e-6 for score in head.scores.values())


def test_bf16_predictions_are_precise(head: DFINEHead, levels: list[Tensor]) -> None:
    with torch.no_grad():
        want = head(levels)
        with torch.autocast("cpu", torch.bfloat16):
            got = head(levels)
        half = head.bfloat16()([level.bfloat16() for level in levels])
    assert got.final.boxes.dtype == got.final.logits.dtype == half.final.boxes.dtype == torch.float32
    assert got.final.boxes.shape == half.final.boxes.shape == want.final.boxes.shape


def test_silu_is_everywhere() -> None:
    head = DFINEHead(CONFIG.model_copy(update={"activation": "silu"}), (12, 12), STRIDES, 4)
    assert not [part for part in head.modules() if isinstance(part, nn.ReLU)]
    assert len([part for part in head.modules() if isinstance(part, nn.SiLU)]) == 12
