"""The demonstration: every part of it on a plan of seconds. Its score is that of the slow test."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

import flexdetr
from flexdetr.config import ConfigError
from flexdetr.demo import DemoPlan, Outcome, run

PLAN = DemoPlan(
    train=8, val=2, test=3, scene_size=(96, 96), image_size=(64, 64), epochs=1, batch_size=4, pictures=2
)


@pytest.mark.slow
def test_the_whole_demonstration_finds_what_it_drew(tmp_path: Path) -> None:
    done = run(tmp_path / "out", quiet=True)
    assert done.metrics.ap50 > 0.7
    assert flexdetr.load(done.artifact).evaluate(done.data).ap50 > 0.7


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Outcome:
    return run(tmp_path_factory.mktemp("demo") / "out", PLAN, announce=told.append, quiet=True)


def test_goes_the_whole_way(outcome: Outcome, told: list[str]) -> None:
    assert outcome.checkpoint.name == "best.safetensors"
    assert len(list((outcome.data / "train").glob("*.jpg"))) == 8
    assert len(list(outcome.pictures.glob("*.jpg"))) == 2
    assert [line.split()[0] for line in told] == ["drawing", "training", "scoring", "exporting"]
    assert outcome.seconds > 0


def test_leaves_an_artifact_that_was_compared_with_the_model(outcome: Outcome) -> None:
    artifact = flexdetr.load(outcome.artifact)
    image = next((outcome.data / "test").glob("*.jpg"))
    found = artifact.predict(image, threshold=0.0)
    expected = flexdetr.load(outcome.checkpoint).predict(image, threshold=0.0)
    assert found.scores[0] == pytest.approx(expected.scores[0], abs=1e-3)


def test_evaluation_tells_how_far_it_is(outcome: Outcome) -> None:
    for file in (outcome.checkpoint, outcome.artifact):
        progress = Mock()
        metrics = flexdetr.load(file).evaluate(outcome.data, progress=progress)
        progress.assert_called_with(3, 3)
        assert metrics.ap50 == pytest.approx(outcome.metrics.ap50, abs=1e-3)


def test_replaces_a_former_demonstration_and_nothing_else(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        run(tmp_path, PLAN, quiet=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert outcome.data.is_dir()
