"""The C++ and C# clients: built against what the openvino wheel ships, they find what Python finds."""

from __future__ import annotations

import ctypes.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from PIL import Image
from torch import nn

import flexdetr
from fakes.tiny import ONE_LAYER
from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.openvino import quantise
from flexdetr.export.prepare import Options, prepare
from flexdetr.runtime.artifact import Artifact, describe_files, open_artifact, write_metadata
from flexdetr.runtime.cpu import bf16_supported
from flexdetr.runtime.middle import middle
from flexdetr.runtime.process import THRESHOLD

ROOT = Path(__file__).parents[2]
WHEEL = Path(openvino.__file__).parent
# A name that JSON has to escape, and ids with a hole.
CLASSES = Classes(('a "cat"', "dög", "owl"), (1, 2, 7))
Client = Callable[..., subprocess.CompletedProcess[str]]


def missing(*programs: str) -> str:
    """What a client needs and this machine lacks, in words."""
    lacking = [program for program in programs if shutil.which(program) is None]
    if ctypes.util.find_library("turbojpeg") is None or not Path("/usr/include/turbojpeg.h").exists():
        lacking.append("libturbojpeg0-dev")
    return f"{', '.join(lacking)} not installed" if lacking else ""


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)


def built(command: list[str]) -> None:
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Client:
    if why := missing("g++", "cmake", "make"):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("cpp")
    built(["cmake", "-S", str(ROOT / "examples/cpp"), "-B", str(folder), f"-DOpenVINO_DIR={WHEEL / 'cmake'}"])
    built(["cmake", "--build", str(folder)])
    return lambda *words: run([str(folder / "detect"), *map(str, words)])


@pytest.fixture(scope="module")
def csharp(tmp_path_factory: pytest.TempPathFactory) -> Client:
    if why := missing("mcs", "mono"):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("csharp")
    (folder / "libopenvino_c.so").symlink_to(next((WHEEL / "libs").glob("libopenvino_c.so*")))
    source = ROOT / "examples/csharp/Detect.cs"
    built(["mcs", "-langversion:7", f"-out:{folder / 'Detect.exe'}", str(source)])
    environment = {
        "LD_LIBRARY_PATH": f"{folder}:{WHEEL / 'libs'}",
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }
    return lambda *words: run(["mono", str(folder / "Detect.exe"), *map(str, words)], env=environment)


@pytest.fixture(params=["cpp", "csharp"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A tiny detector with scores that differ from class to class and place to place."""
    torch.manual_seed(0)
    detector = Detector("flexdetr_pico", classes=CLASSES, image_size=(64, 96), **ONE_LAYER)
    decoder: Any = detector.model.head
    with torch.no_grad():
        for part in detector.model.modules():  # else every place of an untrained network looks the same
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.1)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        for score in (decoder.encoder_score, *decoder.scores):
            nn.init.normal_(score.weight, std=0.6)
            nn.init.constant_(score.bias, -1.0)
        for box in (decoder.encoder_box, *decoder.boxes):
            nn.init.normal_(box.layers[-1].weight, std=0.15)
    return detector


@pytest.fixture(scope="module")
def artifact(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector.export("openvino", tmp_path_factory.mktemp("artifact") / "tiny").path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "scène.jpg"
    Image.fromarray(draw_scene(np.random.default_rng(0), (97, 131)).image).save(path, quality=92)
    return path


def test_finds_what_python_finds(client: Client, artifact: Path, photo: Path) -> None:
    expected = ArtifactDetector(artifact, precision="fp32", cache=False).predict(photo, 0.3)
    assert len(expected) > 5
    assert len(set(expected.labels.tolist())) > 1
    done = client(artifact, photo, "0.295", "fp32")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    # The client's picture is resized by the graph, without Pillow's rounding: neighbours in score may change places.
    for box, score, label, name in zip(
        expected.boxes_xyxy, expected.scores, expected.labels, expected.names, strict=True
    ):
        match = min(
            (row for row in found if row["label"] == label),
            key=lambda row: float(np.abs(np.array(row["box_xyxy"]) - box).max()),
        )
        assert match["box_xyxy"] == pytest.approx(box.tolist(), abs=0.02)  # measured: 0.0075
        assert match["score"] == pytest.approx(float(score), abs=3e-3)  # measured: 0.0013
        assert match["name"] == name
    assert len(expected) <= len(found) <= len(expected) + 3


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose answers differ from picture to picture and place to place."""
    torch.manual_seed(0)
    model = flexdetr.Classifier("hgnetv2_atto_cls", classes=CLASSES, image_size=64)
    with torch.no_grad():
        for part in model.model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.1)  # type: ignore[arg-type]
                nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        nn.init.normal_(model.model.head.linear.weight, std=0.02)
    return model.export("openvino", tmp_path_factory.mktemp("classifier") / "tiny").path


@pytest.mark.parametrize("shape", [(97, 131), (140, 99)])
def test_a_classifier_is_shown_the_middle(
    client: Client, classifier: Path, tmp_path: Path, shape: tuple[int, int]
) -> None:
    """All classes without a threshold, most probable first; what is around the middle changes nothing."""
    picture = tmp_path / "photo.jpg"
    image = np.full((*shape, 3), (255, 0, 0), np.uint8)  # a frame that no classifier sees
    scene = draw_scene(np.random.default_rng(5), shape).image
    middle(image)[:] = middle(scene)
    Image.fromarray(image).save(picture, quality=95, subsampling=0)
    expected = flexdetr.load(classifier, precision="fp32", cache=False).predict(picture)
    whole = ArtifactDetector(classifier, precision="fp32", cache=False).predict(picture, 0.0)
    assert np.abs(np.sort(whole.scores) - np.sort(expected.scores)).max() > 0.02
    done = client(classifier, picture, *(() if shape[0] < 100 else ("0", "fp32")))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found] == list(expected.names)
    assert [row["label"] for row in found] == expected.labels.tolist()
    # The graph resizes without Pillow's rounding, and in bf16 where that passed.
    assert [row["score"] for row in found] == pytest.approx(expected.scores.tolist(), abs=1e-2)


@pytest.fixture(scope="module")
def in_int8(
    detector: Detector, artifact: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The artifact in int8, without the proof, which is not what is tested here."""
    folder = shutil.copytree(artifact, tmp_path_factory.mktemp("int8") / "tiny")
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    record = Record(photo, 0, 131, 97, *nothing, np.zeros(0, np.float32))
    metadata = open_artifact(folder).metadata
    form = prepare(detector.model, Options(metadata.input.size, resize_inside=True))
    feeds = CalibrationPictures((record,), metadata.input.size, raw=False, source="")
    quantise(folder / "model.xml", form, feeds, ())
    files = describe_files(folder, [*metadata.files])
    write_metadata(folder, metadata.model_copy(update={"precision": "int8", "files": files}))
    return folder


def test_int8_is_what_python_finds(client: Client, in_int8: Path, tmp_path: Path) -> None:
    # In the network's size: eight bits make more of the rounding by Pillow, which the graph's own resizing leaves out.
    picture = tmp_path / "small.jpg"
    scene = Image.fromarray(draw_scene(np.random.default_rng(1), (96, 144)).image)
    scene.resize((96, 64)).save(picture, quality=92)
    expected = ArtifactDetector(in_int8, precision="fp32", cache=False).predict(picture, 0.0)[:15]
    done = client(in_int8, picture, "0", "fp32")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # The same graph on the same pixels: scores differ by less than 1e-7.
    assert [row["score"] for row in found[:15]] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    for box, score, label in zip(expected.boxes_xyxy, expected.scores, expected.labels, strict=True):
        assert any(
            row["label"] == label
            and row["score"] == pytest.approx(float(score), abs=1e-5)
            and row["box_xyxy"] == pytest.approx(box.tolist(), abs=1e-3)
            for row in found
        )


def test_keeps_to_the_thresholds_of_the_artifact(
    client: Client, artifact: Path, photo: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "own")
    document = json.loads((folder / "metadata.json").read_text())
    document["thresholds"] = {"default": 0.1, "owl": 1.0}
    (folder / "metadata.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    names = {row["name"] for row in json.loads(client(folder, photo, "auto").stdout)}
    assert "owl" not in names
    assert len(names) == 2
    assert json.loads(client(folder, photo, 1.0).stdout) == []
    for asked, threshold in (((), THRESHOLD), (("auto",), "auto")):
        found = ArtifactDetector(folder, precision="fp32", cache=False).predict(photo, threshold)
        scores = [row["score"] for row in json.loads(client(folder, photo, *asked).stdout)]
        # Where a score is within rounding of the limit, either may be right.
        assert abs(len(scores) - len(found)) <= 1
    bare = shutil.copytree(artifact, tmp_path / "bare")
    assert "carries no best thresholds" in client(bare, photo, "auto").stderr


def test_their_default_is_the_librarys() -> None:
    for file in ("examples/cpp/detect.cpp", "examples/csharp/Detect.cs"):
        assert set(re.findall(r'"(0\.\d+)"', (ROOT / file).read_text())) == {str(THRESHOLD)}


@pytest.mark.parametrize(
    "what", ["half a description", "another format", "half a model", "no picture", "nothing"]
)
def test_answers_in_a_sentence(
    client: Client, artifact: Path, photo: Path, tmp_path: Path, what: str
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    metadata = folder / "metadata.json"
    if what == "half a description":
        metadata.write_bytes(metadata.read_bytes()[:600])
    elif what == "another format":
        metadata.write_text(metadata.read_text().replace('"format": "openvino"', '"format": "onnx"'))
    elif what == "half a model":
        (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:1000])
    elif what == "no picture":
        photo = tmp_path / "no.jpg"
        photo.write_text("no picture")
    done = client(folder, photo) if what != "nothing" else client(folder)
    said = {
        "half a description": "metadata.json ends too early",
        "another format": "is not what flexdetr export --format openvino writes by default",
        "half a model": "model.bin is not what was exported: copy the folder again",
        "no picture": "no.jpg cannot be read as a JPEG",
        "nothing": "usage: ",
    }[what]
    assert done.returncode in (1, 2)
    assert said.lower() in done.stderr.lower()
    assert not done.stdout.strip().startswith("[")


@pytest.mark.parametrize("channels", [1, 4], ids=["grey", "four"])
def test_refuses_an_artifact_that_takes_no_rgb(
    client: Client, photo: Path, once: Callable[[str, Callable[[Path], Artifact]], Artifact], channels: int
) -> None:
    def write(path: Path) -> Artifact:
        data = {"channels": channels}
        other = Detector("flexdetr_pico", classes=CLASSES, image_size=(64, 96), data=data, **ONE_LAYER)
        return other.export("openvino", path)

    folder = once(f"clients-{channels}", write).path
    done = client(folder, photo, "0.1", "fp32")
    assert done.returncode == 1
    assert done.stdout.strip() == ""
    assert f"{folder} takes pictures that are not RGB: this program reads three channels only" in done.stderr


@pytest.mark.skipif(not bf16_supported(), reason="this CPU does not compute in bf16")
@pytest.mark.parametrize("passed", [True, False])
def test_computes_in_bf16_only_where_that_was_proven(
    client: Client, artifact: Path, photo: Path, tmp_path: Path, passed: bool
) -> None:
    folder = shutil.copytree(artifact, tmp_path / "own")
    metadata = open_artifact(folder).metadata
    proof = metadata.precisions["bf16"].model_copy(update={"passed": passed})
    write_metadata(folder, metadata.model_copy(update={"precisions": {"bf16": proof}}))
    alone, in_bf16, in_fp32 = (
        json.loads(client(folder, photo, *words).stdout)
        for words in (("0.1",), ("0.1", "bf16"), ("0.1", "fp32"))
    )
    assert in_bf16 != in_fp32
    assert alone == (in_bf16 if passed else in_fp32)


def test_reads_the_format_before(client: Client, artifact: Path, photo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact, tmp_path / "old")
    document = json.loads((folder / "metadata.json").read_text())
    old = {key: value for key, value in document.items() if key not in ("precisions", "reference")}
    (folder / "metadata.json").write_text(json.dumps({**old, "format_version": 1}))
    found = json.loads(client(folder, photo, "0.1").stdout)
    assert found == json.loads(client(artifact, photo, "0.1", "fp32").stdout)


@pytest.mark.parametrize("source", ["cpp/detect.cpp", "csharp/Detect.cs"])
def test_is_short(source: str) -> None:
    assert (ROOT / "examples" / source).read_text().count("\n") < 175
