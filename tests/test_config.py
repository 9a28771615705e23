"""The configuration: what is refused and how, overrides, and the way to YAML and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flexdetr import yaml_text
from flexdetr.config import (
    Config,
    ConfigError,
    Part,
    build,
    known_keys,
    merge,
    nearest,
    parse_overrides,
    parse_size,
    read_yaml,
    to_yaml,
)
from flexdetr.model.heads import HEADS
from flexdetr.model.inserts import INSERTS
from flexdetr.presets import PRESETS, resolve


@pytest.mark.parametrize("name", PRESETS)
def test_yaml_round_trip_of_presets(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(PRESETS[name]), encoding="utf-8")
    assert build(read_yaml(file)) == PRESETS[name]


scalars = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-1e3, 1e3), st.text("abc 1e-", max_size=6))


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    lr=st.floats(1e-9, 1),
    options=st.dictionaries(st.sampled_from(["a", "b"]), scalars),
    points=st.one_of(st.integers(1, 9), st.tuples(*[st.integers(1, 9)] * 3)),
    insert=st.sampled_from(sorted(INSERTS)),
)
def test_yaml_round_trip(
    size: tuple[int, int], lr: float, options: dict[str, Any], points: Any, insert: str
) -> None:
    config = build(
        {
            "image_size": [32 * side for side in size],
            "train": {"lr": lr},
            "backbone": {"name": "b", "options": options},
            "head": {"points": points},
            "attention": {"backbone.16": insert},
        }
    )
    assert build(yaml.safe_load(to_yaml(config))) == config


def test_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encodr": {}}, "unknown key 'encodr'; did you mean 'encoder'"),
        ({"train": {"epoches": 3}}, "unknown key 'train.epoches'; did you mean 'train.epochs'"),
        ({"encoder": {"fusion": "gellan"}}, "encoder.fusion: unknown value 'gellan'; did you mean 'gelan'"),
        (
            {"attention": {"backbone.16": "emma"}},
            "attention.backbone.16: unknown value 'emma'; did you mean 'ema'",
        ),
        ({"train": {"lr": -1}}, "train.lr: Input should be greater than 0 (got -1)"),
        (
            {"train": {"batch_size": "many"}},
            "unable to parse string as an integer (got 'many'); or unknown value",
        ),
        (
            {"image_size": [64, 100]},
            "image_size: image_size must be divisible by 32 on both sides; got 64x100",
        ),
        ({"image_size": [64]}, "image_size is one number, or height and width (got [64])"),
        ({"image_size": 0}, "divisible by 32 on both sides; got 0x0"),
        ({"image_size": "big"}, "image size 'big' is neither a number nor HEIGHTxWIDTH"),
        (
            {"encoder": {"strides": [8, 32]}},
            "strides must double from level to level, like [8, 16, 32], up to 128; got [8, 32]",
        ),
        ({"encoder": {"strides": []}}, "strides must double"),
        ({"encoder": {"width": 100}}, "encoder: width 100 must be divisible by heads (8)"),
        ({"encoder": {"width": 8, "expansion": 0.1}}, "expansion 0.1 of width 8 leaves no channels"),
        ({"head": {"width": 100}}, "head: width 100 is not divisible by heads (8)"),
        ({"head": {"eval_layers": 7}}, "eval_layers 7 is more than the 6 layers that are trained"),
        ({"head": {"points": 0}}, "every level needs 1 to 256 points; got 0"),
        ({"head": {"points": [4, 4]}}, "head.points gives 2 numbers for 3 levels"),
        ({"backbone": 3}, "backbone: Input should be a valid dictionary"),
        ({"loss": {"box_options": {"ratio": "x"}}}, "loss.box_options.ratio: Input should be a valid number"),
    ],
)
def test_wrong_values_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(values)
    assert message in str(caught.value)


def test_every_mistake_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"train": {"epoches": 3, "lr": 0}, "encodr": 1})
    assert len(str(caught.value).splitlines()) == 3


def test_heads_matter_for_attention_only() -> None:
    assert build({"encoder": {"intra": "sppf", "width": 100}, "head": {"width": 128}}).encoder.width == 100


def test_known_keys_are_dotted() -> None:
    keys = set(known_keys())
    assert {"backbone", "backbone.name", "train.lr", "encoder.strides", "seed"} <= keys
    assert "Config" not in keys


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.lr=1e-4", {"train": {"lr": 1e-4}}),
        ("train.lr=-2.5E+3", {"train": {"lr": -2500.0}}),
        ("train.epochs=50", {"train": {"epochs": 50}}),
        ("head.points=[3,6,3]", {"head": {"points": [3, 6, 3]}}),
        ("backbone.options.rates=[1e-3, a, 2]", {"backbone": {"options": {"rates": [1e-3, "a", 2]}}}),
        ("backbone.options={a: 1e-3}", {"backbone": {"options": {"a": 1e-3}}}),
        ("data.skip_bad=true", {"data": {"skip_bad": True}}),
        ("train.ema=null", {"train": {"ema": None}}),
        ("image_size=384x640", {"image_size": "384x640"}),
        ("weights=runs/a=b.safetensors", {"weights": "runs/a=b.safetensors"}),
        ("weights=nan", {"weights": "nan"}),
        ("backbone=timm/convnext_atto", {"backbone": {"name": "timm/convnext_atto"}}),
        ("attention.backbone.16=ema", {"attention": {"backbone.16": "ema"}}),
        (" seed = 7", {"seed": 7}),
    ],
)
def test_overrides(text: str, value: dict[str, Any]) -> None:
    assert parse_overrides([text]) == value


def test_later_overrides_win() -> None:
    texts = [
        "train.lr=1",
        "train.epochs=3",
        "train.lr=2",
        "attention.encoder.8=se",
        "attention.backbone.16=ema",
    ]
    assert parse_overrides(texts) == {
        "train": {"lr": 2, "epochs": 3},
        "attention": {"encoder.8": "se", "backbone.16": "ema"},
    }


@pytest.mark.parametrize("text", ["train.lr", "=1", "  =1", "seed=[1"])
def test_overrides_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"seed=|key\.sub=value"):
        parse_overrides([text])


def test_another_backbone_starts_its_section_anew() -> None:
    base = {"backbone": {"name": "a", "options": {"x": 1}, "freeze_norms": True}, "seed": 3}
    anew = {"backbone": {"name": "b"}, "seed": 3}
    assert merge(base, {"backbone": "b"}) == merge(base, {"backbone": {"name": "b"}}) == anew
    assert merge(base, parse_overrides(["backbone=b"])) == anew
    assert merge(base, parse_overrides(["backbone.name=b"])) == anew
    both = parse_overrides(["backbone.options.y=2", "backbone=b"])
    assert merge(base, both) == {"backbone": {"name": "b", "options": {"y": 2}}, "seed": 3}


def test_the_same_backbone_keeps_its_section() -> None:
    base = {"backbone": {"name": "a", "options": {"x": 1}}}
    assert merge(base, {"backbone": "a"}) == base
    assert merge(base, {"backbone": {"options": {"y": 2}}}) == {
        "backbone": {"name": "a", "options": {"x": 1, "y": 2}}
    }


nested = st.recursive(
    st.integers(), lambda below: st.dictionaries(st.sampled_from("abc"), below), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), nested)


@settings(deadline=None)
@given(mappings, mappings)
def test_merging_keeps_both_and_changes_neither(base: dict[str, Any], change: dict[str, Any]) -> None:
    before = (repr(base), repr(change))
    merged = merge(base, change)
    assert (repr(base), repr(change)) == before
    assert set(merged) == set(base) | set(change)
    assert merge(merged, change) == merged
    assert merge(base, {}) == base


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (640, (640, 640)),
        ("640", (640, 640)),
        ("384x640", (384, 640)),
        ("384X640", (384, 640)),
        ("32 x 64", (32, 64)),
    ],
)
def test_sizes(value: int | str, size: tuple[int, int]) -> None:
    assert parse_size(value) == size
    if size[0] % 32 == 0:
        assert build({"image_size": value}).image_size == size


@pytest.mark.parametrize("value", ["", "x", "64x", "1x2x3", "6.4", "-32"])
def test_sizes_that_are_none(value: str) -> None:
    with pytest.raises(ValueError, match="neither a number nor HEIGHTxWIDTH"):
        parse_size(value)


def test_nearest() -> None:
    assert (
        nearest("rtdetr_r81", ["rtdetr_r18", "other"], "model")
        == "unknown model 'rtdetr_r81'; did you mean 'rtdetr_r18'?"
    )
    assert nearest("zzz", ["b", "a"]) == "unknown name 'zzz'; known: a, b"


def test_yaml_files(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: 1e-4}\nbackbone: {options: {rate: 1e-2, name: 1e}}\n", encoding="utf-8")
    assert read_yaml(file) == {"train": {"lr": 1e-4}, "backbone": {"options": {"rate": 0.01, "name": "1e"}}}
    file.write_text("", encoding="utf-8")
    assert read_yaml(file) == {}


@pytest.mark.parametrize("content", ["[1, 2]", "just text", "a: [1", "a: \xff"])
def test_yaml_files_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        read_yaml(file)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_yaml(tmp_path / "missing.yaml")


def test_the_former_name_of_the_heads_section_is_understood() -> None:
    assert build({"decoder": {"queries": 50}}) == build({"head": {"queries": 50}})
    assert merge({"head": {"queries": 50}}, {"decoder": {"layers": 2}}) == {
        "head": {"queries": 50, "layers": 2}
    }
    with pytest.raises(ConfigError, match="'decoder' is the former name of 'head'"):
        build({"decoder": {}, "head": {}})


def test_a_heads_name_is_short_for_its_section() -> None:
    assert build({"head": "rtdetr"}).head == build({}).head
    with pytest.raises(ConfigError, match=r"head: unknown head 'rtdtr'; did you mean 'rtdetr'"):
        build({"head": "rtdtr"})
    with pytest.raises(ConfigError, match=r"unknown key 'head.querys'; did you mean 'head.queries'"):
        build({"head": {"querys": 3}})


def numeric_keys(section: type[Part] = Config, prefix: str = "") -> Iterator[str]:
    """Dotted keys that take numbers, alone or among other things."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Part):
            yield from numeric_keys(kind, f"{prefix}{name}.")
        elif name == "head" and section is Config:
            yield from dict.fromkeys(
                key for row in HEADS.values() for key in numeric_keys(row.options, "head.")
            )
        elif takes_numbers(kind):
            yield prefix + name
    if section is Config:
        yield from ("loss.box_options.ratio", "backbone.options.size")


def takes_numbers(kind: Any) -> bool:
    return kind in (int, float) or any(takes_numbers(part) for part in get_args(kind))


ABSURD = ["-1", "0", ".inf", "-.inf", ".nan", "1e308", "-1e308", "1e-320", "1048576", "9223372036854775808"]
ABSURD += [
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 5000,
    "²",
    "[]",
]
ABSURD += [
    "[.inf]",
    "{}",
    "[[1]]",
    "1:1:1",
    "2001-01-01",
    "true",
    "null",
    "''",
    "!!binary AA==",
    "[1, 9" + "9" * 99 + "]",
]


def answer(make: Callable[[], Config]) -> Config | str:
    """The configuration, or the sentence that refuses it; any other exception fails the test."""
    try:
        return make()
    except ConfigError as error:
        return str(error)


def is_sound(config: Config) -> bool:
    """Finite, and no longer than what is read: the run's own file gives it back."""
    return build(yaml_text.parse_yaml(to_yaml(config))) == config


@pytest.mark.parametrize("key", [*numeric_keys()])
def test_absurd_numbers_get_an_answer_or_a_sentence(key: str) -> None:
    for value in ABSURD:
        override = f"{key}={value}"
        found = answer(lambda override=override: resolve("flexdetr_pico", overrides=[override]))  # type: ignore[misc]
        assert 10 < len(found) < 700 if isinstance(found, str) else is_sound(found), override[:100]


@given(key=st.sampled_from([*numeric_keys()]), number=st.one_of(st.integers(), st.floats()))
def test_any_number_gets_an_answer_or_a_sentence(key: str, number: float) -> None:
    section, _, name = key.rpartition(".")
    values: dict[str, Any] = {name: number}
    for part in reversed(section.split(".") if section else []):
        values = {part: values}
    found = answer(lambda: build(values))
    assert 10 < len(found) < 700 if isinstance(found, str) else is_sound(found)


def test_numbers_that_python_does_not_write_out() -> None:
    huge = 10**5000
    for value in (huge, -huge, [huge], {"a": huge}):
        for values in ({"seed": value}, {"image_size": value}, {"train": {"lr": value}}):
            assert "beyond" in (found := str(answer(lambda values=values: build(values)))) or "bits" in found  # type: ignore[misc]
