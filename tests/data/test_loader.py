from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from fakes.gpu import GPU, FakeGPU
from flexdetr.config import Config, DataConfig
from flexdetr.data import batches
from flexdetr.data import loader as loader_module
from flexdetr.data.images import ImageError, read_image
from flexdetr.data.loader import EvaluationLoader, LoaderError, TrainingLoader, default_workers
from flexdetr.runtime.process import prepare


def _loader(records, workers=0, batch_size=3, data=None, **options):
    config = Config(image_size=(64, 64), data=DataConfig(mixup=0.3, **(data or {})))
    return TrainingLoader(records, config, 3, batch_size=batch_size, seed=5, workers=workers, **options)


def _same(first, second):
    return (
        torch.equal(first.images, second.images)
        and first.image_ids == second.image_ids
        and all(map(torch.equal, first.targets.boxes, second.targets.boxes))
        and all(map(torch.equal, first.targets.labels, second.targets.labels))
    )


def _equal(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(map(_same, first, second))


@pytest.mark.parametrize("cache", [True, False])
def test_workers_change_nothing(records, cache):
    alone = _loader(records, data={"cache": cache})
    crew = _loader(records, workers=2, data={"cache": cache})
    for epoch, phase in enumerate(["mosaic", "strong", "plain"]):
        assert _equal(alone.epoch(epoch, phase), crew.epoch(epoch, phase))
    crew.close()


def test_spawned_workers_change_nothing(records, monkeypatch):
    """Also after a look at samples, which makes some in this process."""
    monkeypatch.setattr(loader_module, "start_method", lambda: "spawn")
    crew = _loader(records, workers=1, data={"cache": True})
    shown = list(crew.preview(0, "mosaic", 2))
    assert _equal(_loader(records).preview(0, "mosaic", 2), shown)
    assert _equal(_loader(records).epoch(0, "mosaic"), crew.epoch(0, "mosaic"))
    crew.close()


def test_the_programs_own_start_method_is_taken(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda **_options: "spawn")
    assert loader_module.start_method() == "spawn"
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda **_options: None)
    monkeypatch.setattr(loader_module.sys, "platform", "linux")
    assert loader_module.start_method() == "fork"
    monkeypatch.setattr(loader_module.sys, "platform", "darwin")
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn", "fork"])
    assert loader_module.start_method() == "spawn"


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_within_an_epoch_gives_the_rest_of_it(records, workers):
    whole = list(_loader(records).epoch(4, "mosaic"))
    loader = _loader(records, workers)
    assert len(loader) == len(whole) == 3
    assert _equal(loader.epoch(4, "mosaic", start_batch=1), whole[1:])
    assert _equal(loader.epoch(4, "mosaic", start_batch=3), [])


def test_batches_made_ahead_are_those_of_the_next_epoch(records):
    reference = _loader(records)
    loader = _loader(records, workers=1)
    phases = ["mosaic", "mosaic", "strong", "plain"]
    for epoch, phase in enumerate(phases):
        following = phases[epoch + 1] if epoch + 1 < len(phases) else None
        assert _equal(loader.epoch(epoch, phase, following=following), reference.epoch(epoch, phase))
    assert _equal(loader.epoch(0, "strong", following="strong"), reference.epoch(0, "strong"))
    assert _equal(loader.epoch(7, "plain"), reference.epoch(7, "plain"))  # another one than was announced
    stopped = loader.epoch(1, "strong", following="strong")
    next(stopped)
    stopped.close()
    assert _equal(loader.epoch(2, "strong"), reference.epoch(2, "strong"))


def test_ranks_together_make_the_whole_batch(records):
    whole = list(_loader(records, batch_size=6).epoch(1, "mosaic"))
    parts = [
        list(_loader(records, batch_size=6, rank=rank, world_size=2).epoch(1, "mosaic")) for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert batch.image_ids == [*first.image_ids, *second.image_ids]


def test_global_random_state_is_not_touched(records):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for workers in (0, 1):
        list(_loader(records, workers).epoch(0, "mosaic"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache", [True, False])
def test_unreadable_image_is_named(records, workers, cache):
    records[3].path.write_text("no picture")
    with pytest.raises(ImageError, match=r"images/3\.png: is not an image"):
        list(_loader(records, workers, batch_size=11, data={"cache": cache}).epoch(0, "strong"))


def test_killed_worker_names_the_image_in_work(records, monkeypatch):
    def die(sample, *_arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(batches, "strong", die)
    with pytest.raises(LoaderError, match=r"Images in work: .*images/\d+\.png"):
        list(_loader(records, workers=1).epoch(0, "strong"))


@pytest.mark.parametrize("workers", [0, 1])
def test_other_failures_keep_their_kind_and_gain_the_image(records, monkeypatch, workers):
    def fail(sample, *_arguments):
        raise ZeroDivisionError("as an example")

    monkeypatch.setattr(batches, "strong", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        list(_loader(records, workers).epoch(0, "strong"))
    said = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "while making a sample of" in said


def test_a_failure_ends_the_workers_though_its_traceback_is_kept(records, monkeypatch):
    def fail(*_arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(batches, "strong", fail)
    loader = _loader(records, workers=2)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loader.epoch(0, "strong"))
    assert not multiprocessing.active_children(), caught


def test_only_images_without_objects(records):
    empty = [record for record in records if not len(record)]
    for batch in _loader(empty, batch_size=2).epoch(0, "mosaic"):
        assert batch.targets.num_objects == 0
        assert all(boxes.shape == (0, 4) for boxes in batch.targets.boxes)


def test_labels_outside_the_head_are_refused(records):
    with pytest.raises(ValueError, match="label 2 lies outside a head of 2 classes"):
        TrainingLoader(records, Config(image_size=(64, 64)), 2, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        _loader([])


def test_default_workers_leave_room_for_the_training():
    assert 1 <= default_workers() <= 8
    assert default_workers(10_000) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_evaluation_sees_what_prediction_sees(records, batch_size):
    loader = EvaluationLoader(records, (64, 96), batch_size, workers=2)
    for _ in range(2):  # the second pass comes from memory
        seen = 0
        count = 0
        for batch in loader:
            count += 1
            for image, size, image_id, labels, boxes in zip(
                batch.images,
                batch.sizes,
                batch.image_ids,
                batch.targets.labels,
                batch.targets.boxes,
                strict=True,
            ):
                record = records[seen]
                assert image_id == record.image_id
                assert size.tolist() == [record.height, record.width]
                assert (image.numpy() == prepare(read_image(record.path), (64, 96))).all()
                assert labels.tolist() == record.labels.tolist()
                assert boxes.shape == (len(record), 4)
                seen += 1
        assert seen == len(records)
        assert count == len(loader)


def test_batches_for_a_gpu_are_in_pinned_memory(records):
    """Those of worker processes are pinned by torch's loader, which calls the batch's own method for it."""
    with FakeGPU() as gpu:
        training = _loader(records, pin_memory=True).epoch(0, "plain")
        for batch in [*training, *EvaluationLoader(records, (64, 64), 2, pin_memory=True)]:
            batch.images.to(GPU, non_blocking=True)
            batch.sizes.to(GPU, non_blocking=True)
            batch.targets.to(GPU)
        assert gpu.copies
        assert not any(copy.waits for copy in gpu.copies)
    crew = _loader(records, workers=1, pin_memory=True)
    assert crew._start().pin_memory
    crew.close()


def test_evaluation_names_an_unreadable_image_and_may_be_left_early(records):
    first = next(iter(EvaluationLoader(records, (64, 64), 2)))
    assert len(first) == 2
    missing = [*records[:5], dataclasses.replace(records[5], path=records[5].path.with_name("gone.png"))]
    with pytest.raises(ImageError, match=r"gone\.png: image not found"):
        list(EvaluationLoader(missing, (64, 64), 2))
