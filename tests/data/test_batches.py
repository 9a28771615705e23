from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.boxes import cxcywh_to_xyxy
from flexdetr.config import DataConfig
from flexdetr.data.batches import Planner, SampleMaker, assemble_batch, fractions, sizes_around


def _planner(count=100, batch_size=8, **changes):
    options = {"image_size": (320, 320), "seed": 3, "multi_scale": True, "neighbours": False} | changes
    return Planner(count, batch_size, **options)


def test_sizes_of_multi_scale():
    heights = [height for height, _ in sizes_around((640, 640))]
    assert heights == [640, 640, 640, 480, 512, 544, 576, 608, 672, 704, 736, 768, 800]  # as published
    smaller = [(288, 480), (320, 512), (320, 544), (352, 576), (352, 608)]
    larger = [(416, 672), (416, 704), (448, 736), (448, 768), (480, 800)]
    assert sizes_around((384, 640))[3:] == [*smaller, *larger]
    assert sizes_around((32, 32)) == [(32, 32)] * 3


def test_every_image_once_an_epoch_and_another_order_in_the_next():
    planner = _planner(96)
    epochs = [
        [index for plan in planner.epoch(epoch, "strong") for index in plan.indices] for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(96))
    assert epochs[0] != epochs[1]
    assert planner.epoch(1, "strong") == planner.epoch(1, "strong")


@pytest.mark.parametrize(
    ("count", "batch_size", "lengths"), [(20, 8, [8, 8]), (5, 8, [5]), (1, 8, [1]), (8, 8, [8])]
)
def test_incomplete_batches_only_where_there_is_no_other(count, batch_size, lengths):
    planner = _planner(count, batch_size)
    assert [len(plan.indices) for plan in planner.epoch(0, "plain")] == lengths
    assert len(planner) == len(lengths)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_ranks_share_each_batch_and_none_goes_empty(count, batch_size, world_size, neighbours):
    alone = _planner(count, batch_size, neighbours=neighbours).epoch(2, "mosaic")
    ranks = [
        _planner(count, batch_size, neighbours=neighbours, rank=rank, world_size=world_size).epoch(
            2, "mosaic"
        )
        for rank in range(world_size)
    ]
    for number, whole in enumerate(alone):
        parts = [plans[number] for plans in ranks]
        assert all(part.indices for part in parts)
        assert {part.size for part in parts} == {whole.size}
        if len(whole.indices) >= world_size:
            assert sum((part.indices for part in parts), ()) == whole.indices
            if neighbours:
                assert sum((part.partners for part in parts), ()) == whole.partners


def test_size_varies_by_batch_but_not_in_the_plain_phase():
    planner = _planner(400)
    assert len({plan.size for plan in planner.epoch(0, "strong")}) > 3
    assert {plan.size for plan in planner.epoch(0, "plain")} == {(320, 320)}
    assert {plan.size for plan in _planner(400, multi_scale=False).epoch(0, "strong")} == {(320, 320)}


def test_neighbours_are_few_and_include_the_image_itself():
    for plan in _planner(30, neighbours=True).epoch(0, "mosaic"):
        for index, partners in zip(plan.indices, plan.partners, strict=True):
            assert index in partners
            assert len(set(partners)) == 8
        assert len({partner for partners in plan.partners for partner in partners}) <= 16


@pytest.mark.parametrize("phase", ["mosaic", "strong", "plain"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(records, phase):
    config = DataConfig(mosaic=0.5, mixup=0.5)

    def sample(seed, epoch, index, maker=None):
        maker = maker or SampleMaker(records, config, (64, 64), seed)
        return maker.sample(index, epoch, phase, (64, 64), range(len(records)))

    maker = SampleMaker(records, config, (64, 64), 0)
    for index in (4, 2, 0, 4):
        warm, cold = sample(0, 1, index, maker), sample(0, 1, index)
        assert (warm.image == cold.image).all()
        assert (warm.boxes_xyxy == cold.boxes_xyxy).all()
        assert (warm.labels == cold.labels).all()
    if phase != "plain":
        for other in (sample(1, 1, 4), sample(0, 2, 4)):
            assert (
                other.image.shape != sample(0, 1, 4).image.shape
                or (other.image != sample(0, 1, 4).image).any()
            )


@pytest.mark.parametrize("phase", ["mosaic", "strong", "plain"])
def test_batch_is_what_the_model_takes(records, phase):
    maker = SampleMaker(records, DataConfig(mixup=0.3), (64, 96), 0)
    plan = dataclasses.replace(_planner(len(records), 11).epoch(0, phase)[0], size=(64, 96))
    batch = assemble_batch(maker, plan, forget=True)
    assert batch.images.shape == (11, 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert len(batch) == len(batch.targets) == 11
    assert batch.image_ids == batch.targets.image_ids == [records[index].image_id for index in plan.indices]
    assert batch.sizes.tolist() == [[records[index].height, records[index].width] for index in plan.indices]
    for labels, boxes in zip(batch.targets.labels, batch.targets.boxes, strict=True):
        assert labels.dtype == torch.int64
        assert boxes.dtype == torch.float32
        assert boxes.shape == (len(labels), 4)
        corners = cxcywh_to_xyxy(boxes)
        assert ((corners > -1e-5) & (corners < 1 + 1e-5)).all()
    assert not len(maker.images.kept)


def test_plain_targets_are_the_records(records):
    maker = SampleMaker(records, DataConfig(flip=0), (64, 64), 0)
    plan = _planner(len(records), 11, image_size=(64, 64)).epoch(0, "plain")[0]
    batch = assemble_batch(maker, plan)
    for index, boxes, labels in zip(plan.indices, batch.targets.boxes, batch.targets.labels, strict=True):
        record = records[index]
        expected = fractions(record.boxes_xyxy, (record.height, record.width))
        assert boxes.numpy() == pytest.approx(expected, abs=1e-5)
        assert (labels.numpy() == record.labels).all()


def test_crowds_are_no_targets(records):
    crowded = [dataclasses.replace(record, iscrowd=np.ones(len(record), dtype=bool)) for record in records]
    maker = SampleMaker(crowded, DataConfig(), (64, 64), 0)
    for phase in ("plain", "strong", "mosaic"):
        assert assemble_batch(maker, _planner(11, 11).epoch(0, phase)[0]).targets.num_objects == 0


def test_large_images_are_kept_small(records):
    maker = SampleMaker(records, DataConfig(), (32, 32), 0)
    maker.images.keep(10)
    assert maker.images.kept.get(10).shape[0] == 48  # 1.5 times the training size on the shorter side
    assert maker.images.kept.get(10, half=True).shape[0] == 24
    kept = sum(array.nbytes for index in range(11) for array in _keep(maker, index))
    assert maker.images.cache_bytes() == pytest.approx(kept, rel=0.05)


def _keep(maker, index):
    maker.images.keep(index)
    return maker.images.kept.get(index), maker.images.kept.get(index, half=True)
