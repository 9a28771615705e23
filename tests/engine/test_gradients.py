"""Gradients of several ranks leave while the backward pass runs; the other ranks are fakes that have the same ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flexdetr.engine import gradients
from flexdetr.engine.distributed import Ranks
from flexdetr.engine.gradients import GradientSum


class Exchange:
    """Stands in for torch.distributed between two ranks with the same gradients; sums arrive when waited for."""

    def __init__(self):
        self.sent, self.groups = [], 0

    def new_group(self):
        self.groups += 1
        return f"group {self.groups}"

    def all_reduce(self, flat, group, async_op):
        assert async_op
        assert group == "group 1"
        self.sent.append(flat.numel())
        return SimpleNamespace(wait=lambda: flat.mul_(2))


@pytest.fixture
def exchange(monkeypatch):
    one = Exchange()
    monkeypatch.setattr(gradients, "dist", one)
    return one


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))


def sums(model, numbers=1):
    return GradientSum(model.parameters(), Ranks(0, 2), numbers)


def backward(model, layers=3):
    model[:layers](torch.ones(1, 3)).sum().backward()


def test_all_but_the_first_layer_leave_before_the_backward_pass_reaches_it(exchange):
    model = network()
    summed = sums(model)
    before = []
    model[0].weight.register_hook(lambda _gradient: before.extend(exchange.sent))
    summed.listen(last=True)
    backward(model)
    assert before == [2, 10, 5, 20, 4]  # a layer's bias before its weight, from the last layer on
    assert exchange.sent == [2, 10, 5, 20, 4, 12]
    summed.finish()
    assert exchange.sent == [2, 10, 5, 20, 4, 12]


def test_few_messages_carry_many_gradients(exchange):
    model = network()
    summed = sums(model, numbers=20)
    summed.listen(last=True)
    backward(model)
    summed.finish()
    assert exchange.sent == [17, 20, 16]


def test_each_gradient_becomes_the_sum(exchange):
    model, alone = network(), network()
    summed = sums(model, numbers=20)
    for _ in range(2):
        model.zero_grad()
        summed.listen(last=True)
        backward(model)
        summed.finish()
    backward(alone)
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one.grad, 2 * other.grad)


def test_micro_batches_are_sent_once_together(exchange):
    model = network()
    summed = sums(model)
    summed.listen(last=False)
    backward(model)
    assert exchange.sent == []
    summed.listen(last=True)
    backward(model)
    summed.finish()
    assert len(exchange.sent) == 6
    assert torch.equal(model[2].bias.grad, torch.full((2,), 4.0))  # two passes, two ranks


def test_a_rank_without_some_gradients_sends_what_the_others_send(exchange):
    """Its loss does not reach the last layer: nothing may leave before that layer's zeros."""
    model = network()
    summed = sums(model)
    summed.listen(last=True)
    backward(model, layers=2)
    assert exchange.sent == []
    summed.finish()
    assert exchange.sent == [2, 10, 5, 20, 4, 12]
    assert not model[2].weight.grad.any()


def test_a_pass_that_ran_out_of_memory_sends_nothing_twice(exchange):
    model = network()
    summed = sums(model)

    def fails(_gradient):
        raise torch.OutOfMemoryError("no memory left, says a test")

    hook = model[1].weight.register_hook(fails)
    summed.listen(last=True)
    with pytest.raises(torch.OutOfMemoryError):
        backward(model)
    sent = list(exchange.sent)
    assert sent == [2, 10, 5]
    hook.remove()
    model.zero_grad()
    summed.listen(last=False)
    backward(model)
    summed.listen(last=True)
    backward(model)
    summed.finish()
    assert exchange.sent == [2, 10, 5, 20, 4, 12]
    assert torch.equal(model[2].bias.grad, torch.full((2,), 2.0)), "what was sent first counts"
    assert torch.equal(model[0].bias.grad, 4 * _bias_gradient())


def _bias_gradient():
    model = network()
    backward(model)
    return model[0].bias.grad


def test_one_process_sends_nothing(exchange):
    model = network()
    summed = GradientSum(model.parameters(), Ranks())
    summed.listen(last=True)
    backward(model)
    summed.finish()
    assert (exchange.sent, exchange.groups) == ([], 0)
