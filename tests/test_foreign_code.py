"""Code that a file names as its backbone runs only where the person says so, whatever kind of file it is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flexdetr.ablate.plan import read_plan
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.foreign_code import VARIABLE, allowed, named, objection
from flexdetr.loading import load
from flexdetr.presets import resolve
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError

NAME = "scene_nets:small"
MODULE = """
from torch import nn

def small(width=8):
    layers = [nn.Conv2d(3 if i == 0 else width, width, 3, 2, 1) for i in range(5)]
    return Levels(nn.ModuleList(layers))

class Levels(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return maps[3:]
"""
PARTS = {
    "model": "flexdetr_pico",
    "image_size": 64,
    "encoder": {"strides": [16, 32], "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 10, "denoising": 0},
    "data": {"workers": 0},
    "train": {"epochs": 1, "batch_size": 2, "report": False},
}


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that a person has beside them, and nothing that is trusted."""
    (tmp_path / "scene_nets.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "scene_nets", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return draw_scenes(tmp_path / "data", train=4, val=2, test=2, size=(96, 96))


def evil(touched: Path) -> dict[str, object]:
    """What a file's author would like to be called."""
    return {"name": "pathlib:Path.touch", "options": {"self": str(touched)}}


def written(path: Path, backbone: object) -> Path:
    path.write_text(yaml.safe_dump({**PARTS, "backbone": backbone}), encoding="utf-8")
    return path


def test_a_configuration_file_calls_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touched = tmp_path / "touched"
    file = written(tmp_path / "run.yaml", evil(touched))
    for more in ([], ["--overfit-one-batch"], ["--set", "train.epochs=2"]):
        assert main(["train", str(data), "--config", str(file), "--out", "run", *more]) == 2
        assert "--allow-code pathlib:Path.touch" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="code outside of the file"):
        resolve(config_file=file)
    assert main(["config", "--config", str(file)]) == 0  # showing it is no harm
    assert "pathlib:Path.touch" in capsys.readouterr().out
    assert not touched.exists()
    assert not Path("run").exists()


def test_commands_that_a_file_names(data: Path, tmp_path: Path) -> None:
    """As it was reported: the standard library has enough functions that take a text."""
    touched = tmp_path / "touched"
    options = {"cmd": f"touch {touched}"}
    for name in ("subprocess:getoutput", "os:system", "importlib:import_module"):
        file = written(tmp_path / "run.yaml", {"name": name, "options": options})
        assert main(["train", str(data), "--config", str(file), "--out", "run"]) == 2
    assert not touched.exists()


def test_a_typed_name_is_consent(data: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "run.yaml", {"name": NAME, "options": {"width": 12}})
    assert resolve(config_file=file, overrides=[f"backbone={NAME}"]).backbone.options == {"width": 12}
    assert resolve(config_file=file, backbone=NAME).backbone.name == NAME
    typed = ["--set", f"backbone={NAME}"]
    assert main(["train", str(data), "--config", str(file), "--out", "run", *typed]) == 0
    assert store.read_metadata(Path("run/best.safetensors")).config["backbone"]["options"] == {"width": 12}


def test_a_run_folder_calls_nothing_and_goes_on_where_it_is_allowed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "run.yaml", NAME)
    assert main(["train", str(data), "--config", str(file), "--out", "run", "--allow-code", NAME]) == 0
    assert VARIABLE not in os.environ  # the command has ended
    assert main(["train", "--resume", "run"]) == 2
    assert f"--allow-code {NAME}" in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--allow-code", NAME]) == 0
    with pytest.raises(ConfigError, match="If you trust it"):
        fit.resume("run")
    assert fit.resume("run", typed=[NAME], quiet=True).best.exists()
    touched = tmp_path / "touched"
    config = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))
    Path("run/config.yaml").write_text(
        yaml.safe_dump({**config, "backbone": evil(touched)}), encoding="utf-8"
    )
    assert main(["train", "--resume", "run", "--allow-code", NAME]) == 2
    assert not touched.exists()


@pytest.mark.parametrize("place", ["base", "variants"])
@pytest.mark.parametrize("form", ["name", "section", "dotted"])
def test_a_plan_calls_nothing(place: str, form: str, data: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    section = evil(touched)
    changes: dict[str, object] = {
        "name": {"backbone": "pathlib:Path.touch", "backbone.options": section["options"]},
        "section": {"backbone": section},
        "dotted": {"backbone.name": section["name"], "backbone.options": section["options"]},
    }[form]
    variants: dict[str, object] = {"other": {"train.lr": 1e-3}}
    base: dict[str, object] = {"model": "flexdetr_pico", "image_size": 64}
    (base if place == "base" else variants.setdefault("evil", {})).update(changes)  # type: ignore[union-attr,attr-defined]
    plan = {"data": str(data), "base": base, "variants": variants, "seeds": [0], "budget": {"epochs": 1}}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    for more in ([], ["--report"], ["--only", "other"]):
        assert main(["ablate", str(file), "--out", str(tmp_path / "out"), *more]) == 2
    assert not touched.exists()
    with allowed(["pathlib:Path.touch"]):
        assert read_plan(file).seeds == (0,)


def test_a_checkpoint_calls_nothing_and_is_read_where_it_is_allowed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {key: value for key, value in PARTS.items() if key != "model"}
    names = [
        row["name"]
        for row in json.loads((data / "annotations/instances_train.json").read_text())["categories"]
    ]
    detector = Detector("flexdetr_pico", classes=names, backbone=NAME, **parts)
    file = detector.save(tmp_path / "own.safetensors")
    capsys.readouterr()
    for verb in (["info", str(file)], ["eval", str(file), str(data)], ["bench", str(file), "--rounds", "1"]):
        assert main(verb) == 1
        assert f"--allow-code {NAME}" in capsys.readouterr().err
        assert main([*verb, "--allow-code", NAME]) == 0, verb
    with pytest.raises(WeightsError, match="If you trust it"):
        load(file)
    assert isinstance(load(file, backbone=NAME), Detector)
    # What the run's own backbone is, a file that it starts from may name too.
    config = resolve("flexdetr_pico", weights=str(file), backbone=NAME, **parts)
    assert fit.start(config, detector.classes).trained.all_trained


def test_timm_reads_and_fetches_nothing_by_itself(tmp_path: Path) -> None:
    """Its own loader takes files that older versions of it unpickle."""
    for option in ("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"):
        with pytest.raises(ConfigError, match=f"{option} is not taken"):
            Detector(
                "flexdetr_pico",
                classes=["a"],
                backbone={"name": "timm/mobilenetv3_small_050", "options": {option: str(tmp_path / "x")}},
            )


def test_names_of_ours_need_nothing() -> None:
    assert objection("hgnetv2_b0", "run.yaml") is None
    assert objection("timm/resnet18", "run.yaml") is None
    assert objection("a:b", "run.yaml", ["a:b"]) is None
    assert "If you trust it" in str(objection("a:b", "run.yaml", ["a:c"]))


def test_what_is_allowed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Callable[[str], bool] = lambda name: objection(name, "file") is None  # noqa: E731
    monkeypatch.setenv(VARIABLE, "a:b")
    with allowed(["c:d", "e:f"]):
        assert all(ask(name) for name in ("a:b", "c:d", "e:f"))
    assert [ask(name) for name in ("a:b", "c:d", "")] == [True, False, True]
    assert os.environ[VARIABLE] == "a:b"


def test_the_code_that_nested_values_name() -> None:
    assert named({"backbone": "x"}) == named({"backbone": {"name": "x"}}) == {"backbone": "x"}
    assert named({}) == named({"backbone": {"options": {}}}) == named({"backbone": 3, "data": None}) == {}
    assert named({"data": {"transforms": "a:b"}}) == {"data.transforms": "a:b"}


def test_a_configuration_file_cannot_name_transforms_that_are_run(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data: {transforms: 'os:getcwd'}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"names the data\.transforms os:getcwd: .* data=\{\"transforms\": 'os:getcwd'\}"
    ):
        resolve("flexdetr_pico", tmp_path / "run.yaml")
    typed = resolve("flexdetr_pico", tmp_path / "run.yaml", ["data.transforms=os:getcwd"])
    assert typed.data.transforms == "os:getcwd"


def test_a_checkpoint_does_not_bring_its_transforms_along(tmp_path: Path) -> None:
    """Prediction needs none, and who trains on would run what the file's author wants."""
    made = Detector("flexdetr_pico", classes=["a"], image_size=64, data={"transforms": "os:getcwd"})
    path = made.save(tmp_path / "one.safetensors")
    loaded = load(path)
    assert loaded.config.data.transforms is None
    assert load(path, data={"transforms": "os:getcwd"}).config.data.transforms == "os:getcwd"
