"""``--slice`` on the command line and ``slice=`` in Python, with a real detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from flexdetr import Detector
from flexdetr.cli import main
from flexdetr.data.images import read_image
from flexdetr.data.scenes import CLASSES, draw_scenes
from flexdetr.runtime.slicing import Slicing
from flexdetr.sliced import SlicedDetector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("flexdetr_pico", classes=CLASSES, image_size=64)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), train=0, val=0, test=2, size=(128, 160))


def test_python(detector, scenes):
    file = next((scenes / "test").iterdir())
    whole = detector.predict(str(file), 0.0)
    found = detector.predict(str(file), 0.0, slice=96)
    assert found.size == read_image(file).shape[:2] == (128, 160)
    assert len(found) > len(whole)
    same = SlicedDetector(detector, Slicing(96)).predict(str(file), 0.0)
    assert np.array_equal(found.boxes_xyxy, same.boxes_xyxy)
    (fused,) = detector.predict([str(file)], 0.0, slice=Slicing(96, 0.5, "fusion"))
    assert len(fused) > 0
    unsliced = detector.predict(str(file), 0.0, slice=Slicing(640, iou=1.0))
    assert len(unsliced) == len(whole)  # a picture smaller than a tile is looked at once
    with pytest.raises(ValueError, match="at least 32"):
        detector.predict(str(file), slice=8)


def test_command_line(detector, scenes, tmp_path, capsys):
    file = detector.save(tmp_path / "random.safetensors")
    words = [str(file), str(scenes / "test"), "--threshold", "0", "--out", str(tmp_path / "out"), "--json"]
    counts = []
    for more in ([], ["--slice", "96"], ["--slice", "96", "--overlap", "0.4", "--merge", "fusion"]):
        assert main(["predict", *words, *more]) == 0
        document = json.loads(capsys.readouterr().out)
        counts.append([len(image["objects"]) for image in document["images"]])
    assert np.array(counts[1]).min() > np.array(counts[0]).max()
    assert main(["eval", str(file), str(scenes), "--slice", "96", "--json"]) == 0
    assert "ap_small" in json.loads(capsys.readouterr().out)
    assert main(["predict", *words, "--slice", "96", "--merge", "nmm"]) == 2
    assert "nms" in capsys.readouterr().err
    assert main(["predict", *words, "--slice", "8"]) == 2
