"""Plans are read strictly, and become configurations that say what each variant changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexdetr.ablate.plan import Plan, budgeted, changed, changes_text, configurations, read_plan
from flexdetr.config import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "ablations"
WHOLE = """
data: somewhere
base: {model: flexdetr_pico, image_size: 64, train: {lr: 1e-3}}
variants:
  siou: {loss.box: siou, attention.encoder.16: eca}
  other: {backbone: ghostnetv3_050}
seeds: [0, 1]
budget: {epochs: 2}
"""


def plan(text: str, folder: Path) -> Plan:
    file = folder / "box_losses.yaml"
    file.write_text(text, encoding="utf-8")
    return read_plan(file)


def test_a_plan(tmp_path: Path) -> None:
    read = plan(WHOLE, tmp_path)
    assert read.title == "Box losses"
    built = configurations(read)
    assert list(built) == ["base", "siou", "other"]
    assert built["base"].train.lr == 1e-3
    assert built["siou"].loss.box == "siou"
    assert built["siou"].attention == {"encoder.16": "eca"}
    assert built["other"].backbone.name == "ghostnetv3_050"
    assert built["other"].backbone.lr_mult is None
    run = budgeted(built["siou"], 1, 2)
    assert (run.seed, run.train.epochs, run.train.lr) == (1, 2, 1e-3)
    assert changes_text(read.variants["siou"]) == "loss.box=siou attention.encoder.16=eca"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds:", "sedes:", "unknown key 'sedes'; did you mean 'seeds'"),
        ("epochs: 2", "epoches: 2", "unknown key 'budget.epoches'; did you mean 'budget.epochs'"),
        ("epochs: 2", "epochs: 2, minutes: 3", "either epochs or minutes"),
        ("epochs: 2", "epochs: 0", "greater than 0"),
        ("[0, 1]", "[1, 1]", "each seed may be listed once"),
        ("[0, 1]", "3", "seeds: .*got 3"),
        ("data: somewhere", "", "data: Field required"),
        ("siou:", "base:", "'base' is taken"),
        ("siou:", "a/b:", "cannot be called 'a/b'"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(WHOLE.replace(old, new, 1), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("loss.box: siou", "loss.bx: siou", "siou: unknown key 'loss.bx'; did you mean 'loss.box'"),
        ("model: flexdetr_pico", "model: flexdetr_pic", "base: unknown model 'flexdetr_pic'"),
        ("model: flexdetr_pico, ", "", "base: base.model says which preset"),
        ("backbone: ghostnetv3_050", "backbone: hgnetv2_b0", "other changes nothing"),
        ("backbone: ghostnetv3_050", "seed: 4", "other: seed is set by the plan itself: write it as seeds"),
        (
            "backbone: ghostnetv3_050",
            "train.epochs: 4",
            "train.epochs is set by the plan itself: write it as budget",
        ),
    ],
)
def test_wrong_configurations_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = WHOLE.replace("attention.encoder.16: eca", "train.clip: 1").replace(old, new, 1)
    with pytest.raises(ConfigError, match=said):
        configurations(plan(text, tmp_path))


def test_another_backbone_of_the_same_name_keeps_its_section(tmp_path: Path) -> None:
    """flexdetr_pico is on hgnetv2_b0 already, at its own rate."""
    built = configurations(plan(WHOLE.replace("ghostnetv3_050", "hgnetv2_b1"), tmp_path))
    assert built["other"].backbone.name == "hgnetv2_b1"


def test_cutting_a_plan_down(tmp_path: Path) -> None:
    read = plan(WHOLE, tmp_path)
    cut = changed(read, ["image_size=96"], ["siou"], seeds=[5], budget={"minutes": 1.5}, data=None)
    assert list(cut.variants) == ["siou"]
    assert (cut.seeds, cut.data) == ((5,), "somewhere")
    assert cut.budget is not None
    assert (cut.budget.epochs, cut.budget.minutes) == (None, 1.5)
    assert configurations(cut)["siou"].image_size == (96, 96)
    with pytest.raises(ConfigError, match="unknown variant 'sio'; did you mean 'siou'"):
        changed(read, only=["sio"])
    with pytest.raises(ConfigError, match="seeds"):
        changed(read, seeds=[1, 1])


@pytest.mark.parametrize("name", ["backbones", "box_losses"])
def test_the_shipped_plans(name: str) -> None:
    read = read_plan(EXAMPLES / f"{name}.yaml")
    built = configurations(read)
    assert len(built) >= 9
    assert len(read.seeds) >= 3
    assert {config.image_size for config in built.values()} == {(320, 320)}
    if name == "backbones":
        assert len({config.backbone.name for config in built.values()}) == len(built)
    else:
        assert len({config.loss.model_dump_json() for config in built.values()}) == len(built)
        assert {config.loss.matcher_box for config in built.values()} == {"giou"}


def test_the_documented_plan(tmp_path: Path) -> None:
    page = (EXAMPLES.parents[1] / "docs" / "how-to" / "compare-parts.md").read_text(encoding="utf-8")
    read = plan(page.partition("```yaml\n")[2].partition("```")[0], tmp_path)
    assert (read.split, read.seeds) == ("test", (0, 1, 2))
    built = configurations(read)
    assert built["inner"].loss.box_options == {"ratio": 0.8}


def test_the_plan_of_heads_swaps_them_on_one_backbone() -> None:
    built = configurations(read_plan(EXAMPLES / "heads.yaml"))
    assert {name: (config.head.name, config.recipe) for name, config in built.items()} == {
        "base": ("rtdetr", "auto"),
        "dfine": ("dfine", "auto"),
        "dfine_deim": ("dfine", "deim"),
        "yolov8_hgnetv2_b0": ("yolov8", "auto"),
        "yolov8_as_many_gflops": ("yolov8", "auto"),
    }
    with_queries = [config for config in built.values() if config.head.name != "yolov8"]
    assert len({config.backbone.model_dump_json(exclude={"lr_mult"}) for config in with_queries}) == 1
    # a recipe's published batch must not make one variant see more pictures than another
    assert {config.train.batch_size for config in built.values()} == {4}
