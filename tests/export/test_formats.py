"""One contract for every format: written with its row's suffixes, proven, and the same on each of its engines."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import flexdetr
from flexdetr.api import Detector
from flexdetr.data.scenes import draw_scene
from flexdetr.export.errors import ExportError
from flexdetr.export.make import ExportSource, export
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.formats import ENGINES, FORMATS, NAMED

# What lies beside the model: pictures that other precisions are tried with, the choice of queries for boards.
BESIDE = {".npz", ".py"}


# ExecuTorch takes as long to write one as all others together.
SLOW = ("executorch",)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in FORMATS],
)
def artifact(request: pytest.FixtureRequest, exported: Callable[[str], Artifact]) -> Artifact:
    row = FORMATS[request.param]
    missing = [package for package in row.packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"pip install 'flexdetr[{row.extra}]': {', '.join(missing)}")
    return exported(request.param)


def test_a_format_keeps_its_contract(
    artifact: Artifact, in_float32: Callable[..., flexdetr.Detections], detector: Detector
) -> None:
    row = FORMATS[artifact.metadata.format]
    assert artifact.parity is not None
    assert artifact.parity.passed
    suffixes = {Path(name).suffix for name in artifact.metadata.files}
    assert suffixes - BESIDE == set(row.suffixes)
    assert artifact.model_file.suffix in row.suffixes
    scene = draw_scene(np.random.default_rng(3), (100, 140)).image
    expected = in_float32(detector, scene, 0.3)
    assert len(expected) > 0
    for engine in (name for name in row.runtimes if find_spec(ENGINES[name].package) is not None):
        runs = flexdetr.load(artifact.model_file, runtime=engine, threads=1, precision="fp32")
        found = runs.predict(scene, 0.3)
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.scores == pytest.approx(expected.scores, abs=1e-2 if row.resizes is False else 1e-3)
    with pytest.raises(ArtifactError, match=r"which .* does not run; use runtime="):
        flexdetr.load(artifact.path, runtime=next(name for name in ENGINES if name not in row.runtimes))
    with pytest.raises(ArtifactError, match="did you mean 'openvino'"):
        flexdetr.load(artifact.path, runtime="openvini")


def test_a_format_that_is_none(subject: ExportSource, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="did you mean 'litert'") as refused:
        export(subject, "litertt", tmp_path / "out")
    assert "board" not in str(refused.value)
    assert "board" not in NAMED
