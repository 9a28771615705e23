"""What a training step asks of a GPU, counted on one that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fakes.gpu import GPU, FakeGPU, on_gpu
from fakes.tiny import SMALL
from flexdetr.config import ConfigError
from flexdetr.data.detect import read
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit, trainer
from flexdetr.engine.evaluate import detect
from flexdetr.engine.pace import Pace
from flexdetr.engine.sinks import TrainingDisplay
from flexdetr.presets import resolve


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("counted"), train=8, val=3, test=0, size=(96, 96))


@pytest.fixture(scope="module", params=[GPU], ids=str)
def trained(data, tmp_path_factory, request):
    """A run that takes the CPU for a GPU; every test takes some steps of it."""
    train = {"epochs": 1, "batch_size": 4, "precision": "fp32"}
    config = resolve("flexdetr_pico", **SMALL, image_size=64, data={"workers": 0}, train=train)
    dataset = read(data, val_fraction=0.15, seed=0)
    starting = fit.start(config, dataset.classes)
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patched, FakeGPU(request.param) as gpu:
        patched.setattr(trainer, "choose_device", lambda _name: request.param)
        one = fit.Trainer(dataset, config, starting, folder, quiet=True)
    one.display, one.pace, one.gpu = TrainingDisplay(2, quiet=True), Pace(2, 1, 1.0), gpu
    one.model.train()
    return one


@pytest.fixture
def run(trained):
    trained.parts = 1
    with trained.gpu:
        yield trained


def test_the_model_and_its_averages_are_on_the_gpu(run):
    tensors = [*run.model.parameters(), *run.ema.model.state_dict().values(), *run.criterion.buffers()]
    assert all(on_gpu(tensor) for tensor in tensors)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_waits_once_to_match_each_micro_batch_and_once_to_be_judged(run, parts):
    """Losses stay on the device: some forty terms a step, each of which would wait if it were read."""
    run.parts = parts
    for batch in run.loader.epoch(0, "plain"):
        run.gpu.reset()
        run._step(batch)
        files = {place.partition(":")[0]: count for place, count in run.gpu.syncs.items()}
        assert files == {"matcher.py": parts, "sentinels.py": 1}, run.gpu.syncs
    assert len(run.terms.read()) > 10


def test_nothing_that_a_step_copies_to_the_gpu_waits(run):
    counts = []
    for batch in run.loader.epoch(0, "plain"):
        run.gpu.reset()
        run._step(batch)
        assert [copy for copy in run.gpu.copies if copy.waits] == []
        counts.append(len(run.gpu.copies))
    assert counts[1] <= 8, run.gpu.copies  # images, labels, boxes, noise, and what the criterion indexes with


def test_an_evaluation_copies_images_from_pinned_memory_and_reads_each_answer_once(run):
    run.gpu.reset()
    detect(run.ema.model, run.val_loader, device=GPU)
    assert len(run.val_loader) == 1
    assert [copy for copy in run.gpu.copies if copy.waits] == []
    assert sum(run.gpu.syncs.values()) == 3, run.gpu.syncs  # boxes, scores, labels


@pytest.mark.parametrize("trained", [torch.device("mps", 0)], indirect=True, ids=str)
def test_a_step_on_a_mac_asks_for_nothing_that_its_gpu_lacks(run):
    """The fake refuses float64, pinned memory, and grid_sample, which has no gradient there."""
    for batch in run.loader.epoch(0, "plain"):
        run._step(batch)
    detect(run.ema.model, run.val_loader, device=run.device)
    assert run.gpu.copies
    assert run.sums["steps"] == 2


def test_what_learns_from_tiles_is_scored_on_tiles(tmp_path):
    data = draw_scenes(tmp_path / "data", train=2, val=3, test=0, size=(96, 96))
    settings = {"workers": 0, "tiles": 48, "tile_whole": False}
    config = resolve(
        "flexdetr_pico", **SMALL, image_size=64, data=settings, train={"batch_size": 4, "epochs": 1}
    )
    run = fit.train(data, config, out=tmp_path / "run", quiet=True)
    recipe = read(data, val_fraction=0.15, seed=0)
    trained = fit.Trainer(recipe, config, fit.start(config, recipe.classes), tmp_path / "other", quiet=True)
    windows = {record.image_id: record.window for record in trained.scored_records}
    assert len(windows) == 9 * len(trained.val_records)  # three by three tiles of 48, and no whole image
    assert None not in windows.values()
    assert np.isfinite(run.metrics.ap)
    assert "27 tiles" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_class_weights_and_repeats_reach_the_run(data, tmp_path):
    def trainer_of(**changes):
        settings = {"workers": 0, **changes}
        config = resolve("flexdetr_pico", image_size=64, data=settings, train={"batch_size": 4})
        dataset = read(data, val_fraction=0.15, seed=0)
        return fit.Trainer(dataset, config, fit.start(config, dataset.classes), tmp_path / "run", quiet=True)

    rare = read(data).classes.names[1]
    run = trainer_of(class_weights={rare: 3.0}, repeat_threshold=1.0)
    assert run.criterion.class_weights.tolist()[:2] == [1, 3]
    assert run.steps_per_epoch == run.recipe.steps_per_epoch > 2
    assert any("data.repeat_threshold" in reason for reason in run.recipe.reasons)
    with pytest.raises(ConfigError, match="did you mean"):
        trainer_of(class_weights={f"{rare}s": 3.0})
