"""`flexdetr convert` and `--weights` as typed: a report for each dialect, one sentence for what cannot be used."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import flexdetr
from flexdetr.classes import Classes
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scenes
from flexdetr.presets import PRESETS
from flexdetr.weights import store
from flexdetr.weights.loading import load_any
from flexdetr.weights.skeleton import skeleton
from flexdetr.weights.transformers_export import to_transformers

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def state(dialects: SimpleNamespace) -> dict[str, Tensor]:
    return dict(dialects.make_model().state_dict())


@pytest.mark.parametrize("kind", ["lyuwenyu", "paddle", "transformers", "ultralytics", "backbone"])
def test_every_dialect_is_converted_with_a_report(
    kind: str,
    state: dict[str, Tensor],
    dialects: SimpleNamespace,
    save_torch: Save,
    save_paddle: Save,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "ultralytics":
        state = {
            name: torch.ones_like(value)
            for name, value in skeleton(PRESETS["rtdetr_hgnetv2_l"], 5).state_dict().items()
        }
    source = {
        "lyuwenyu": lambda: save_torch({"ema": {"module": dialects.lyuwenyu(state)}, "epoch": 3}),
        "paddle": lambda: save_paddle(dialects.paddle(state)),
        "transformers": lambda: to_transformers(state, dialects.small, Classes.of("abcde"), tmp_path / "theirs"),
        "ultralytics": lambda: save_torch(dialects.ultralytics(state, (1, 1, 3, 1))),
        "backbone": lambda: save_torch(
            {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        ),
    }[kind]()  # fmt: skip
    out = tmp_path / "ours.safetensors"
    assert main(["convert", str(source), "--from", kind, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(text in said for text in (str(source), "mapped: ", f"written: {out}"))
    assert ("image size: " in said) == (kind != "backbone")
    assert ("EMA weights" in said) == (kind == "lyuwenyu")
    origin = store.read_metadata(out).provenance[0]
    assert origin["file"] == ("model.safetensors" if kind == "transformers" else source.name)
    assert len(origin["sha256"]) == 64
    wanted, found = load_any(source).state(), load_any(out).state()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    if kind != "backbone":
        assert len(flexdetr.load(out).classes) == 5
        assert main(["info", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["provenance"][0]["source"] == origin["source"]
    wrong = "paddle" if kind != "paddle" else "lyuwenyu"
    assert main(["convert", str(source), "--from", wrong, "--out", str(tmp_path / "x.safetensors")]) == 1
    assert "by its keys it is" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_a_partial_match_is_refused_unless_told_otherwise(
    state: dict[str, Tensor],
    dialects: SimpleNamespace,
    save_torch: Save,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = dialects.lyuwenyu(state)
    names.pop("decoder.dec_score_head.1.bias")
    source, out = save_torch(names), tmp_path / "x.safetensors"
    assert main(["convert", str(source), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "1 tensors are missing (head.scores.1.bias)" in error
    assert "--partial" in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert main(["convert", str(source), "--partial", "--out", str(out)]) == 0
    assert "missing: head.scores.1.bias" in capsys.readouterr().out
    assert flexdetr.load(out).model.state_dict().keys() == state.keys()


def test_unknown_metadata_survives_convert(dialects: SimpleNamespace, tmp_path: Path) -> None:
    model = dialects.make_model()
    content = store.Metadata(
        config=dialects.small.model_dump(mode="json"), classes=Classes.of("abcde").to_json(), training={"ap": 0.5}
    ).to_json() | {"format_version": 7, "written_by": {"later": [1]}}  # fmt: skip
    newer = tmp_path / "newer.safetensors"
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(tensors, newer, metadata={"flexdetr": json.dumps(content)})
    assert main(["convert", str(newer), "--out", str(tmp_path / "again.safetensors")]) == 0
    again = store.read_metadata(tmp_path / "again.safetensors")
    assert (again.format_version, again.extra, again.training) == (
        7,
        {"written_by": {"later": [1]}},
        {"ap": 0.5},
    )
    flexdetr.load(newer).save(tmp_path / "saved.safetensors")
    assert store.read_metadata(tmp_path / "saved.safetensors") == again


def test_ancestors_go_through_transformers_layout(dialects: SimpleNamespace, tmp_path: Path) -> None:
    ancestor = {"source": "RT-DETR (lyuwenyu), PyTorch", "file": "a.pth", "licence": "Apache-2.0"}
    metadata = store.Metadata(
        config=dialects.small.model_dump(mode="json"),
        classes=Classes.of("abcde").to_json(),
        licence="Apache-2.0",
        provenance=[ancestor],
    )
    file = store.save(tmp_path / "a.safetensors", dialects.make_model().state_dict(), metadata)
    assert main(["convert", str(file), "--to", "transformers", "--out", str(tmp_path / "theirs")]) == 0
    again = load_any(tmp_path / "theirs").metadata
    assert again.licence == "Apache-2.0"
    assert again.provenance[0]["source"] == "transformers RT-DETR"
    assert again.provenance[1:] == [ancestor]


def test_a_checkpoint_tells_all_about_itself(dialects: SimpleNamespace, tmp_path: Path) -> None:
    """Format, preset with its changes, classes with ids, size, normalisation: of a detector made in Python."""
    detector = flexdetr.Detector("flexdetr_pico", classes={3: "cat", 17: "dog"}, image_size=(96, 128))
    metadata = store.read_metadata(detector.save(tmp_path / "x.safetensors"))
    assert metadata.format_version == store.FORMAT_VERSION
    assert (metadata.model, metadata.config["model"]) == ("flexdetr_pico", "flexdetr_pico")
    assert metadata.classes == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    assert metadata.image_size == (96, 128)
    assert metadata.config["image_size"] == [96, 128]
    assert set(metadata.normalisation) == {"scale", "mean", "std"}
    assert metadata.licence == "Apache-2.0"
    assert metadata.provenance == []


@pytest.mark.parametrize("word", ["coco", "backbone"])
def test_offline_weights_say_which_file_to_place_where(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXDETR_CACHE", str(tmp_path / "cache"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # the proxies of a first call hold for all others
    data = draw_scenes(tmp_path / "scenes", train=2, val=1, test=1, size=(96, 96))
    options = ["--model", "rtdetr_r18", "--image-size", "64", "--out", str(tmp_path / "run")]
    assert main(["train", str(data), *options, "--weights", word]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot be reached" in error
    assert f"place it at {tmp_path / 'cache'}" in error
    assert ".pth" in error
