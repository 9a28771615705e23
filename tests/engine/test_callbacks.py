from __future__ import annotations

import pytest

import flexdetr
from fakes.tiny import SMALL
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine.callbacks import CallbackError, Callbacks
from flexdetr.presets import resolve


class Diary:
    def __init__(self):
        self.seen = []

    def on_step(self, moment):
        assert moment.loss > 0
        assert not moment.model.training
        self.seen.append(("step", moment.step))

    def on_epoch(self, moment):
        assert moment.numbers["epoch"] == moment.epoch
        assert moment.numbers["loss"] == moment.loss
        self.seen.append(("epoch", moment.epoch))

    def on_evaluation(self, moment):
        assert 0 <= moment.metrics.ap <= 1
        self.seen.append(("evaluation", moment.epoch))

    def on_end(self, moment):
        assert (moment.folder / "best.safetensors").exists()
        assert (moment.step, moment.epoch) == (moment.steps, moment.epochs)
        self.seen.append(("end", moment.epoch))


class Breaks:
    def on_step(self, moment):
        if moment.step == 3:
            raise ZeroDivisionError("as an example")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("called"), train=4, val=2, test=0, size=(96, 96))


def _settings(**train):
    values = {"epochs": 2, "batch_size": 2, "eval_every": 2, "report": False, **train}
    return resolve("flexdetr_pico", **SMALL, image_size=64, data={"workers": 0}, train=values)


def test_each_moment_comes_in_its_order_and_a_failure_names_its_callback(data, tmp_path):
    diary = Diary()
    with pytest.raises(
        CallbackError,
        match=r"callback Breaks\.on_step failed at epoch 2, step 3: ZeroDivisionError: as an example",
    ):
        fit.train(data, _settings(), out=tmp_path / "run", quiet=True, callbacks=[diary, Breaks()])
    assert diary.seen == [("step", 1), ("step", 2), ("epoch", 1), ("step", 3)]
    fit.resume(tmp_path / "run", quiet=True, callbacks=[diary])
    rest = [("step", 3), ("step", 4), ("evaluation", 2), ("epoch", 2), ("end", 2)]
    assert diary.seen[4:] == rest


def test_objects_that_are_no_callbacks_are_refused(data, tmp_path):
    class Misspelt:
        def on_steps(self, _moment): ...

    with pytest.raises(
        ConfigError, match=r"callback Misspelt: unknown method 'on_steps'; did you mean 'on_step'"
    ):
        Callbacks([Misspelt()])
    with pytest.raises(ConfigError, match="callback function has none of the methods on_step, on_epoch"):
        Callbacks([lambda _moment: None])
    detector = flexdetr.Detector("flexdetr_pico", classes=["a"], image_size=64)
    with pytest.raises(ConfigError, match="not seen by the 2 processes"):
        detector.train(data, out=tmp_path / "run", processes=2, callbacks=[Diary()])
    assert not (tmp_path / "run").exists()
