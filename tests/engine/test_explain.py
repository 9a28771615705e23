"""Where queries look: points and weights are those that attention used, maps lie on the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.engine.explain import ExplainError
from flexdetr.model.deformable import attentions

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
HEADS = {"rtdetr": {"layers": 1, "denoising": 0}, "dfine": {"layers": 2, "denoising": 0}}


@pytest.fixture(scope="module", params=HEADS)
def detector(request):
    head = {"name": request.param, **HEADS[request.param]}
    return Detector("flexdetr_pico", classes=["a", "b"], image_size=64, seed=0, head=head)


def _threshold(detector, count=3):
    """A score that so many objects reach."""
    return float(detector.predict(PICTURE, 0.0, precision="fp32").scores[count - 1])


def test_it_finds_what_predict_finds_and_shows_where_each_query_looked(detector):
    limit = _threshold(detector)
    shown = detector.explain(PICTURE, limit, precision="fp32")
    assert np.array_equal(
        shown.found.boxes_xyxy, detector.predict(PICTURE, limit, precision="fp32").boxes_xyxy
    )
    count = len(shown.found)
    assert shown.points.shape[:1] == shown.weights.shape[:1] == (count,)
    assert shown.weights.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    assert shown.levels.shape == shown.weights.shape[1:]
    inside = ((shown.points >= 0) & (shown.points < (140, 90))).all(axis=2)
    assert shown.heat.shape == (count, 90, 140)
    assert shown.heat.sum(axis=(1, 2)) == pytest.approx((shown.weights * inside).sum(axis=1), abs=1e-4)
    assert shown.plot().size == shown.plot(0).size == (140, 90)


def test_points_without_offsets_are_the_centre_of_the_box():
    """One layer, whose boxes stay where they were: every head looks at the middle."""
    head = {"name": "rtdetr", "layers": 1, "denoising": 0}
    own = Detector("flexdetr_pico", classes=["a"], image_size=64, head=head)
    (layer,) = attentions(own.model.head)
    with torch.no_grad():
        for part in (layer.offsets, layer.weights):
            part.weight.zero_()
            part.bias.zero_()
    shown = own.explain(PICTURE, _threshold(own), precision="fp32")
    corners = shown.found.boxes_xyxy
    whole = ((corners[:, :2] > 0.5) & (corners[:, 2:] < (139.5, 89.5))).all(axis=1)  # others were clipped
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    for middle, points in zip(centres[whole], shown.points[whole], strict=True):
        assert points == pytest.approx(np.tile(middle, (len(points), 1)), abs=1e-3)
    assert shown.weights == pytest.approx(1 / shown.weights.shape[1])


def test_a_picture_without_objects_is_shown_as_it_is(detector):
    shown = detector.explain(PICTURE, 1.0)
    assert shown.heat.shape == (0, 90, 140)
    assert (np.asarray(shown.plot()) == PICTURE).all()


def test_dense_heads_say_that_they_have_no_queries():
    dense = Detector("flexdetr_pico", classes=["a"], image_size=64, head="yolov8")
    with pytest.raises(ExplainError, match="has no queries that choose where to look"):
        dense.explain(PICTURE)


def test_predict_writes_it_beside_the_annotated_picture(tmp_path, capsys):
    head = {"name": "rtdetr", "layers": 1, "denoising": 0}
    own = Detector("flexdetr_pico", classes=["a"], image_size=64, head=head)
    Image.fromarray(PICTURE).save(tmp_path / "one.png")
    file, out = str(own.save(tmp_path / "a.safetensors")), tmp_path / "out"
    command = ["predict", file, str(tmp_path / "one.png"), "--out", str(out), "--threshold", "0"]
    assert main([*command, "--explain", "--precision", "fp32"]) == 0
    assert Image.open(out / "explained" / "one.png").size == Image.open(out / "one.png").size
    assert main([*command, "--precision", "fp32"]) == 0
    assert not (out / "explained" / "one.png").exists()  # what the former call left is gone
    capsys.readouterr()
    assert main([*command, "--explain", "--slice", "64"]) == 2
    assert "it looks at whole pictures" in capsys.readouterr().err
    assert main([*command, "--explain", "--draw", "none"]) == 2
    assert "--explain needs annotated pictures" in capsys.readouterr().err


def test_each_frame_of_a_film_has_a_map(tmp_path):
    cv2 = pytest.importorskip("cv2")
    head = {"name": "rtdetr", "layers": 1, "denoising": 0}
    own = Detector("flexdetr_pico", classes=["a"], image_size=64, head=head)
    writer = cv2.VideoWriter(str(tmp_path / "f.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(2):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    file, out = str(own.save(tmp_path / "a.safetensors")), tmp_path / "out"
    command = ["predict", file, str(tmp_path / "f.mp4"), "--out", str(out), "--threshold", "0"]
    assert main([*command, "--explain", "--format", "yolo"]) == 0
    names = {"f-000000", "f-000001"}
    assert {path.stem for path in (out / "explained").iterdir()} == names
    assert {path.stem for path in (out / "yolo" / "labels").iterdir()} == names
