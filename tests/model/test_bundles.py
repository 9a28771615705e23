"""Which channels go together is right for the families of presets: the narrow network is the whole one without them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from flexdetr.model.bundles import (
    EXACT,
    MULTIPLE,
    Bundle,
    _removable,
    deviation,
    find_bundles,
    remove_channels,
)
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.pruned import differing, narrow
from flexdetr.model.size import measure_module
from flexdetr.presets import resolve

pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'flexdetr[prune]'")

HEAD = {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0}
ENCODER = {"width": 32, "ffn": 48, "heads": 4}


def detector(preset: str, **changes: object) -> DetectionModel:
    """A preset's backbone and fusion with a narrow encoder and head, and nothing that is 0 or 1 in a norm."""
    torch.manual_seed(0)
    model = DetectionModel(resolve(preset, image_size=64, encoder=ENCODER, head=HEAD, **changes), 3).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
                part.running_mean.uniform_(-0.1, 0.1)
    return model


@pytest.fixture(scope="module", params=["flexdetr_nano", "flexdetr_lite0", "rtdetr_r18", "rtdetr_hgnetv2_l"])
def model(request: pytest.FixtureRequest) -> DetectionModel:
    return detector(request.param)


@pytest.fixture(scope="module")
def bundles(model: DetectionModel) -> tuple[Bundle, ...]:
    return find_bundles(model)


def test_taking_channels_away_is_exact(model: DetectionModel, bundles: tuple[Bundle, ...]) -> None:
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    exact = detector_in_float64(model)
    assert deviation(exact, bundles, 0.6, images) <= EXACT
    broken = [bundles[0]._replace(members=tuple(_elsewhere(one) for one in bundles[0].members)), *bundles[1:]]
    assert deviation(exact, broken, 0.6, images) > 1e-4


def test_a_narrow_detector_is_smaller_and_can_be_built_again(
    model: DetectionModel, bundles: tuple[Bundle, ...]
) -> None:
    narrowed = remove_channels(model, bundles, 0.5)
    before, after = measure_module(model, (64, 64)), measure_module(narrowed, (64, 64))
    assert after.gflops < 0.7 * before.gflops
    assert after.params < 0.8 * before.params
    again = detector_in_float64(model).float()
    narrow(again, differing(narrowed, model))
    again.load_state_dict(narrowed.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = narrowed(images).final
        torch.testing.assert_close(again(images).final.logits, expected.logits, rtol=0, atol=0)
        torch.testing.assert_close(fuse(again)(images).final.boxes, expected.boxes, rtol=1e-3, atol=1e-4)
    assert narrowed.head.state_dict().keys() == model.head.state_dict().keys()
    assert all(
        torch.equal(value, model.head.state_dict()[name])
        for name, value in narrowed.head.state_dict().items()
    )


def test_more_is_taken_from_the_same_channels(bundles: tuple[Bundle, ...]) -> None:
    for bundle in bundles:
        little, much = bundle.gone(0.25), bundle.gone(0.5)
        assert (much | little).equal(much)
        kept = int((~much).sum())
        assert kept == len(much) or (kept % MULTIPLE == 0 and kept >= 0.5 * len(much))
        if much.any():
            assert bundle.importance[much].max() <= bundle.importance[~much].min()


def test_a_bundle_that_is_wrong_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = detector("flexdetr_nano")
    first, *others = find_bundles(model)
    wrong = first._replace(members=tuple(_elsewhere(one) for one in first.members))
    exact = detector_in_float64(model)
    with caplog.at_level(logging.INFO, logger="flexdetr"):
        assert _removable(exact, [wrong, *others[:3]], torch.rand(1, 3, 64, 64).double()) == others[:3]
    assert wrong.members[0].path in caplog.text


@pytest.mark.parametrize("insert", ["ese", "eca", "cbam"])
def test_channels_that_an_insert_compares_stay_or_go_exactly(insert: str) -> None:
    model = detector("flexdetr_atto", attention={"backbone.16": insert, "encoder.16": insert})
    bundles = find_bundles(model)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert len(bundles) > 10
    assert deviation(detector_in_float64(model), bundles, 0.6, images) <= EXACT


def _elsewhere(member):
    """Where the layer reads, one channel further on."""
    return member._replace(places=(*member.places[1:], member.places[0])) if member.axis == 1 else member


def detector_in_float64(model: DetectionModel) -> DetectionModel:
    import copy

    return copy.deepcopy(model).double()
