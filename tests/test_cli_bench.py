"""The verb ``bench`` on a tiny artifact and on a checkpoint; what it answers, not how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes.tiny import untrained
from flexdetr.cli import main
from flexdetr.metrics.latency import END_TO_END, STAGES
from flexdetr.runtime import layers
from flexdetr.runtime.artifact import Artifact
from flexdetr.runtime.layers import Rates


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, once: Callable[[str, Callable[[Path], Artifact]], Artifact]
) -> tuple[Path, Path, Path]:
    """A checkpoint, its artifact, and a folder of two pictures."""
    folder = tmp_path_factory.mktemp("bench")
    detector = untrained()
    artifact = once("untrained", lambda path: detector.export("openvino", path)).path
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i}.jpg")
    return detector.save(folder / "tiny.safetensors"), artifact, pictures


def test_a_checkpoint_and_its_artifact_side_by_side(
    tiny: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, artifact, pictures = map(str, tiny)
    plot = tmp_path / "new" / "plot.html"
    options = [
        "--images",
        pictures,
        "--rounds",
        "2",
        "--threads",
        "1",
        "--plot",
        str(plot),
        "--precision",
        "fp32",
    ]
    assert main(["bench", checkpoint, artifact, *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["files"]] == [checkpoint, artifact]
    assert document["machine"]["cores"] >= 1
    for row in document["files"]:
        assert set(row["milliseconds"]) == {*STAGES, END_TO_END}
        assert all(set(stage) == {"p50", "p90", "p99", "mean"} for stage in row["milliseconds"].values())
        assert row["calls"] == 2
        assert row["pictures_per_second"] > 0
        assert row["start_seconds"] > 0
        assert row["computation"]["precision"] == "fp32"
    assert "PyTorch in fp32" in document["files"][0]["what"]
    assert "OpenVINO on CPU" in document["files"][1]["what"]
    assert "<svg" in plot.read_text()
    assert "PyTorch in fp32" in plot.read_text()


@pytest.mark.slow
def test_a_checkpoint_is_timed_on_the_runtime_that_is_asked_for(
    tiny: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", str(tiny[2]), "--rounds", "1", "--threads", "1", "--precision", "fp32"]
    assert main(["bench", str(tiny[0]), "--runtime", "openvino", *options, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["files"]
    assert "OpenVINO on CPU" in row["what"]
    assert row["computation"]["precision"] == "fp32"


def test_an_artifact_is_timed_without_torch(tiny: tuple[Path, Path, Path]) -> None:
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "scipy", "safetensors"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from flexdetr.cli import main
raise SystemExit(main(["bench", {str(tiny[1])!r}, "--rounds", "1", "--threads", "1", "--images", {str(tiny[2])!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "end to end" in done.stdout
    assert "times as fast" in done.stdout


def test_layers_of_an_artifact(
    tiny: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates({"fp32": 50.0, "int8": 90.0}, 20.0, 9.0)
    monkeypatch.setattr(layers, "measure_rates", lambda _: rates)
    words = ["bench", str(tiny[1]), "--layers", "--rounds", "1", "--threads", "1", "--precision", "fp32"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "GFLOP/s fp32 50, int8 90" in said
    assert "share of it reached" in said
    assert "loses most" in said
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rates"]["gflops"] == {"fp32": 50.0, "int8": 90.0}
    (one,) = document["files"]
    assert len(one["worst"]) == 10
    assert set(one["worst"]) <= {layer["name"] for layer in one["layers"]}
    assert one["floors"]["fp32"]["milliseconds"] > one["floors"]["int8"]["milliseconds"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["flexdetr_nono"], 2, "did you mean 'flexdetr_nano'"),
        (["ARTIFACT", "--precision", "bf17"], 2, "did you mean 'bf16'"),
        (["ARTIFACT", "--runtime", "onnxrt"], 2, "did you mean 'onnxruntime'"),
        (["ARTIFACT", "--runtime", "onnxruntime"], 1, "format openvino, which onnxruntime does not run"),
        (["flexdetr_nano", "--runtime", "onnxruntime"], 2, "runtime for a checkpoint"),
        (["ARTIFACT", "--plot", "a.png"], 2, "--plot writes an HTML page"),
        (["ARTIFACT", "--images", "EMPTY"], 1, "holds no picture"),
        (["flexdetr_nano", "--layers"], 2, "--layers is for artifacts"),
        (["ARTIFACT", "--layers", "--plot", "a.html"], 2, "--plot is for timing whole calls"),
        (["missing.safetensors"], 1, "missing.safetensors"),
        ([], 2, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_answers_in_a_sentence(
    tiny: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    places = {"ARTIFACT": str(tiny[1]), "EMPTY": str(tmp_path)}
    assert main(["bench", *(places.get(word, word) for word in words)]) == status
    assert said in capsys.readouterr().err


def test_info_describes_the_artifact_as_well(
    tiny: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tiny[1]), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "openvino"
    assert facts["classes"] == {"cat": 0, "dog": 1}
    assert facts["image_size"] == [64, 64]
    assert facts["queries"] == 20
    assert facts["proof"]["score_drift"] < 1e-3
    assert set(facts["files"]) == {"model.xml", "model.bin", "reference.npz"}
    assert main(["info", str(tiny[1])]) == 0
    assert "model.bin" in capsys.readouterr().out
