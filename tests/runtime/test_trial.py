"""An artifact is tried in a precision that was not proven where it is: on its reference pictures, and once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from described import described
from flexdetr.runtime import trial
from flexdetr.runtime.artifact import (
    METADATA,
    Artifact,
    ArtifactError,
    ArtifactMetadata,
    ReferencePictures,
    open_artifact,
    write_metadata,
)
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.parity import Drift, Proven, Tolerance
from flexdetr.runtime.trial import REFERENCE, Picture, read_reference, settle, write_reference

SIZE = (64, 96)
RUNTIME = "Runtime 1.0"
FEATURES = ("avx2", "avx512_bf16")
TOLERANCE = Tolerance(score=0.1, box=4.0, share=0.1)


def detect(picture: Picture) -> Detections:
    """Ten boxes whose scores follow the picture's brightness."""
    places = np.arange(10, dtype=np.float32)
    boxes = np.stack([places * 9, places, places * 9 + 8, places + 20], 1)
    scores = np.linspace(0.9, 0.4, 10, dtype=np.float32) * (0.5 + float(picture.mean()) / 510)
    return Detections(boxes, scores, np.ones(10, np.int64), ["cat"] * 10, np.zeros(10, np.int64), size=SIZE)


def wrong(picture: Picture) -> Detections:
    found = detect(picture)
    return Detections(
        found.boxes_xyxy, found.scores - 0.2, found.labels, found.names, found.indices, size=SIZE
    )


def proven(passed: bool = True, runtime: str = RUNTIME, features: tuple[str, ...] = FEATURES) -> Proven:
    drift = Drift(case="one by one", pictures=1, compared=1, floor=0.3)
    reason = None if passed else "scores drift"
    return Proven(
        passed=passed, runtime=runtime, features=features, tolerance=TOLERANCE, drifts=(drift,), reason=reason
    )


@pytest.fixture(autouse=True)
def _features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "cpu_features", lambda: FEATURES)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Artifact]:
    """(proof in bf16, whether it has reference pictures) -> an artifact whose model is none."""

    def make(proof: Proven | None = None, reference: bool = True) -> Artifact:
        folder = tmp_path / "cats"
        folder.mkdir()
        (folder / "model.xml").write_text("<net/>")
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 60 * (i + 1), (*SIZE, 3)).astype(np.uint8) for i in range(3)]
        if reference:
            write_reference(folder / REFERENCE, pictures, detect)
        described(
            folder,
            ["model.xml", *([REFERENCE] if reference else [])],
            size=SIZE,
            top=300,
            classes={1: "cat"},
            precisions={} if proof is None else {"bf16": proof},
            reference=ReferencePictures(file=REFERENCE, tolerance=TOLERANCE) if reference else None,
        )
        return open_artifact(folder)

    return make


class Counted:
    """A way of detecting that counts its pictures."""

    def __init__(self, how: Callable[[Picture], Detections]) -> None:
        self.how = how
        self.pictures = 0

    def __call__(self, picture: Picture) -> Detections:
        self.pictures += 1
        return self.how(picture)


def test_pictures_are_read_as_the_model_saw_them(make: Callable[..., Artifact]) -> None:
    artifact = make()
    pictures, expected = read_reference(artifact)
    assert [picture.shape for picture in pictures] == [(*SIZE, 3)] * 3
    for picture, one in zip(pictures, expected, strict=True):
        assert one.scores.tolist() == detect(picture).scores.tolist()
        assert one.boxes_xyxy.tolist() == detect(picture).boxes_xyxy.tolist()
    assert artifact.metadata.files[REFERENCE].bytes < 200_000


@pytest.mark.parametrize(
    ("proof", "passed", "said"),
    [
        (proven(), True, "its proof in bf16 passed"),
        (proven(False), False, "its proof in bf16 failed: scores drift"),
    ],
)
def test_a_proof_made_here_decides(
    make: Callable[..., Artifact], proof: Proven, passed: bool, said: str
) -> None:
    run = Counted(detect)
    verdict = settle(make(proof), "bf16", RUNTIME, run, None)
    assert (verdict.passed, verdict.reason) == (passed, said)
    assert run.pictures == 0


def test_a_proof_that_failed_elsewhere_decides_too(make: Callable[..., Artifact]) -> None:
    assert not settle(make(proven(False, features=("amx_bf16",))), "bf16", RUNTIME, detect, None).passed


@pytest.mark.parametrize(
    "proof",
    [None, proven(runtime="Runtime 2.0"), proven(features=("avx2", "amx_bf16"))],
    ids=["none", "another runtime", "another CPU"],
)
@pytest.mark.parametrize(("how", "passed"), [(detect, True), (wrong, False)])
def test_elsewhere_it_is_tried_once(
    make: Callable[..., Artifact],
    tmp_path: Path,
    proof: Proven | None,
    how: Callable[[Picture], Detections],
    passed: bool,
) -> None:
    artifact, run = make(proof), Counted(how)
    for _ in range(3):
        verdict = settle(artifact, "bf16", RUNTIME, run, tmp_path)
        assert verdict.passed is passed
        assert "of 24 detections in 3 pictures" in verdict.reason
    assert run.pictures == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_verdict_is_for_one_artifact_runtime_and_cpu(
    make: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, run = make(), Counted(detect)
    settle(artifact, "bf16", RUNTIME, run, tmp_path)
    settle(artifact, "bf16", "Runtime 1.1", run, tmp_path)
    monkeypatch.setattr(trial, "cpu_features", lambda: ("avx2", "amx_bf16"))
    settle(artifact, "bf16", RUNTIME, run, tmp_path)
    metadata = artifact.metadata.model_copy(update={"licence": "MIT"})
    settle(write_metadata(artifact.path, metadata), "bf16", RUNTIME, run, tmp_path)
    assert run.pictures == 4 * 3


def test_without_a_cache_it_is_tried_each_time(make: Callable[..., Artifact]) -> None:
    artifact, run = make(), Counted(detect)
    settle(artifact, "bf16", RUNTIME, run, None)
    settle(artifact, "bf16", RUNTIME, run, None)
    assert run.pictures == 6


@pytest.mark.parametrize("content", ["", "[]", "{", '{"passed": 1}', "\x00"])
def test_a_damaged_verdict_is_made_anew(make: Callable[..., Artifact], tmp_path: Path, content: str) -> None:
    artifact, run = make(), Counted(wrong)
    settle(artifact, "bf16", RUNTIME, run, tmp_path)
    (kept,) = tmp_path.glob("trial-*.json")
    kept.write_text(content)
    assert not settle(artifact, "bf16", RUNTIME, run, tmp_path).passed
    assert run.pictures == 6
    assert json.loads(kept.read_text())["passed"] is False


def test_a_verdict_that_cannot_be_kept_is_said(
    make: Callable[..., Artifact], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"")  # where the folder would be
    assert settle(make(), "bf16", RUNTIME, detect, taken).passed
    assert "verdict is not kept" in caplog.text


def test_what_was_never_proven_and_cannot_be_tried_is_not_chosen(make: Callable[..., Artifact]) -> None:
    verdict = settle(make(reference=False), "bf16", RUNTIME, detect, None)
    assert not verdict.passed
    assert "never proven in bf16; export it again" in verdict.reason


def test_reference_pictures_belong_to_the_seal(make: Callable[..., Artifact]) -> None:
    artifact = make()
    document = json.loads((artifact.path / METADATA).read_text())
    (artifact.path / METADATA).write_text(json.dumps({**document, "reference": None}))
    with pytest.raises(ArtifactError, match="was changed after the export"):
        open_artifact(artifact.path)
    with pytest.raises(ValueError, match="not among the files"):
        ArtifactMetadata.model_validate({**document, "files": {"model.xml": document["files"]["model.xml"]}})


def test_other_reference_pictures_are_refused(make: Callable[..., Artifact]) -> None:
    artifact = make()
    write_reference(artifact.path / REFERENCE, [np.zeros((32, 32, 3), np.uint8)], detect)
    with pytest.raises(ArtifactError, match=r"reference\.npz is not what was exported"):
        open_artifact(artifact.path)
    with pytest.raises(ArtifactError, match=r"reference\.npz cannot be used: a picture is 32x32"):
        read_reference(artifact)


@settings(deadline=None, max_examples=40)
@given(place=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_reference_pictures_are_answered(
    place: float, value: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    write_reference(folder / REFERENCE, [np.full((*SIZE, 3), 90, np.uint8)], detect)
    content = bytearray((folder / REFERENCE).read_bytes())
    at = int(place * (len(content) - 1))
    content[at] = value
    (folder / REFERENCE).write_bytes(content[:at] if cut else content)
    given = ReferencePictures(file=REFERENCE, tolerance=TOLERANCE)
    artifact = described(folder, [REFERENCE], size=SIZE, top=300, classes={1: "cat"}, reference=given)
    with suppress(ArtifactError):  # any other error fails
        pictures, expected = read_reference(artifact)
        assert len(pictures) == len(expected) == 1
