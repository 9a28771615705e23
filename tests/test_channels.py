"""Grey and multispectral pictures through training, scoring, prediction and an artifact."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import flexdetr
from flexdetr.data.dataset import DataError
from flexdetr.data.images import read_image
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine.checkpoint import restore, start
from flexdetr.presets import resolve
from flexdetr.weights.container import WeightsError

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Scenes whose pictures are arrays of four channels of 16 bits."""
    root = draw_scenes(tmp_path_factory.mktemp("channels"), train=3, val=2, test=1, size=(96, 96))
    for split in ("train", "val", "test"):
        for document in root.rglob("*.json"):
            content = json.loads(document.read_text())
            for image in content.get("images", ()):
                path = next(root.rglob(image["file_name"]), None)
                if path is not None and path.suffix != ".npy":
                    image["file_name"] = str(image["file_name"]).rsplit(".", 1)[0] + ".npy"
                    rgb = read_image(path).astype(np.uint16)
                    np.save(path.with_suffix(".npy"), np.concatenate([rgb, rgb[:, :, :1]], axis=2) * 16)
                    path.unlink()
            document.write_text(json.dumps(content))
        assert split
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    config = resolve(
        "flexdetr_pico",
        image_size=64,
        weights="none",
        data={
            "workers": 0,
            "channels": 4,
            "value_range": [0, 4080],
            "mosaic": 0.5,
            "blur": 0.5,
            "noise": 0.5,
        },
        train={"epochs": 2, "batch_size": 3, "eval_every": 2},
    )
    return fit.train(data, config, out=tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_a_run_on_four_channels_trains_scores_and_says_what_it_leaves_out(run, data):
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "data.photometric=0.5 is left out: it distorts RGB, and data.channels=4" in log
    assert (run.folder / "report.html").exists()
    detector = flexdetr.load(run.best)
    assert detector.model.channels == 4
    metrics = detector.evaluate(data, "test")
    assert metrics.ap >= 0


def test_data_of_four_channels_is_refused_by_a_run_for_rgb(data, tmp_path):
    config = resolve("flexdetr_pico", image_size=64, weights="none", data={"workers": 0}, train={"epochs": 1})
    with pytest.raises(DataError, match="it has 4 channels, and the model takes RGB pictures"):
        fit.train(data, config, out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_rgb_are_a_start_for_other_channels(tmp_path, channels):
    torch.manual_seed(0)
    trained = flexdetr.Detector("flexdetr_pico", classes=CLASSES, image_size=64)
    file = tmp_path / "rgb.safetensors"
    trained.save(file)
    config = resolve("flexdetr_pico", image_size=64, weights=str(file), data={"channels": channels})
    begun = start(config, trained.classes)
    grey = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8)
    images = torch.from_numpy(grey)
    with torch.no_grad():
        wide = begun.model.eval().backbone(begun.model.normalise(images.expand(1, channels, 64, 64)))
        plain = trained.model.eval().backbone(trained.model.normalise(images.expand(1, 3, 64, 64)))
    if channels == 1:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(wide, plain, strict=True))
    assert any("first layer" in note for note in begun.notes)
    first = begun.model.input_weight
    assert begun.model.get_parameter(first).shape[1] == channels


def test_weights_for_other_channels_are_no_start_for_rgb(run):
    config = resolve("flexdetr_pico", image_size=64, weights=str(run.best))
    with pytest.raises(WeightsError, match=r"trained on pictures of 4 channels.*set data.channels=4"):
        start(config, restore(run.best, {}).classes)
