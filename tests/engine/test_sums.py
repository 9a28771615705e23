import torch

from fakes.gpu import GPU, FakeGPU
from flexdetr.engine.sums import TermSums

CPU = torch.device("cpu")


def terms(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_terms_that_come_and_go_are_added_by_name():
    sums = TermSums(CPU)
    sums.add({})
    sums.add(terms(l1=1.0, giou=2.0))
    sums.add(terms(giou=0.5, denoising=4.0))
    sums.add(terms(l1=3.0))
    assert sums.read() == {"l1": 4.0, "giou": 2.5, "denoising": 4.0}
    sums.clear()
    assert sums.read() == {}


def test_sums_go_on_exactly_from_what_was_read():
    """Tenths have no exact form: another order of additions would show."""
    whole, resumed = TermSums(CPU), TermSums(CPU)
    for step in range(7):
        whole.add(terms(l1=0.1 * step, giou=0.3))
        whole.add(terms(giou=0.7))
        if step == 3:
            resumed.load(whole.read())
        elif step > 3:
            resumed.add(terms(l1=0.1 * step, giou=0.3))
            resumed.add(terms(giou=0.7))
    assert resumed.read() == whole.read()
    assert list(resumed.read()) == ["l1", "giou"]


def test_adding_waits_for_nothing_and_reading_waits_once():
    with FakeGPU() as gpu:
        sums = TermSums(GPU)
        values = {name: value.to(GPU) for name, value in terms(l1=1.0, giou=2.0).items()}
        gpu.reset()
        for _ in range(3):
            sums.add(values)
        assert not gpu.syncs
        assert not any(copy.waits for copy in gpu.copies)
        assert len(gpu.copies) == 1, "where the terms go is copied when they are first seen"
        assert sums.read() == {"l1": 3.0, "giou": 6.0}
        assert sum(gpu.syncs.values()) == 1
