"""YAML texts: what is read, and what a hostile one gets."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexdetr import yaml_text
from flexdetr.config import ConfigError, parse_overrides, read_yaml
from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read
from flexdetr.yaml_text import LONGEST, YamlError, parse_yaml


def bomb(levels: int = 9, fan: int = 9) -> str:
    """Nine levels of nine aliases: 387 million strings in 600 characters."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * fan)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


MERGES = "\n".join(
    [
        "m0: &m0 {x: 1, y: 2}",
        *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12)),
    ]
)

HOSTILE = {
    "aliases of aliases": (bomb(), "aliases written out"),
    "merge keys": (MERGES, "aliases written out"),
    "one long text repeated": (f"a: &a {'text ' * 20_000}\nb: [{'*a, ' * 100}]", "aliases written out"),
    "itself": ("a: &a [1, *a]", "contains itself"),
    "itself, further down": ("a: &a {b: {c: [1, *a]}}", "contains itself"),
    "deep": ("[" * 100_000, "nest"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(2000)), "nest"),
    "long": ("a: " + "x" * LONGEST, "characters"),
    "many values": ("[" + "1," * 300_000 + "]", "250,000 values"),
    "a number without end": ("a: " + "9" * 200_000, "200,000 digits"),
    "sexagesimal": ("a: 1" + ":59" * 200_000, "digits"),
    "a tagged number": ("a: !!int '1" + ":59" * 200_000 + "'", "digits"),
    "a command": ("a: !!python/object/apply:os.system ['true']", "python/object"),
    "no date": ("a: 2024-13-45", "month"),
    "two documents": ("a: 1\n---\nb: 2\n", "document"),
    "a name of nothing": ("a: *b", "alias"),
    "half a surrogate": ("a: \udcff", "surrogate|unacceptable"),
}


# A PyYAML that was built without libyaml has the second only.
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_answered(
    text: str, reason: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_text, "_Loader", getattr(yaml, loader, yaml.SafeLoader))
    with pytest.raises(YamlError, match=reason) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", [bomb(), MERGES])
def test_every_reader_refuses_a_bomb(text: str, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="aliases written out"):
        read_yaml(file)
    with pytest.raises(DataError, match="aliases written out"):
        read(tmp_path)
    flow = "{" + ", ".join(text.strip().splitlines()) + "}"
    with pytest.raises(ConfigError, match="aliases written out"):
        parse_overrides([f"train={flow}"])


def test_a_file_without_end_is_read_to_the_limit() -> None:
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("no /dev/zero on this system")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_yaml(endless)


def test_aliases_and_merges_within_reason_are_read() -> None:
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n"
    assert parse_yaml(text) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert read_yaml(file) == {"seed": 3}


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(st.text(max_size=8), below, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=values)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=60), st.text("&*<!|>-:[]{},'\"#?%@ \n\tab019.eE" + string.digits, max_size=60)
    )
)
@example("&a &a b")
@example("? [*a, &a {}]\n: 1")
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):  # any other exception fails the test
        parse_yaml(text)


@pytest.mark.parametrize("text", ["a: !!int ''", "a: !!float ''", "a: !!timestamp ''", "a: !!bool maybe"])
def test_values_that_are_none_of_their_tag_are_refused(text):
    with pytest.raises(YamlError):
        parse_yaml(text)


def test_values_as_written():
    text = "a: yes\n0: [1.0, 010, 2020-01-01, ~]\n"
    assert parse_yaml(text, as_written=True) == {"a": "yes", "0": ["1.0", "010", "2020-01-01", "~"]}
    with pytest.raises(YamlError, match="tag"):
        parse_yaml("a: !!python/name:os.system", as_written=True)
