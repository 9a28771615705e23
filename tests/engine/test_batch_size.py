import pytest
import torch

from flexdetr.classes import Classes
from flexdetr.engine import batch_size
from flexdetr.engine.checkpoint import blank
from flexdetr.presets import resolve

CPU = torch.device("cpu")


def test_more_memory_holds_more_images_and_the_model_stays_as_it_was(monkeypatch):
    config = resolve("flexdetr_pico", image_size=64)
    model = blank(config, Classes.of(["a"])).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()

    def largest(free):
        monkeypatch.setattr(batch_size, "_free_bytes", lambda _device: free)
        return batch_size.largest_batch(model, config, CPU, torch.float32)

    assert (largest(1), largest(10**13)) == (1, 256)
    each = batch_size._activation_bytes(model, 64, 64, CPU, torch.float32)
    for free in (5 * each, 37 * each, 150 * each):
        size = largest(free)
        assert size in (1, 2, 4, 8, 16, 32, 64)
        assert size * each < 0.7 * free, "the activations alone fit"
        assert size * each > 0.7 * free / 4, "twice as many would not, with what a step needs beside them"
        assert largest(2 * free) == 2 * size
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_the_allocator_keeps_for_later_counts_as_free(monkeypatch):
    """The driver calls the cache of this process taken: it is given back before the driver is asked."""
    cached = [8_000]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: cached.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10_000 - cached[0], 10_000))
    assert batch_size._free_bytes(torch.device("cuda", 0)) == 10_000


def test_larger_images_need_more_in_proportion_to_their_pixels():
    config = resolve("flexdetr_pico", image_size=64)
    model = blank(config, Classes.of(["a"])).model
    small, middle, large = (
        batch_size._activation_bytes(model, side, side, CPU, torch.float32) for side in (128, 192, 256)
    )
    growth = (256**2 - 128**2) / (192**2 - 128**2)  # beside what the queries need whatever the size
    assert (large - small) / (middle - small) == pytest.approx(growth, rel=0.05)
    assert large > 2.5 * small
