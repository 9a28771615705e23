"""The verbs that need a trained detector, from drawn data to annotated pictures."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexdetr
from fakes.tiny import SMALL
from flexdetr.cli import main
from flexdetr.data.scenes import CLASSES, draw_scenes
from flexdetr.runtime.cpu import bf16_supported, cpu_features
from flexdetr.weights import store

# The preset's backbone, of which weights are published, and less behind it.
PARTS = {section: SMALL[section] for section in ("encoder", "head")}
TRAIN = (
    "--model",
    "flexdetr_pico",
    "--image-size",
    "64",
    "--epochs",
    "1",
    "--batch-size",
    "3",
    "--set",
    "data.workers=0",
    *(
        word
        for section, options in PARTS.items()
        for key, value in options.items()
        for word in ("--set", f"{section}.{key}={value}")
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=3, test=3, size=(96, 128))


@pytest.fixture(scope="module")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", str(data), *TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def checkpoint(run_folder: Path) -> str:
    return str(run_folder / "best.safetensors")


def test_a_run_leaves_what_the_documentation_says(run_folder: Path) -> None:
    wanted = {"config.yaml", "metrics.csv", "best.safetensors", "last.safetensors", "log.txt", "report.html"}
    wanted |= {"labels.csv", "samples.png"}
    assert wanted <= {path.name for path in run_folder.iterdir()}


def test_a_folder_with_a_run_is_not_overwritten(
    data: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(data), *TRAIN, "--out", str(run_folder)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_folder_without_data_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path), *TRAIN, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert all(form in error for form in ("COCO", "VOC", "YOLO"))


def test_check_lists_defects_with_file_and_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(data)]) == 0
    assert "usable: 0 errors" in capsys.readouterr().out
    copy = shutil.copytree(data, tmp_path / "copy")
    picture = copy / "train" / "scene_00002.jpg"
    picture.write_bytes(picture.read_bytes()[:500])
    assert main(["check", str(copy), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [defect["file"] for defect in report["defects"] if defect["severity"] == "error"] == [str(picture)]
    assert main(["check", str(copy)]) == 1
    assert "scene_00002.jpg: error" in capsys.readouterr().out
    assert main(["train", str(copy), *TRAIN, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "scene_00002.jpg" in error
    assert "data.skip_bad=true" in error


def test_info_reads_a_checkpoint(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", checkpoint, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == "flexdetr_pico"
    assert facts["image_size"] == [64, 64]
    assert facts["classes"] == dict(zip(CLASSES.names, CLASSES.ids, strict=True))


def test_info_shows_the_score_as_a_table(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", checkpoint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["validation", "ap"] for line in lines)
    for name in CLASSES.names:
        assert any(line.split()[0] == name and len(line.split()) > 5 for line in lines if line)
    assert not [line for line in lines if "{" in line or line.count(",") > 20]


def test_eval_prints_the_same_numbers_as_table_and_json(
    checkpoint: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", checkpoint, str(data), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["split"] == "test"
    assert numbers["computation"]["precision"] == "fp32"
    assert numbers["computation"]["runtime"].startswith("PyTorch")
    assert numbers["computation"]["cpu_features"] == list(cpu_features())
    assert len(numbers["per_class"]) == len(CLASSES)
    assert main(["eval", checkpoint, str(data)]) == 0
    table = capsys.readouterr().out
    assert f"{numbers['ap50']:.3f}" in table
    assert "computed with PyTorch" in table
    assert all(name in table for name in CLASSES.names)


@pytest.mark.parametrize("verb", ["eval", pytest.param("predict", marks=pytest.mark.slow)])
def test_precision_and_runtime_are_chosen_and_named(
    verb: str, checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [verb, checkpoint, str(data if verb == "eval" else data / "test"), "--json"]
    given += ["--out", str(tmp_path / "found")] if verb == "predict" else []
    for runtime, computes in (("auto", "PyTorch"), ("torch", "PyTorch"), ("openvino", "OpenVINO")):
        for precision in ("fp32", "bf16"):
            if precision == "bf16" and not bf16_supported():
                continue
            assert main([*given, "--runtime", runtime, "--precision", precision]) == 0
            how = json.loads(capsys.readouterr().out)["computation"]
            assert how["runtime"].startswith(computes)
            assert how["precision"] == precision
    assert main(given) == 0
    how = json.loads(capsys.readouterr().out)["computation"]
    assert how["precision"] == ("bf16" if verb == "predict" and bf16_supported() else "fp32")
    for option, value, said in (
        ("--precision", "fp23", "did you mean 'fp32'"),
        ("--precision", "fp16", "needs a GPU"),
        ("--runtime", "opnvino", "did you mean 'openvino'"),
        ("--runtime", "onnxruntime", "unknown runtime for a checkpoint 'onnxruntime'"),
    ):
        assert main([*given, option, value]) == 2
        assert said in capsys.readouterr().err


def test_eval_of_weights_that_are_no_numbers_is_a_sentence(
    data: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, metadata = store.load(checkpoint)
    broken = {name: value * np.nan if value.is_floating_point() else value for name, value in state.items()}
    store.save(tmp_path / "nan.safetensors", broken, metadata)
    assert main(["eval", str(tmp_path / "nan.safetensors"), str(data)]) == 1
    said = capsys.readouterr().err
    assert "Error: detections of image" in said
    assert "hold a NaN" in said


def test_eval_writes_a_page_where_it_is_told_to(
    checkpoint: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", checkpoint, str(data), "--split", "val", "--report", "--json"]) == 0
    answer, said = capsys.readouterr()
    assert json.loads(answer)["split"] == "val"
    assert "best-val.html" in said
    page = (tmp_path / "best-val.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("Confusion", "Thresholds", *CLASSES.names))
    assert main(["eval", checkpoint, str(data), "--out", str(tmp_path / "pages" / "mine.html")]) == 0
    assert (tmp_path / "pages" / "mine.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_predict_takes_each_class_s_best_threshold_from_the_checkpoint(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, metadata = store.load(checkpoint)
    found = flexdetr.load(checkpoint).predict(next((data / "test").glob("*.jpg")), threshold=0.0)
    usual = float(np.quantile(found.scores, 0.9))
    chosen = {found.names[0]: float(found.scores[0]), "default": usual}
    file = tmp_path / "chosen.safetensors"
    store.save(file, state, replace(metadata, thresholds=chosen))
    arguments = ["--threshold", "auto", "--out", str(tmp_path / "found"), "--json"]
    assert main(["predict", str(file), str(data / "test"), *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    detector = flexdetr.load(checkpoint)
    for image in answer["images"]:
        everything = detector.predict(image["file"], threshold=0.0)
        scores = zip(everything.names, everything.scores.tolist(), strict=True)
        wanted = [name for name, score in scores if score >= chosen.get(name, usual)]
        assert sorted(one["name"] for one in image["objects"]) == sorted(wanted)
    assert any(image["objects"] for image in answer["images"])
    assert main(["predict", checkpoint, str(data / "test"), *arguments]) == 2  # it has found nothing yet
    assert "give a threshold" in capsys.readouterr().err
    assert main(["predict", checkpoint, str(data / "test"), "--threshold", "automatic"]) == 2
    assert "or auto; got 'automatic'" in capsys.readouterr().err


def test_train_says_at_once_what_a_log_lacks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(data), *TRAIN, "--out", str(out), "--set", "log=tensorboard,wandbb"]) == 2
    assert "did you mean 'wandb'?" in capsys.readouterr().err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    assert main(["train", str(data), *TRAIN, "--out", str(out), "--set", "log=mlflow"]) == 2
    assert "pip install 'flexdetr[mlflow]'" in capsys.readouterr().err
    assert not out.exists()


def test_what_a_run_starts_from_is_said(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "weights: random, since https://" in (run_folder / "log.txt").read_text(encoding="utf-8")
    assert "\nweights: none\n" in (run_folder / "config.yaml").read_text(encoding="utf-8")
    out = tmp_path / "run"
    assert main(["train", str(data), *TRAIN, "--out", str(out), "--weights", "coco"]) == 1
    told = capsys.readouterr().err
    assert "no detector is published for flexdetr_pico, but its backbone hgnetv2_b0 is" in told
    assert "--weights backbone" in told
    assert main(["predict", "rtdetr_r18", str(data / "test"), "--out", str(out)]) == 1
    assert "rtdetr_r18vd_dec3_6x_coco_from_paddle.pth" in capsys.readouterr().err
    assert main(["predict", "rtdetr_r81", str(data / "test"), "--out", str(out)]) == 1
    assert "did you mean rtdetr_r18" in capsys.readouterr().err
    assert not out.exists()


def test_predict_writes_pictures_json_and_csv(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    arguments = [
        "predict",
        checkpoint,
        str(data / "test"),
        "--threshold",
        "0.01",
        "--out",
        str(out),
        "--json",
    ]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    document = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((out / "detections.csv").open(encoding="utf-8", newline="")))
    objects = [found for image in answer["images"] for found in image["objects"]]
    assert len(answer["images"]) == len(document["images"]) == 3
    assert len(objects) == len(document["annotations"]) == len(rows) > 0
    assert {row["category_id"] for row in document["annotations"]} <= set(CLASSES.ids)
    assert document["categories"] == CLASSES.to_json()
    for image in answer["images"]:
        assert Image.open(image["picture"]).size == (128, 96)


def test_predict_goes_on_after_an_unreadable_file(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    good = [str(path) for path in sorted((data / "test").glob("*.jpg"))]
    out = tmp_path / "found"
    status = main(
        ["predict", checkpoint, good[0], str(broken), "gone.jpg", good[1], "--out", str(out), "--json"]
    )
    answer, error = capsys.readouterr()
    assert status == 1
    assert [image["file"] for image in json.loads(answer)["images"]] == good[:2]
    assert {failure["file"] for failure in json.loads(answer)["failed"]} == {str(broken), "gone.jpg"}
    assert "broken.jpg" in error
    assert "Traceback" not in error
    assert main(["predict", checkpoint, str(broken), "--out", str(out)]) == 1
    assert (
        capsys.readouterr().out == f"no picture could be read; {out / 'detections.jsonl'} has the reasons\n"
    )


def test_predict_keeps_pictures_of_the_same_name_apart(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [str(data / split / "scene_00001.jpg") for split in ("test", "val")]
    assert main(["predict", checkpoint, *pictures, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"scene_00001.jpg", "scene_00001-2.jpg"}


def test_predict_never_overwrites_its_sources(
    checkpoint: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (data / "test" / "scene_00001.jpg").read_bytes()
    assert main(["predict", checkpoint, str(data / "test"), "--out", str(data / "test")]) == 2
    assert "overwritten" in capsys.readouterr().err
    assert (data / "test" / "scene_00001.jpg").read_bytes() == before


def test_predict_twice_passes_its_own_results_over(
    checkpoint: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = sorted((data / "test").glob("*.jpg"))
    for picture in pictures[:2]:
        shutil.copy(picture, tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["predict", checkpoint, ".", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert [image["file"] for image in answer["images"]] == [picture.name for picture in pictures[:2]]
    (tmp_path / pictures[0].name).unlink()
    assert main(["predict", checkpoint, "."]) == 0
    assert [path.name for path in (tmp_path / "runs" / "predict").glob("*.jpg")] == [pictures[1].name]


def test_predict_takes_the_ids_of_the_data_set(
    checkpoint: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    given = ["predict", checkpoint, str(data / "test"), "--data", str(data), "--out", str(out)]
    assert main([*given, "--threshold", "0.01"]) == 0
    document = json.loads((data / "annotations" / "instances_test.json").read_text())
    known = {image["id"] for image in document["images"]}
    listed = json.loads((out / "results.json").read_text())
    assert listed
    assert {row["image_id"] for row in listed} <= known
    assert set(listed[0]) == {"image_id", "category_id", "bbox", "score"}
    assert main([*given, "--threshold", "0.01", str(Path(checkpoint).parent / "samples.png")]) == 0
    assert "1 pictures do not belong to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["gone.jpg", "away.png"], 1, "there is no such file"),
        (["PICTURE", "--out", "FILE"], 2, "is a file; name a folder"),
        (["PICTURE", "--out", "FILE/below"], 1, "Not a directory"),
        (["PICTURE", "--threshold", "1.5"], 2, "takes a score between 0 and 1"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_model_is_loaded(
    words: list[str], status: int, said: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "model.safetensors").write_bytes(b"no model, which would be told if it was read")
    places = {"PICTURE": str(next((data / "test").glob("*.jpg")))}
    given = [places.get(word, word.replace("FILE", str(tmp_path / "file"))) for word in words]
    program = f"""
import sys
from flexdetr.cli import main
status = main(["predict", {str(tmp_path / "model.safetensors")!r}, *{given!r}])
assert "torch" not in sys.modules
raise SystemExit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_convert_to_transformers_and_back(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.safetensors"
    assert main(["convert", checkpoint, "--out", str(again)]) == 0
    assert main(["info", checkpoint, "--json"]) == main(["info", str(again), "--json"]) == 0
    assert "mapped" in capsys.readouterr().out
    assert main(["convert", checkpoint, "--to", "transformer", "--out", str(tmp_path / "folder")]) == 2
    assert "did you mean 'transformers'" in capsys.readouterr().err
    assert main(["convert", checkpoint, "--from", "padle", "--out", str(again)]) == 2
    assert "'paddle'" in capsys.readouterr().err


def test_convert_refuses_parts_that_transformers_lacks_before_torch_is_loaded(tmp_path: Path) -> None:
    own = flexdetr.Detector(
        "flexdetr_pico", classes=["cat"], image_size=64, attention={"backbone.16": "ema"}, **PARTS
    )
    file = str(own.save(tmp_path / "own.safetensors"))
    program = f"""
import sys
from flexdetr.cli import main
status = main(["convert", {file!r}, "--to", "transformers", "--out", {str(tmp_path / "out")!r}])
assert "torch" not in sys.modules
raise SystemExit(status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "no counterpart of" in done.stderr
    assert "attention inserts" in done.stderr
    assert not (tmp_path / "out").exists()


def test_convert_refuses_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "model.pth"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    assert main(["convert", str(page), "--out", str(tmp_path / "model.safetensors")]) == 1
    error = capsys.readouterr().err
    assert "web page" in error
    assert error.count("\n") == 1
