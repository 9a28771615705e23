from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.export import openvino as openvino_writer
from flexdetr.runtime.artifact import Artifact, open_artifact


@pytest.fixture
def checkpoint(detector: Detector, tmp_path: Path) -> Path:
    return detector.save(tmp_path / "best.safetensors")


def test_export_beside_the_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--format", "openvino", "--queries", "10"]) == 0
    shown = capsys.readouterr()
    folder = checkpoint.with_name("best-openvino")
    assert str(folder) in shown.out
    assert "a batch of 4" in shown.out
    assert "score drift 0.001" in shown.out
    assert "PyTorch, 2 layers, 20 queries" in shown.out
    assert "comparing with the model" in shown.err
    assert open_artifact(folder).metadata.made["queries"] == 10


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
