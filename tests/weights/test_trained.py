"""Which parts of a detector start trained."""

from __future__ import annotations

import json

import pytest
from torch import nn

from flexdetr.weights.trained import TrainedParts


@pytest.fixture
def model() -> nn.Module:
    parts = {"backbone": nn.Linear(2, 2), "encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)}
    model = nn.Module()
    for name, part in {**parts, "empty": nn.ReLU()}.items():
        model.add_module(name, part)
    return model


def test_parts_are_told_apart_by_what_was_loaded(model: nn.Module) -> None:
    assert TrainedParts.of(model) == TrainedParts(random=("backbone", "encoder", "head"))
    partly = TrainedParts.of(model, ["backbone.weight", "backbone.bias", "encoder.weight", "nowhere.weight"])
    assert partly == TrainedParts(("backbone", "encoder"), ("head",), frozenset({"encoder.bias"}))
    assert TrainedParts.whole(model) == TrainedParts(("backbone", "encoder", "head"))


def test_only_a_whole_detector_is_all_trained(model: nn.Module) -> None:
    assert TrainedParts.whole(model).all_trained
    assert not TrainedParts.of(model, ["backbone.weight"]).all_trained
    assert not TrainedParts().all_trained


def test_there_and_back(model: nn.Module) -> None:
    parts = TrainedParts.of(model, ["backbone.weight"])
    assert TrainedParts.from_json(json.loads(json.dumps(parts.to_json()))) == parts


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        ((), "nothing is trained yet"),
        (("backbone.weight", "backbone.bias"), "the backbone is trained, the encoder and the head are not"),
        (
            ("backbone.bias",),
            "the backbone is trained but for 1 new weight, the encoder and the head are not",
        ),
        (
            ("backbone.weight", "encoder.bias", "head.bias"),
            "the whole model is trained but for 3 new weights",
        ),
    ],
)
def test_a_clause(model: nn.Module, loaded: tuple[str, ...], text: str) -> None:
    assert str(TrainedParts.of(model, loaded)) == text
