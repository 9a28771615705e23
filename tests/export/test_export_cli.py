from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.export import openvino as openvino_writer
from flexdetr.runtime.artifact import Artifact, open_artifact


@pytest.fixture
def checkpoint(detector: Detector, tmp_path: Path) -> Path:
    return detector.save(tmp_path / "best.safetensors")


@pytest.fixture(scope="module")
def smaller(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """An artifact with fewer layers and queries, and what the command said."""
    checkpoint = detector.save(tmp_path_factory.mktemp("smaller") / "best.safetensors")
    words = ["export", str(checkpoint), "--format", "openvino", "--decoder-layers", "1", "--queries", "10"]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert main(words) == 0
    return checkpoint.with_name("best-openvino"), out.getvalue(), err.getvalue()


def test_export_beside_the_checkpoint(smaller: tuple[Path, str, str]) -> None:
    folder, out, err = smaller
    assert str(folder) in out.replace("\n", "")
    assert "a batch of 4" in out
    assert "score drift 0.001" in out
    assert "PyTorch, 2 layers, 20 queries" in out
    assert "comparing with the model" in err
    assert open_artifact(folder).metadata.made["queries"] == 10


def test_fewer_layers_and_queries_and_what_they_cost(smaller: tuple[Path, str, str]) -> None:
    parity = open_artifact(smaller[0]).parity
    assert parity is not None
    assert parity.passed
    for drift in parity.drifts:
        assert drift.compared >= 10, "too few detections to prove anything"
        assert drift.score <= 1e-3
        assert drift.box <= 1e-2
    whole, less, exported = parity.accuracies
    assert whole.case == "PyTorch, 2 layers, 20 queries"
    assert whole.agreement == 1.0
    assert less.case == "PyTorch, 1 layers, 10 queries"
    assert less.agreement == exported.agreement < 1
    assert less.gflops is not None
    assert whole.gflops is not None
    assert less.gflops < whole.gflops


def test_a_refusal_shows_the_table_and_exits_1(
    checkpoint: Path,
    exported: Callable[[str], Artifact],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    from flexdetr.export.half import in_half  # noqa: F401 - the module is loaded before it is patched

    whole = exported("openvino")  # written here, if no test asked for it before

    def write(form: object, folder: Path, precision: str, float32: object) -> list[str]:
        names = list(whole.metadata.files)
        for name in names:
            shutil.copy(whole.path / name, folder)
        return names

    monkeypatch.setattr(openvino_writer, "write", write)
    arguments = ["export", str(checkpoint), "--format", "openvino", "--decoder-layers", "1", "--json"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["artifact"] is None
    assert not document["parity"]["passed"]
    assert "was not kept. First wrong is" in shown.err
    assert not checkpoint.with_name("best-openvino").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--format", "openvin"], 1, "openvino"),
        (["--format", "onnx", "--precision", "int7"], 1, "fp32, fp16, int8; got 'int7'"),
        (["--format", "onnx", "--sampling", "nearest"], 2, "auto, model, gather or discrete"),
        (["--format", "onnx", "--image-size", "100"], 2, "divisible by 32"),
        (["--format", "onnx", "--data", "nowhere"], 2, "nowhere does not exist"),
        (["--format", "onnx", "--qat", "2"], 1, "qat is for precision int8; the precision is fp32"),
        (["--format", "onnx", "--precision", "int8", "--qat", "2"], 1, "give --data DATA"),
        (["--format", "onnx", "--qat", "-1"], 2, "--qat"),
        ([], 2, "--format"),
    ],
)
def test_wrong_options(
    checkpoint: Path, options: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoint), *options]) == status
    assert said in capsys.readouterr().err


def test_an_artifact_is_not_exported_again(
    exported: Callable[[str], Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(exported("openvino").path), "--format", "onnx"]) == 1
    assert "needs the checkpoint" in capsys.readouterr().err
