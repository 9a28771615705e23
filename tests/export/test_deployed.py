"""The detector from an artifact: without torch, with the same results on every runtime, and clear answers."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexdetr
from flexdetr import deployed
from flexdetr.api import Detector
from flexdetr.config import ConfigError
from flexdetr.data.images import ImageError, read_image
from flexdetr.data.scenes import draw_scene, draw_scenes
from flexdetr.deployed import ArtifactDetector
from flexdetr.runtime.artifact import Artifact, ArtifactError, open_artifact, write_metadata
from flexdetr.runtime.cpu import SWITCH, bf16_supported, cpu_features
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import drift
from flexdetr.runtime.process import THRESHOLD
from flexdetr.runtime.slicing import Slicing
from flexdetr.runtime.sources import Unreadable, find

Exported = Callable[[str], Artifact]
InFloat32 = Callable[[Detector, Path, float], Detections]

needs_bf16 = pytest.mark.skipif(not bf16_supported(), reason="this CPU does not compute in bf16")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of several sizes, of which one is damaged and one is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        size = ((96, 128), (160, 120))[i % 2]
        Image.fromarray(draw_scene(np.random.default_rng(i), size).image).save(folder / f"{i}.jpg")
    damaged = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(damaged[: len(damaged) // 2])
    (folder / "6.jpg").write_text("no picture")
    return folder


def opened(exported: Exported, kind: str, **options: object) -> ArtifactDetector:
    return ArtifactDetector(exported(kind).path, cache=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def data_of_two(tmp_path: Path) -> Path:
    """Two labelled scenes, with the detector's classes among others."""
    data = draw_scenes(tmp_path / "scenes", train=0, val=0, test=2, size=(96, 96))
    document = json.loads((data / "annotations" / "instances_test.json").read_text())
    for row, name in zip(document["categories"], ("cat", "dog", "owl", "x", "y", "z"), strict=True):
        row["name"] = name
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] <= 3]
    (data / "annotations" / "instances_test.json").write_text(json.dumps(document))
    return data


def test_a_detectors_repr_says_what_it_is(exported: Exported, detector: Detector) -> None:
    classes = "96x64 pixels, 3 classes (cat, dog, owl)>"
    assert repr(detector) == f"<Detector flexdetr_pico, {classes}"
    shown = repr(opened(exported, "openvino"))
    assert shown == f"<ArtifactDetector flexdetr_pico, openvino fp32 on openvino, {classes}"


def test_one_picture_is_predicted_without_threads(
    exported: Exported, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = opened(exported, "openvino")
    several = detector.predict([photos / "0.jpg", photos / "1.jpg"], 0.1)
    monkeypatch.setattr(deployed, "Pool", None)
    one = detector.predict(photos / "0.jpg", 0.1)
    assert np.array_equal(one.boxes_xyxy, several[0].boxes_xyxy)
    assert np.array_equal(one.scores, several[0].scores)
    with pytest.raises(ImageError, match=r"3\.jpg"):
        detector.predict(photos / "3.jpg")


def test_an_artifact_looks_in_tiles_where_it_is_asked_to(exported: Exported) -> None:
    detector = opened(exported, "openvino")
    image = draw_scene(np.random.default_rng(3), (128, 192)).image
    found = detector.predict(image, 0.1, slice=96)
    (again,) = detector.predict([image], 0.1, slice=Slicing(96))
    assert found.boxes_xyxy.tolist() == again.boxes_xyxy.tolist()
    assert found.size == (128, 192)
    assert found.boxes_xyxy.tolist() != detector.predict(image, 0.1).boxes_xyxy.tolist()


def test_runs_without_torch(exported: Exported, photos: Path, data_of_two: Path, tmp_path: Path) -> None:
    data = data_of_two
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "scipy", "safetensors"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
import flexdetr
from flexdetr.cli import main
for path in ({str(exported("openvino").path)!r}, {str(exported("onnx").path)!r}):
    detector = flexdetr.load(path, cache=False)
    assert detector.predict({str(photos / "0.jpg")!r}, threshold=0.3).labels.tolist()
    assert detector.evaluate({str(data)!r}, "test").ap >= 0
    code = main(["predict", path, {str(photos / "0.jpg")!r}, "--out", {str(tmp_path / "out")!r}, "--json"])
    assert code == 0, code
assert not {{"torch", "torchvision", "timm"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "detections.json").is_file()


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [("openvino", "openvino"), ("onnx", "onnxruntime"), ("onnx", "openvino"), ("torch", "torch")],
)
def test_finds_what_the_model_finds(
    exported: Exported, detector: Detector, photos: Path, in_float32: InFloat32, kind: str, runtime: str
) -> None:
    picture = photos / "0.jpg"
    expected = in_float32(detector, picture, 0.3)
    options = {"precision": "fp32"} if runtime == "openvino" else {}
    found = opened(exported, kind, runtime=runtime, **options).predict(picture, threshold=0.3)
    assert len(found) == len(expected) > 0
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert found.boxes_xyxy == pytest.approx(expected.boxes_xyxy, abs=0.01)
    assert found.labels.tolist() == expected.labels.tolist()
    assert set(found.labels.tolist()) <= {1, 2, 7}
    assert found.size == expected.size


@needs_bf16
def test_in_bf16_it_finds_nearly_that(
    settled: Detector, settled_artifact: Artifact, photos: Path, in_float32: InFloat32
) -> None:
    artifact = ArtifactDetector(settled_artifact.path, cache=False)
    assert artifact.runtime().description == "OpenVINO on CPU in bf16"
    pictures = [photos / f"{i}.jpg" for i in (0, 1, 2, 4, 5)]
    expected = [in_float32(settled, picture, 0.0) for picture in pictures]
    found = artifact.predict(pictures, 0.0)
    tolerance = artifact.metadata.precisions["bf16"].tolerance
    assert drift("", expected, found, tolerance).passed
    exact = artifact.predict(pictures, 0.0, precision="fp32")
    assert drift("", expected, exact, artifact.metadata.precisions["fp32"].tolerance).passed
    assert found[0].scores.tolist() != exact[0].scores.tolist()


def test_without_bf16_it_computes_in_float32(
    exported: Exported, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "off")
    artifact = opened(exported, "openvino")
    assert artifact.runtime().description == "OpenVINO on CPU in fp32"
    asked = opened(exported, "openvino", precision="fp32").predict(photos / "0.jpg")
    assert artifact.predict(photos / "0.jpg").scores.tolist() == asked.scores.tolist()
    with pytest.raises(ArtifactError, match="CPU does not compute in bf16; use precision='fp32' or 'auto'"):
        artifact.predict(photos / "0.jpg", precision="bf16")


def test_scores_are_taken_in_float32_unless_told_otherwise(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, data_of_two: Path
) -> None:
    asked: list[object] = []
    artifact = opened(exported, "openvino")
    real = artifact.predict_many

    def predict_many(*arguments: object, precision: object, **options: object) -> object:
        asked.append(precision)
        return real(*arguments, precision=precision, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact, "predict_many", predict_many)
    artifact.evaluate(data_of_two)
    artifact.evaluate(data_of_two, precision="auto")
    assert asked == ["fp32", "auto"]
    assert opened(exported, "onnx", runtime="onnxruntime").evaluate(data_of_two).ap >= 0


def test_takes_what_the_model_takes(exported: Exported, photos: Path) -> None:
    artifact = opened(exported, "openvino", precision="fp32")
    path = photos / "0.jpg"
    image = read_image(path)
    several = artifact.predict([str(path), path, Image.open(path), image], threshold=0.2)
    together = artifact.predict_batch([path, image], threshold=0.2)
    for found in [*several, *together]:
        assert found.scores == pytest.approx(several[0].scores, abs=1e-5)
    assert artifact.predict([]) == []
    assert artifact.predict_batch([]) == []
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        artifact.predict(path, threshold=1.5)
    fractions = artifact.predict(image.astype(np.float32) / 255, threshold=0.2)  # floats are taken as 0 to 1
    assert fractions.scores == pytest.approx(several[0].scores, abs=1e-5)


def test_unreadable_pictures_among_many_lose_nothing(exported: Exported, photos: Path) -> None:
    artifact = opened(exported, "openvino")
    items = find(str(photos))
    answers = list(artifact.predict_many(items, 0.2))
    assert len(answers) == len(items) == 10
    bad = {Path(one.name).name: one.reason for one in answers if isinstance(one, Unreadable)}
    assert set(bad) == {"3.jpg", "6.jpg"}
    assert all("\n" not in reason for reason in bad.values())
    for item, answer in zip(items, answers, strict=True):
        if not isinstance(answer, Unreadable):
            picture, found = answer
            assert picture.name == item.name, "in the order of the items"
            assert found.size == picture.image.shape[:2]
    with pytest.raises(ImageError, match=r"3\.jpg.*6\.jpg"):
        artifact.predict(sorted(photos.iterdir()))


def test_frames_of_animations_come_in_their_order(exported: Exported, photos: Path, tmp_path: Path) -> None:
    frames = [Image.open(photos / f"{i}.jpg").resize((128, 96)) for i in (0, 2, 4, 8)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    for name in ("a.jpg", "c.jpg"):
        frames[1].save(tmp_path / name)
    (tmp_path / "d.gif").write_bytes((tmp_path / "b.gif").read_bytes()[:-3000])
    artifact = opened(exported, "openvino", precision="fp32")
    answers = list(artifact.predict_many(find(tmp_path)))
    bad = [one for one in answers if isinstance(one, Unreadable)]
    good = [Path(one[0].name).name for one in answers if not isinstance(one, Unreadable)]
    assert good[:6] == ["a.jpg", *(f"b.gif#{number:06d}" for number in range(4)), "c.jpg"]
    assert [Path(one.name).name for one in bad] == ["d.gif"]
    (one,) = artifact.predict([tmp_path / "b.gif"], 0.0)
    assert one.scores.tolist() == artifact.predict(tmp_path / "b.gif", 0.0).scores.tolist()


def test_stops_reading_when_no_one_listens(exported: Exported, photos: Path) -> None:
    stream = opened(exported, "openvino").predict_many(find(str(photos)), 0.2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_thresholds_of_the_artifact(exported: Exported, photos: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(exported("openvino").path, tmp_path / "own")
    document = json.loads((folder / "metadata.json").read_text())
    document["thresholds"] = {"default": 0.0, "dog": 1.0}
    (folder / "metadata.json").write_text(json.dumps(document))
    artifact = ArtifactDetector(folder, cache=False)
    names = artifact.predict(photos / "0.jpg", "auto").names
    assert "dog" not in names
    assert {"cat", "owl"} <= set(names)
    usual = artifact.predict(photos / "0.jpg")
    assert "dog" in usual.names
    assert usual.scores.min() >= 0.4


def test_thresholds_are_one_everywhere(exported: Exported, detector: Detector, photos: Path) -> None:
    artifact = opened(exported, "openvino", precision="fp32")
    for one in (artifact, detector):
        for function in (one.predict, one.predict_many):
            assert inspect.signature(function).parameters["threshold"].default == THRESHOLD == 0.4
        with pytest.raises(ConfigError, match="carries no best thresholds"):
            one.predict(photos / "0.jpg", "auto")
        with pytest.raises(ValueError, match="between 0 and 1; got None"):
            one.predict(photos / "0.jpg", None)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("kind", "runtime", "weights"),
    [
        ("openvino", "OpenVINO", "fp32"),
        ("onnx", "onnxruntime", "fp32"),
        ("torch", "torch.export program", "fp32"),
    ],
)
def test_what_computes_is_named(exported: Exported, kind: str, runtime: str, weights: str) -> None:
    how = opened(exported, kind).computation(precision="fp32")
    assert how.runtime.startswith(runtime)
    assert (how.device, how.precision, how.weights) == ("CPU", "fp32", weights)
    assert how.cpu_features == cpu_features()


def test_scores_as_the_model_does(
    exported: Exported, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_scenes(tmp_path / "scenes", train=0, val=0, test=3, size=(96, 128))
    path = data / "annotations" / "instances_test.json"
    document = json.loads(path.read_text())
    names = dict(zip((1, 2, 3), ("cat", "dog", "owl"), strict=True))
    document["categories"] = [
        row | {"name": names[row["id"]]} for row in document["categories"] if row["id"] in names
    ]
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] in names]
    path.write_text(json.dumps(document))
    monkeypatch.setenv(SWITCH, "off")
    one = detector.evaluate(data, "test", device="cpu")
    other = opened(exported, "openvino", precision="fp32").evaluate(data, "test")
    assert other.numbers() == pytest.approx(one.numbers(), abs=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("openvino", {"runtime": "onnxruntime"}, "format openvino, which onnxruntime does not run"),
        ("torch", {"runtime": "openvino"}, "use runtime='torch'"),
        ("openvino", {"image_size": (96, 96)}, "export again with --dynamic-size"),
        ("onnx", {"runtime": "onnxruntime", "precision": "bf16"}, "in fp32, as it was written"),
        ("openvino", {"precision": "f32"}, "did you mean 'fp32'"),
    ],
)
def test_what_does_not_go_together(exported: Exported, kind: str, options: dict, said: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        opened(exported, kind, **options)
    assert said in str(caught.value)


def test_int8_in_onnx_is_left_to_onnxruntime(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of("onnx")
    metadata = open_artifact(folder).metadata
    write_metadata(folder, metadata.model_copy(update={"precision": "int8"}))
    assert ArtifactDetector(folder).runtime().description.startswith("onnxruntime")
    assert "wrongly" not in caplog.text
    ArtifactDetector(folder, runtime="openvino")
    assert "OpenVINO computes wrongly: detections will be missing" in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "openvino" or None)
    with pytest.raises(ArtifactError) as caught:
        ArtifactDetector(folder)
    assert "pip install 'flexdetr[export]', or export again with --format openvino" in str(caught.value)
    write_metadata(folder, metadata)
    assert ArtifactDetector(folder).runtime().description.startswith("OpenVINO")


def test_unknown_devices(exported: Exported, photos: Path) -> None:
    for kind in ("openvino", "onnx", "torch"):
        with pytest.raises(ArtifactError, match="warp"):
            opened(exported, kind).predict(photos / "0.jpg", device="warp")


def test_load_tells_artifacts_from_checkpoints(
    exported: Exported, detector: Detector, tmp_path: Path
) -> None:
    assert isinstance(flexdetr.load(exported("openvino").path), ArtifactDetector)
    assert isinstance(flexdetr.load(exported("onnx").model_file), ArtifactDetector)
    assert isinstance(flexdetr.load(detector.save(tmp_path / "best.safetensors")), Detector)
    with pytest.raises(ArtifactError, match="alone is not enough"):
        flexdetr.load(_touched(tmp_path / "lonely.onnx"))


def _touched(path: Path) -> Path:
    path.write_bytes(b"x")
    return path
