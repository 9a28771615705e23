"""Orientation from a folder of pages to documents set upright: training, scoring, predicting, exporting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexdetr
from flexdetr.cli import main
from flexdetr.config import Config, ConfigError
from flexdetr.data.page_folder import read
from flexdetr.data.page_samples import PageSamples
from flexdetr.engine import fit
from flexdetr.presets import for_orientation, resolve
from flexdetr.runtime.middle import middle
from flexdetr.runtime.orientation import turned


def draw(folder: Path, counts: dict[str, int]) -> Path:
    """Pages that are bright at their top and dark at their foot."""
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([len(split), number])
            height, width = (int(side) for side in rng.integers(60, 100, 2))
            slope = np.linspace(250, 5, height)[:, None, None]
            page = slope + rng.normal(0, 10, (height, width, 3))
            Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(folder / split / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pages"), {"train": 8, "val": 2, "test": 2})


def settings(**more: object) -> Config:
    train = {"epochs": 15, "batch_size": 8, "eval_every": 15, "lr": 4e-3}
    return for_orientation(
        resolve("hgnetv2_atto_cls", image_size=64, train=train, **{"data": {"workers": 0}, **more})
    )


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    return fit.train(data, settings(), out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def lying(page: np.ndarray, angle: int) -> np.ndarray:
    return turned(page, angle // 90)


def test_a_run_learns_which_way_pages_lie(run: fit.Run, data: Path) -> None:
    model = flexdetr.load(run.best)
    assert isinstance(model, flexdetr.Classifier)
    assert model.task == "orientation"
    assert model.classes.ids == (0, 90, 180, 270)
    assert model.evaluate(data, split="test").pair[0] >= 0.75
    assert (run.folder / "report.html").is_file()


def test_predict_and_evaluate_see_the_same_of_a_page(run: fit.Run, data: Path) -> None:
    model = flexdetr.load(run.best)
    file = data / "test" / "0.png"
    page = np.asarray(Image.open(file))
    by_path, by_array = model.predict(file), model.predict(page)
    assert np.array_equal(by_path.scores, by_array.scores)
    by_hand = model._inner.predict(middle(page), 0.0)
    assert np.array_equal(by_path.scores, by_hand.scores)


def test_exif_changes_no_answer(run: fit.Run, data: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    page = Image.open(data / "test" / "0.png")
    page.save(tmp_path / "plain.jpg")
    page.save(tmp_path / "tagged.jpg", exif=exif)
    first, second = flexdetr.load(run.best).predict([tmp_path / "plain.jpg", tmp_path / "tagged.jpg"])
    assert np.array_equal(first.scores, second.scores)


def test_upright_writes_pages_as_they_were_before_they_were_turned(
    run: fit.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "below").mkdir(parents=True)
    page = np.asarray(Image.open(data / "test" / "0.png"))
    for angle in (0, 90, 180, 270):
        Image.fromarray(lying(page, angle)).save(source / "below" / f"{angle}.png")
    (source / "broken.png").write_text("no picture")
    status = main(
        ["predict", str(run.best), str(source), "--upright", str(out), "--threshold", "0", "--json"]
    )
    assert status == 1  # one could not be read, and the rest went on
    shown = json.loads(capsys.readouterr().out)
    assert [one["file"] for one in shown["failed"]] == [str(source / "broken.png")]
    lines = [json.loads(line) for line in (out / "pages.jsonl").read_text().splitlines()]
    assert lines == shown["pages"]
    assert len(lines) == 4
    for line in lines:
        assert 0.25 <= line["score"] <= 1
        before = np.asarray(Image.open(line["file"]))
        after = np.asarray(Image.open(out / "below" / Path(line["file"]).name))
        assert np.array_equal(after, turned(before, -line["angle"] // 90))
        assert line["how"] == ("rearranged" if line["angle"] else "copied")


def test_pages_that_are_not_certain_stay_as_they_lie(
    run: fit.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(data / "test" / "0.png").rotate(180).save(tmp_path / "page.png")
    out = tmp_path / "out"
    args = ["predict", str(run.best), str(tmp_path / "page.png"), "--upright", str(out), "--threshold", "1"]
    assert main(args) == 0
    assert (out / "page.png").read_bytes() == (tmp_path / "page.png").read_bytes()
    assert "left as they lie: less certain than --threshold 1" in capsys.readouterr().err


def test_an_artifact_sets_upright_without_torch(run: fit.Run, data: Path, tmp_path: Path) -> None:
    artifact = flexdetr.load(run.best).export("openvino", tmp_path / "art", data=data)
    assert artifact.metadata.task == "orientation"
    there, here = (
        one.evaluate(data, split="test") for one in (flexdetr.load(artifact.path), flexdetr.load(run.best))
    )
    assert there.pair == here.pair
    page = np.asarray(Image.open(data / "test" / "0.png"))
    Image.fromarray(page).save(tmp_path / "page.png")
    program = (
        "import sys; from flexdetr.cli import main\n"
        f"status = main(['predict', {str(artifact.path)!r}, {str(tmp_path / 'page.png')!r}, '--upright', "
        f"{str(tmp_path / 'out')!r}, '--threshold', '0', '--json'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["pages"]
    expected = flexdetr.load(run.best).predict(tmp_path / "page.png")
    assert row["angle"] == expected.label
    assert row["score"] == pytest.approx(expected.score, abs=0.02)


def test_the_command_line_trains_it_on_a_folder_of_pages(data: Path, tmp_path: Path) -> None:
    args = ["train", str(data), "--task", "orientation", "--model", "hgnetv2_atto_cls", "--image-size", "64"]
    args += ["--epochs", "1", "--batch-size", "8", "--set", "data.workers=0", "--set", "train.report=false"]
    assert main([*args, "--weights", "none", "--out", str(tmp_path / "run")]) == 0
    assert flexdetr.load(tmp_path / "run" / "best.safetensors").task == "orientation"


def test_the_same_network_and_nothing_mirrored() -> None:
    base = resolve("pphgnet_tiny_cls")
    config = for_orientation(base)
    assert config.task == "orientation"
    assert config.head.model_dump() == {**base.head.model_dump(), "name": "orientation"}
    assert (config.data.flip, config.data.mosaic, config.data.mixup) == (0, 0, 0)
    assert for_orientation(config) == config


def test_a_backbone_learns_pages_at_the_full_rate_unless_told_otherwise() -> None:
    assert for_orientation(resolve("efficientnet_lite0_cls")).backbone.lr_mult == 1
    slower = resolve("efficientnet_lite0_cls", backbone={"lr_mult": 0.2})
    assert for_orientation(slower).backbone.lr_mult == 0.2


def test_wrong_use_is_refused_with_the_right_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="and flexdetr_nano is not one; take --model pphgnet_tiny_cls"):
        for_orientation(resolve("flexdetr_nano"))
    mirrored = settings(data={"workers": 0, "flip": 0.3})
    with pytest.raises(ConfigError, match=r"data.flip=0.3: a page that is mirrored"):
        PageSamples(read(data).splits["train"], mirrored.data, (64, 64), 0)
    colours = flexdetr.Classifier("hgnetv2_atto_cls", classes=["cat", "dog"], image_size=64)
    colours.save(tmp_path / "cats.safetensors")
    args = [
        "predict",
        str(tmp_path / "cats.safetensors"),
        str(data / "test"),
        "--upright",
        str(tmp_path / "out"),
    ]
    assert main(args) == 2
    assert "needs a model that was trained with --task orientation" in capsys.readouterr().err


def test_pages_are_not_written_over_themselves(
    run: fit.Run, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "test"
    assert main(["predict", str(run.best), str(folder), "--upright", str(folder)]) == 2
    assert "holds the pages themselves" in capsys.readouterr().err


def test_samples_are_squares_of_the_page_and_the_same_for_the_same_seed(data: Path) -> None:
    records = read(data).splits["train"]
    config = settings()
    first, second = (PageSamples(records, config.data, (64, 64), seed) for seed in (0, 0))
    for phase in ("strong", "plain"):
        for index in range(4):  # one page in its four turns
            sample = first.sample(index, 1, phase, (64, 64))
            assert sample.shape == (64, 64, 3)
            assert np.array_equal(sample, second.sample(index, 1, phase, (64, 64)))
    plain = [first.sample(index, 1, "plain", (64, 64)).astype(int) for index in range(4)]
    for turn in range(1, 4):
        assert np.abs(turned(plain[0], turn) - plain[turn]).mean() < 12
