"""Mappings that stay as they are."""

from __future__ import annotations

import copy
import pickle
from datetime import date
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.config import Config, ConfigError, build
from flexdetr.frozen import FrozenMapping, thaw
from flexdetr.presets import PRESETS, preset, resolve

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=3), below, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), plain, max_size=4))
def test_it_is_a_mapping_of_the_same_values(values: dict[str, Any]) -> None:
    frozen = FrozenMapping(values)
    assert thaw(frozen) == values
    assert [*frozen] == [*values]
    assert len(frozen) == len(values)
    assert frozen == FrozenMapping(copy.deepcopy(values))
    assert pickle.loads(pickle.dumps(frozen)) == copy.deepcopy(frozen) == copy.copy(frozen) == frozen


def test_what_went_in_and_what_comes_out_can_change_without_it() -> None:
    values: dict[str, Any] = {"a": [1, {"b": 2}]}
    frozen = FrozenMapping(values)
    values["a"][1]["b"] = 3
    thaw(frozen)["a"].append(4)
    assert thaw(frozen) == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("value", [float("inf"), {1: 2}, {"a": [date(2001, 1, 1)]}, b"x", {"a"}, object()])
def test_what_no_file_gives_back_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.options: a "):
        build({"backbone": {"options": {"x": value}}})


def changes(mapping: Any) -> list[Any]:
    return [
        lambda: mapping.__setitem__("x", 1),
        lambda: mapping.__delitem__("x"),
        lambda: mapping.update(x=1),
        lambda: mapping.setdefault("x", 1),
        lambda: mapping.pop("x"),
        lambda: mapping.__ior__({"x": 1}),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_can_be_changed(name: str) -> None:
    before = preset(name).model_dump_json()
    config = preset(name)
    mappings = (PRESETS, config.backbone.options, config.loss.box_options, config.attention)
    for change in [one for mapping in mappings for one in changes(mapping)]:
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert preset(name).model_dump_json() == before


def test_nested_options_are_frozen_and_reach_the_factory_as_keywords() -> None:
    config = build({"backbone": {"name": "x:y", "options": {"sizes": [1, {"a": [2]}]}}})
    options = config.backbone.options
    assert {**options}["sizes"][0] == 1
    with pytest.raises(TypeError):
        options["sizes"][1]["a"] = 3
    with pytest.raises(AttributeError):
        options["sizes"].append(3)
    dumped = config.model_dump()
    dumped["backbone"]["options"]["sizes"].append(3)  # a dump belongs to the one who asked for it
    assert build(config.model_dump()) == config
    assert isinstance(PRESETS, MappingProxyType)


def test_a_configuration_can_be_copied_and_pickled() -> None:
    """Loader processes that are spawned get theirs pickled."""
    config = resolve("rtdetr_r18", attention={"backbone.16": "ema"}, loss={"box_options": {"ratio": 0.7}})
    again: Config = pickle.loads(pickle.dumps(config))
    assert again == copy.deepcopy(config) == config.model_copy(deep=True) == config
    assert again.attention["backbone.16"] == "ema"
