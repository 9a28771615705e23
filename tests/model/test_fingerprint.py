"""A fingerprint follows every change of a weight, however it was made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexdetr.model.fingerprint import _of_array, _of_tensor, fingerprint


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 5), nn.BatchNorm2d(40), nn.Conv2d(40, 40, 3), nn.Linear(7, 3).half()
    )


CHANGES = {
    "one number, by as little as there is": lambda x: x.view(-1)[-1:].copy_(
        torch.nextafter(x.view(-1)[-1:].float(), torch.tensor([9.0])).to(x)
    ),
    "the sign of all": torch.Tensor.neg_,
    "a scale": lambda x: x.mul_(1.5),
    "zeros": torch.Tensor.zero_,
    "the order of channels": lambda x: x.copy_(x.flip(0)),
    "the order of inputs": lambda x: x.copy_(x.roll(1, 1)),
    "two numbers": lambda x: x.view(-1)[:2].copy_(x.view(-1)[:2].flip(0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_changes_through_data(name: str, change: str) -> None:
    model = network()
    before = fingerprint(model)
    assert fingerprint(model) == before
    versions = [value._version for value in model.parameters()]
    CHANGES[change](model.get_parameter(name).data)
    assert versions == [value._version for value in model.parameters()], "torch does not tell"
    assert fingerprint(model) != before


def test_changes_by_other_ways() -> None:
    model = network()
    seen = {fingerprint(model)}
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    seen.add(fingerprint(model))
    model[1].running_mean[0] = 5
    seen.add(fingerprint(model))
    model[1].num_batches_tracked.add_(1)
    seen.add(fingerprint(model))
    model[2].weight.data = model[2].weight.data.clone() * 2
    seen.add(fingerprint(model))
    model[3].bias.data[0] = 3
    seen.add(fingerprint(model))
    with torch.inference_mode():
        model[0].bias.copy_(torch.ones(40))
        seen.add(fingerprint(model))
    assert len(seen) == 7


def test_what_changes_no_weight() -> None:
    model = network()
    before = fingerprint(model)
    model.requires_grad_(False).eval()
    model[0](torch.rand(1, 3, 8, 8))
    with torch.inference_mode():
        assert fingerprint(model) == before
    assert fingerprint(network()) == before, "where the weights lie does not count"


def test_models_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = network()
    before = fingerprint(model)
    with torch.inference_mode():
        model[2].weight.mul_(2)
    assert fingerprint(model) != before


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3 * 251 * 8), st.randoms(use_true_random=False))
def test_what_is_computed_on_other_devices_is_the_same(count: int, random: object) -> None:
    values = np.frombuffer(random.randbytes(count), np.uint8).copy()  # type: ignore[attr-defined]
    ours, theirs = _of_array(values), _of_tensor(torch.from_numpy(values))
    for one, other in itertools.zip_longest(ours, theirs):
        assert one.tobytes() == other.tobytes()
