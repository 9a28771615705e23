"""What a base install, without torch, answers where more is needed: one sentence that names the extra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Verb by verb, in one process that cannot import what the extras bring.
PROGRAM = """
import contextlib, io, json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from flexdetr.cli import main
answers = {{}}
for words in {commands!r}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    answers[words[0]] = (status, said.getvalue())
print(json.dumps(answers))
"""
EXTRAS = ("torch", "torchvision", "timm", "scipy", "safetensors", "huggingface_hub", "psutil", "onnx")


def answers(commands: list[list[str]], refused: tuple[str, ...] = EXTRAS) -> dict[str, tuple[int, str]]:
    program = PROGRAM.format(refused=refused, commands=commands)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flexdetr.api import Detector

    detector = Detector(
        "flexdetr_pico",
        classes=["cat"],
        image_size=64,
        backbone="hgnetv2_atto",
        head={"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0},
    )
    return detector.save(tmp_path_factory.mktemp("base") / "best.safetensors")


def test_every_verb_that_needs_more_names_the_extra(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "one.jpg"
    Image.new("RGB", (40, 30)).save(picture)
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (40, 30)).save(tmp_path / "data" / f"{name}.jpg")
    (tmp_path / "data" / "annotations.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": number, "file_name": f"{name}.jpg", "width": 40, "height": 30}
                    for number, name in enumerate(("one", "two"), 1)
                ],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
                ],
            }
        )
    )
    data, file = str(tmp_path / "data"), str(checkpoint)
    commands = [
        ["train", data, "--model", "flexdetr_pico", "--out", str(tmp_path / "run")],
        ["predict", file, str(picture), "--out", str(tmp_path / "out")],
        ["eval", file, data],
        ["export", file, "--format", "openvino"],
        ["bench", file],
    ]
    for verb, (status, said) in answers(commands).items():
        assert status == 1, (verb, said)
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        assert last.startswith("Error: this needs "), (verb, said)
        assert last.endswith("pip install 'flexdetr[train]'"), (verb, said)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"images/train/a.jpg": None, "labels/train/a.txt": "0 0.5 0.5 0.4 0.4\n"},
            "a single training image cannot be",
        ),
        ({"images/val/a.jpg": None, "labels/val/a.txt": "0 0.5 0.5 0.4 0.4\n"}, "has no split 'train'"),
        (
            {"images/train/a.jpg": None, "images/train/b.jpg": None, "labels/train/a.txt": "7 1 1\n"},
            "cannot be used",
        ),
        ({}, "no data set"),
    ],
)
def test_data_that_cannot_be_trained_on_is_answered_before_torch_is_needed(
    tmp_path: Path, files: dict[str, str | None], said: str
) -> None:
    from PIL import Image

    for name, content in files.items():
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (40, 30)).save(file)
        else:
            file.write_text(content)
    (tmp_path / "data").mkdir(exist_ok=True)
    keys = [
        f"{split}: images/{split}\n"
        for split in ("train", "val")
        if (tmp_path / "data/images" / split).exists()
    ]
    if keys:
        (tmp_path / "data" / "data.yaml").write_text("".join([*keys, "names: [bolt]\n"]))
    ((status, answer),) = answers(
        [["train", str(tmp_path / "data"), "--model", "flexdetr_pico", "--out", str(tmp_path / "run")]]
    ).values()
    assert status in (1, 2)
    assert said in answer
    assert "needs torch" not in answer
    assert not (tmp_path / "run").exists()


def test_checking_an_onnx_file_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "some.onnx").write_bytes(b"x")
    (answer,) = answers([["check", str(tmp_path / "some.onnx")]]).values()
    assert answer == [1, "Error: this needs onnx: install it with pip install 'flexdetr[export]'\n"]
    without_torch = tuple(name for name in EXTRAS if name != "onnx")
    (answer,) = answers([["check", str(tmp_path / "some.onnx")]], without_torch).values()
    assert answer[0] == 1
    assert "some.onnx cannot be read as ONNX" in answer[1]
    assert answer[1].count("\n") == 1


def test_an_artifact_that_cannot_be_used_is_answered_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("a note")
    lonely = tmp_path / "lonely.onnx"
    lonely.write_bytes(b"x")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "metadata.json").write_text('{"format_version": 99}')
    said = {
        str(tmp_path / "folder"): "",
        str(tmp_path / "text.txt"): "",
        str(tmp_path / "gone-openvino"): "",
        str(lonely): "it holds no metadata.json",
        str(artifact): "has format version 99, and this FlexDETR reads 1 to 2: update flexdetr",
    }
    for file, expected in said.items():
        ((status, error),) = answers([["predict", file, "cell.jpg", "--out", str(tmp_path / "out")]]).values()
        assert status == 1, file
        assert error.count("\n") == 1, error
        assert error.startswith("Error: ")
        assert expected in error
