from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.config import Config, DataConfig
from flexdetr.data.loader import TrainingLoader
from flexdetr.data.sampling import draw, epoch_length, repeat_factors, turns


def _with_labels(record, labels, crowd=False):
    count = len(labels)
    return dataclasses.replace(
        record,
        boxes_xyxy=np.tile(np.float32([1, 1, 9, 9]), (count, 1)),
        labels=np.array(labels, np.int64),
        iscrowd=np.full(count, crowd),
        areas=np.full(count, 64, np.float32),
    )


def test_factors_are_those_of_the_paper(records):
    shown = [[0], [0, 0], [0], [0, 1], [], [0], [0], [0], [0], [0]]
    ten = [_with_labels(record, labels) for record, labels in zip(records, shown, strict=False)]
    ten[4] = _with_labels(ten[4], [2], crowd=True)  # a crowd shows no class
    factors = repeat_factors(ten, 0.4)
    expected = np.ones(10)
    expected[3] = np.sqrt(0.4 / 0.1)
    assert factors == pytest.approx(expected)
    assert repeat_factors(ten, 0.1) == pytest.approx(np.ones(10))


@given(st.lists(st.floats(1, 9), min_size=1, max_size=40), st.integers(0, 2**31))
def test_every_image_comes_as_often_as_its_factor_says(factors, seed):
    factors = np.array(factors)
    order = draw(factors, np.random.default_rng(seed))
    length = epoch_length(factors)
    assert len(order) == length
    times = np.bincount(order, minlength=len(factors))
    scaled = factors * length / factors.sum()
    assert (times >= np.floor(scaled - 1e-6)).all()
    assert (times <= np.ceil(scaled + 1e-6)).all()


def test_on_average_the_share_is_the_factor():
    factors = np.array([1.0, 1.3, 1.0, 2.6, 1.1])
    times = sum(np.bincount(draw(factors, np.random.default_rng(seed)), minlength=5) for seed in range(2000))
    assert times / 2000 == pytest.approx(factors * 7 / factors.sum(), abs=0.05)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_turns_count_what_came_before(order):
    expected = [order[:place].count(index) for place, index in enumerate(order)]
    assert turns(np.array(order)).tolist() == expected


def _loader(records, **options):
    config = Config(image_size=(64, 64), data=DataConfig(mixup=0.3, repeat_threshold=0.8, multi_scale=False))
    return TrainingLoader(records, config, 3, seed=5, workers=0, **options)


def test_an_epoch_repeats_rare_images_the_same_for_ranks_and_after_resuming(records):
    rare = [_with_labels(record, [0]) for record in records]
    rare[4] = _with_labels(rare[4], [0, 1])
    whole = list(_loader(rare, batch_size=4).epoch(1, "strong"))
    assert len(whole) == 3  # 11 images, of which one comes up to three times
    again = list(_loader(rare, batch_size=4).epoch(1, "strong", start_batch=2))
    assert torch.equal(whole[2].images, again[0].images)
    parts = [list(_loader(rare, batch_size=4, rank=rank, world_size=2).epoch(1, "strong")) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))


def test_a_repeated_image_is_augmented_anew(records):
    rare = [_with_labels(records[4], [0]), *(_with_labels(record, []) for record in records[5:9])]
    (batch,) = _loader(rare, batch_size=6).epoch(0, "strong")
    places = [place for place, image_id in enumerate(batch.image_ids) if image_id == rare[0].image_id]
    assert len(places) == 2  # sqrt(0.8 / 0.2)
    assert not torch.equal(batch.images[places[0]], batch.images[places[1]])


def test_a_planner_refuses_factors_of_another_length():
    from flexdetr.data.batches import Planner

    with pytest.raises(ValueError, match="factors give 6"):
        Planner(5, 2, (64, 64), 0, False, False, factors=np.array([2.0, 1.0, 1.0, 1.0, 1.0]))
