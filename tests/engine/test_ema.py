import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flexdetr.engine.ema import AveragedModel


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_follows_the_formula_over_weights_and_statistics():
    model = network()
    averaged = AveragedModel(model, 0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(1, 6):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1)
        averaged.update(model)
        decay = 0.9 * (1 - math.exp(-update / 10))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
    for name, value in averaged.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_continues_exactly():
    model = network()
    one = AveragedModel(model, 0.99)
    one.update(model)
    other = AveragedModel(network(1), 0.99)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        model[0].weight.mul_(2)
    one.update(model)
    other.update(model)
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Calls(TorchDispatchMode):
    """Names of the operations that write, as a GPU would be given them."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_an_update_is_two_calls_however_many_norms_there_are():
    model = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(5)))
    for count, norm in enumerate(model):
        norm.num_batches_tracked.fill_(count)
    averaged = AveragedModel(network := copy.deepcopy(model), 0.9)
    for norm in network:
        norm.num_batches_tracked += 7
    with Calls() as calls:
        averaged.update(network)
    assert calls.names == ["aten::_foreach_lerp_.Scalar", "aten::_foreach_copy_"]
    assert [int(norm.num_batches_tracked) for norm in averaged.model] == [7, 8, 9, 10, 11]


def test_the_copy_is_never_trained():
    averaged = AveragedModel(network(), 0.9)
    assert not averaged.model.training
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())


def test_refuses_a_foreign_state():
    with pytest.raises(TypeError):
        AveragedModel(network(), 0.9).load_state_dict({"model": 3, "updates": "no"})
