from __future__ import annotations

import json

import pytest

from flexdetr.data.json_lines import JsonLines


@pytest.mark.parametrize("indent", [1, 4])
def test_every_element_is_found_again(tmp_path, indent):
    document = {
        "info": {"b": [1, {"b": [{}]}], "text": '"b": ['},
        "a": [{"id": 0}, None, [1, 2], "text, [", 7],
        "b": [{"x": {"y": []}}, {}],
        "c": 5,
    }
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(document, indent=indent), encoding="utf-8-sig")
    lines, text = JsonLines(path, ("a", "b")), path.read_text(encoding="utf-8-sig").splitlines()
    starts = ["{", "null", "[", '"text', "7"]
    assert [
        text[lines.of("a", place) - 1].strip()[: len(start)] for place, start in enumerate(starts)
    ] == starts
    assert text[lines.of("b", 0) - 1].strip() == "{"
    assert text[lines.of("b", 1) - 1].strip() == "{}"
    assert lines.of("b", 2) is None
    assert lines.of("c", 0) is None


def test_all_on_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a":[1,2],"b":[]}')
    assert JsonLines(tmp_path / "a.json", ("a", "b")).of("a", 1) == 1
