from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from flexdetr.data.images import halve
from flexdetr.data.kept import KeptImages


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {index: rng.integers(0, 256, (40 + index, 70, 3), np.uint8) for index in (2, 5, 9)}


@pytest.fixture
def kept(images):
    kept = KeptImages()
    for index, image in images.items():
        kept.add(index, image)
    return kept


@pytest.mark.parametrize("shared", [False, True])
def test_images_are_what_was_added(kept, images, shared):
    if shared:
        kept.share()
    for index, image in images.items():
        assert (kept.get(index) == image).all()
        assert (kept.get(index, half=True) == halve(image)).all()
    assert 5 in kept
    assert 3 not in kept
    kept.clear()
    assert not len(kept)


def test_what_another_process_gets_is_the_same_memory(kept, images):
    kept.share()
    sent = ForkingPickler.dumps(kept)  # as for a process that is spawned
    assert len(sent) < 1000
    received = pickle.loads(sent)
    received.get(5)[...] = 7
    received.get(5, half=True)[...] = 8
    assert (kept.get(5) == 7).all()
    assert (kept.get(5, half=True) == 8).all()
    assert (kept.get(9) == images[9]).all()
