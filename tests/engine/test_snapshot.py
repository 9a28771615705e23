"""A state that was changed since it was written is refused in a sentence, whatever was changed."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from fakes.tiny import SMALL
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.state import StateError
from flexdetr.presets import resolve


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("snapshot")
    data = draw_scenes(place / "data", train=4, val=2, test=0, size=(96, 96))
    config = resolve(
        "flexdetr_pico",
        image_size=64,
        **SMALL,
        data={"workers": 0},
        train={"epochs": 2, "batch_size": 2, "eval_every": 2, "report": False},
    )
    fit.train(data, config, out=place / "run", quiet=True)
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    return fit.Trainer(dataset, config, fit.start(config, dataset.classes), place / "run", quiet=True)


@pytest.fixture(scope="module")
def saved(run):
    return run_state.load(run.folder)


@pytest.fixture
def content(saved):
    """What the run saved, to be changed."""
    return copy.deepcopy(saved)


def without(key):
    def change(state):
        del state[key]

    return change


def first(tensors):
    return next(name for name, value in tensors.items() if value.ndim == 4)


def shorter(tensors):
    name = first(tensors)
    tensors[name] = tensors[name][:1]


def moments(state):
    return next(own for own in state["optimizer"]["state"].values() if own["exp_avg"].ndim == 4)


CHANGES = {
    **{f"no {key}": without(key) for key in (
        "fingerprint", "model", "criterion", "ema", "optimizer", "scaler",
        "random", "epoch", "batch", "seconds", "best", "sums", "parts", "rolled_back",
    )},
    "a weight of another shape": lambda state: shorter(state["model"]),
    "a weight that is missing": lambda state: state["model"].pop(first(state["model"])),
    "an averaged weight of another shape": lambda state: shorter(state["ema"]["model"]),
    "averages that are a number": lambda state: state.update(ema={"model": 3, "updates": 1}),
    "moments of another shape": lambda state: shorter(moments(state)),
    "moments that are missing": lambda state: moments(state).pop("exp_avg_sq"),
    "a step of another shape": lambda state: moments(state).update(step=torch.zeros(3)),
    "no groups": lambda state: state["optimizer"].update(param_groups=[]),
    "an epoch that is no number": lambda state: state.update(epoch="second"),
    "a best that is one number": lambda state: state.update(best=0.5),
    "a generator of another size": lambda state: state["random"][0].update(torch=torch.zeros(3, dtype=torch.uint8)),
    "generators that are missing": lambda state: state["random"][0].pop("numpy"),
    "random that is a number": lambda state: state.update(random=4),
    "parts that are a text": lambda state: state.update(parts="many"),
}  # fmt: skip


EARLY = {  # what is needed before there is a run to put into
    **{f"no {key}": without(key) for key in ("data", "classes", "metadata", "trained")},
    "classes that are numbers": lambda state: state.update(classes=[1, 2]),
    "metadata that is a list": lambda state: state.update(metadata=[1]),
    "trained parts that are a number": lambda state: state.update(trained=4),
}  # fmt: skip


def test_one_process_takes_up_the_losses_of_those_that_are_gone(run, caplog):
    state = run_state.load(run.folder)
    state["random"] *= 3
    state["sums"] = [
        {"loss": loss, "steps": 4.0, "seconds": 9.0, "l1.aux0": loss / 2} for loss in (1.0, 2.0, 4.0)
    ]
    run.restore(state)
    assert dict(run.sums) == {"loss": 7.0, "steps": 4.0, "seconds": 9.0}
    assert run.terms.read() == {"l1.aux0": 3.5}
    assert "3 processes saved this state and 1 go on" in caplog.text


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_state_is_refused_in_a_sentence(run, content, change):
    run.restore(content)
    change(content)
    with pytest.raises(StateError, match="is not a complete state of the run") as caught:
        run.restore(content)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("change", EARLY.values(), ids=EARLY)
def test_a_changed_beginning_is_refused_in_a_sentence(run, content, tmp_path, change):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run.folder / "config.yaml", folder)
    change(content)
    run_state.save(folder, content)
    with pytest.raises(StateError, match="is not a complete state of the run") as caught:
        fit.resume(folder, quiet=True)
    assert_one_sentence(caught.value)


def assert_one_sentence(error):
    assert len(str(error)) < 800
    assert "\n" not in str(error)


def test_a_state_that_is_something_else_is_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / run_state.FILE)
    with pytest.raises(StateError, match="cannot be read"):
        run_state.load(tmp_path)
