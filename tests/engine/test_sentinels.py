"""What guards a step: memory that runs out, numbers that are not finite, runs that hang, memory that grows."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
from pathlib import Path

import psutil
import pytest
import torch

from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine.distributed import Ranks
from flexdetr.engine.sentinels import (
    MemoryExhaustedError,
    PartLoss,
    StepLoss,
    check_step,
    failed_losses,
    is_out_of_memory,
    read_step,
    smaller_parts,
)
from flexdetr.engine.steps import micro_batches, shared_step
from flexdetr.engine.watchdog import FILE, Watchdog
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.presets import resolve

SHORT = {"epochs": 1, "batch_size": 4, "eval_every": 1, "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("guarded"), train=8, val=1, test=0, size=(96, 96))


@pytest.fixture
def trainer(data, tmp_path):
    config = resolve("flexdetr_atto", image_size=64, data={"workers": 0}, train=SHORT)
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    return fit.Trainer(dataset, config, fit.start(config, dataset.classes), tmp_path / "run", quiet=True)


def test_a_step_that_does_not_fit_goes_on_in_smaller_parts(trainer, monkeypatch, caplog):
    tried = []
    losses = fit.Trainer._losses

    def crowded(self, batch, step):
        tried.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(self, batch, step)

    monkeypatch.setattr(fit.Trainer, "_losses", crowded)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    # 4 images do not fit, nor do 2; the second step begins where the first one ended.
    assert tried == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert trainer.parts == 4
    assert trainer.steps == 2
    assert "the same batch now goes in 4 micro-batches" in caplog.text


def test_where_one_image_does_not_fit_the_run_stops():
    with pytest.raises(MemoryExhaustedError, match="smaller --image-size"):
        smaller_parts(4, 4, waits_for_ranks=False)
    with pytest.raises(MemoryExhaustedError, match="accumulate=2") as caught:
        smaller_parts(1, 4, waits_for_ranks=True)
    assert caught.value.parts == 1
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    )
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_other_errors_are_not_taken_for_a_lack_of_memory(trainer, monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(fit.Trainer, "_losses", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer.run()


def test_a_fault_names_terms_images_and_the_file(trainer, tmp_path):
    batch = next(iter(trainer.loader.epoch(0, "plain")))
    terms = {"l1": torch.tensor(1.0), "giou.aux0": torch.tensor(float("nan"))}
    parts = [
        PartLoss(torch.tensor(1.0), {}, tuple(batch.image_ids[2:])),
        PartLoss(torch.tensor(float("nan")), terms, tuple(batch.image_ids[:2])),
    ]
    loss, (fault,) = read_step(torch.tensor(3.0), parts)
    assert loss.norm == 3.0
    assert read_step(torch.tensor(3.0), parts[:1]) == (StepLoss(3.0, 1.0), [])
    common = {"model": trainer.model, "batch": batch, "number": 3, "folder": tmp_path, "ranks": Ranks()}
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is nan \(giou.aux0\)") as caught:
        check_step(math.nan, [fault], **common, overflow_is_normal=True)
    assert list(caught.value.image_ids) == batch.image_ids[:2]
    assert torch.equal(torch.load(tmp_path / "faults" / "step-3-rank-0.pt")["images"], batch.images)


def test_a_gradient_that_is_not_finite_names_parameters_unless_scaling_expects_it(trainer, tmp_path):
    batch = next(iter(trainer.loader.epoch(0, "plain")))
    weight = trainer.model.head.scores[0].weight
    weight.grad = torch.full_like(weight, float("inf"))
    common = {"model": trainer.model, "batch": batch, "number": 3, "folder": tmp_path, "ranks": Ranks()}
    check_step(math.inf, [], **common, overflow_is_normal=True)
    check_step(1.0, [], **common, overflow_is_normal=False)
    with pytest.raises(NonFiniteError, match=r"head.scores.0.weight") as caught:
        check_step(math.inf, [], **common, overflow_is_normal=False)
    assert list(caught.value.image_ids) == batch.image_ids


def test_a_failed_step_has_gradients_where_another_rank_has_them(trainer):
    """Ranks that send each other gradients in pieces must all come to send the same ones, and get NaN of this one."""
    batch = next(iter(trainer.loader.epoch(0, "plain")))
    step = shared_step(batch, 0, parts=1, stop=False, save=False, ranks=Ranks())
    trainer.model.train()
    reached = []
    for make in (
        trainer._losses,
        lambda part, _step: failed_losses(trainer.model(trainer.model.normalise(part.images), part.targets)),
    ):
        trainer.optimizer.zero_grad()
        (part,) = micro_batches(batch, step, 0)
        make(part, step).total.backward()
        reached.append({name for name, one in trainer.model.named_parameters() if one.grad is not None})
    assert reached[0] == reached[1]
    assert torch.isnan(trainer.model.head.scores[0].weight.grad).all()


def test_micro_batches_cover_the_batch_and_know_the_step(trainer):
    batch = next(iter(trainer.loader.epoch(0, "plain")))
    step = shared_step(batch, 5, parts=3, stop=False, save=False, ranks=Ranks())
    parts = list(micro_batches(batch, step, 0))
    assert [len(part) for part in parts] == [2, 1, 1]
    assert [image_id for part in parts for image_id in part.image_ids] == batch.image_ids
    assert step.objects == max(1, batch.targets.num_objects)
    assert {part.targets.noise.max_objects for part in parts} == {step.fullest}
    assert shared_step(batch, 5, parts=9, stop=False, save=False, ranks=Ranks()).parts == 4


def test_a_run_that_hangs_says_where(tmp_path, caplog):
    ended = threading.Event()
    with (
        caplog.at_level(logging.ERROR),
        Watchdog(0.2, tmp_path, lambda: "Images in work: a.jpg", ended.set) as dog,
    ):
        dog.beat("the next batch is made")
        assert ended.wait(20)
    assert "while the next batch is made. Images in work: a.jpg" in caplog.text
    assert "test_a_run_that_hangs_says_where" in (tmp_path / FILE).read_text(encoding="utf-8")


def test_a_run_that_moves_is_left_alone(tmp_path):
    with Watchdog(30, tmp_path, str, None) as dog:
        assert list(dog.each([1, 2], "counting")) == [1, 2]
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
def test_memory_stays_level_over_a_thousand_steps(data, tmp_path, monkeypatch):
    config = resolve(
        "flexdetr_atto",
        image_size=64,
        data={"workers": 0},
        train={**SHORT, "epochs": 250, "eval_every": 125, "batch_size": 2},
    )
    step, sizes = fit.Trainer._step, []

    def measured(self, batch):
        step(self, batch)
        if len(sizes) % 50 == 0:
            gc.collect()
        sizes.append(psutil.Process(os.getpid()).memory_info().rss)

    monkeypatch.setattr(fit.Trainer, "_step", measured)
    fit.train(data, config, out=tmp_path / "run", quiet=True)
    assert len(sizes) == 1000
    # The first evaluation, after 500 steps, belongs to the run; from there on nothing may grow.
    assert max(sizes[900:]) < 1.02 * max(sizes[500:600])
    assert Path(tmp_path / "run" / "best.safetensors").exists()
