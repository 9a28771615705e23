"""Folders of pictures as a classifier's data: splits, order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.config import ConfigError, DataConfig
from flexdetr.data import detect
from flexdetr.data.class_folders import class_folders, read
from flexdetr.data.class_samples import ClassSamples
from flexdetr.data.dataset import DataError
from flexdetr.data.record_pixels import read_record


def picture(path: Path, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name) * 9, 40, 200)).save(path)


def test_splits_by_folder(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for name in ("cat", "Dog"):
            for number in range(count):
                picture(tmp_path / split / name / f"{number}.png")
    dataset = read(tmp_path)
    assert dataset.classes.names == ("cat", "Dog")
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    record = dataset.splits["val"][0]
    assert record.boxes_xyxy.tolist() == [[0, 0, 24, 16]]
    assert record.image_id == "valid/cat/0.png"


def test_without_splits_some_are_cut_off_with_the_seed(tmp_path: Path) -> None:
    for name in ("10", "9"):
        for number in range(5):
            picture(tmp_path / name / "deeper" / f"{number}.jpg")
    dataset = read(tmp_path, val_fraction=0.2, seed=1)
    assert dataset.classes.names == ("9", "10")
    assert len(dataset.splits["val"]) == 2
    assert dataset.notes
    assert len(class_folders(tmp_path)) == 2


def test_what_is_no_picture_is_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "train" / name / "0.png")
    (tmp_path / "train" / "a" / "broken.jpg").write_text("no picture", encoding="utf-8")
    (defect,) = read(tmp_path, val_fraction=None).defects
    assert defect.file.name == "broken.jpg"
    assert defect.split == "train"


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no folders"):
        read(tmp_path)
    picture(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="has one class only, cat"):
        read(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"1 class folders hold no pictures: .*dog; put some into them"):
        read(tmp_path)


def test_no_pictures_anywhere(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
    picture(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"holds no training pictures; put those of each class into a folder"):
        read(tmp_path)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no training pictures"):
        read(tmp_path / "empty")


def test_a_test_split_alone_can_be_scored_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "test" / name / "0.png")
    assert [*read(tmp_path).splits] == ["test"]
    (tmp_path / "test" / "cat" / "0.png").unlink()
    (tmp_path / "test" / "dog" / "0.png").unlink()
    with pytest.raises(DataError, match="holds no pictures; put"):
        read(tmp_path)


def test_a_detectors_reader_answers_them_in_one_sentence(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "train" / name / "0.png")
    with pytest.raises(DataError) as caught:
        detect.read(tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    assert f"(cat, dog) that look like the classes of a classifier: flexdetr train {tmp_path} --model" in said
    # Pictures in the folders of a detection data set are no classes.
    for name in ("images", "val"):
        picture(tmp_path / "other" / name / "0.png")
    with pytest.raises(DataError, match="Looked for") as caught:
        detect.read(tmp_path / "other")
    assert "classifier" not in str(caught.value)


def test_the_middle_is_shown(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "train" / name / "0.png", (40, 16))
    (record, *_) = read(tmp_path, val_fraction=None).splits["train"]
    assert (record.width, record.height) == (40, 16)
    assert read_record(record).shape == (14, 14, 3)


@pytest.mark.parametrize("phase", ["plain", "strong", "mosaic"])
def test_samples_are_the_same_again(phase: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png")
    records = read(tmp_path, val_fraction=None).splits["train"]
    makers = [
        ClassSamples(records, DataConfig(mixup=1.0, mosaic=0.0, zoom_out=0.0), (32, 32), 7) for _ in range(2)
    ]
    first, second = (maker.sample(0, 3, phase, (32, 32), range(6)) for maker in makers)  # type: ignore[arg-type]
    assert first.image.shape == (32, 32, 3)
    assert np.array_equal(first.image, second.image)
    assert (first.labels, first.shares) == (second.labels, second.shares)
    assert sum(first.shares) == pytest.approx(1)
    assert len(first.labels) == (2 if phase == "mosaic" else 1)


def test_what_only_detectors_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.tiles=320 is for detectors"):
        ClassSamples((), DataConfig(mosaic=0.0, zoom_out=0.0, tiles=320), (32, 32), 0)
