from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.classes import ClassError, Classes, described


@given(st.dictionaries(st.integers(0, 10_000), st.text(min_size=1), max_size=20))
def test_classes_survive_json(rows):
    names = {name: number for number, name in rows.items()}  # names must be unique too
    classes = Classes(tuple(names), tuple(names.values()))
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    assert len(classes) == len(names)
    for index, (name, number) in enumerate(names.items()):
        assert classes.index_of_name(name) == classes.index_of_id(number) == index


def test_names_alone_count_from_zero():
    assert Classes.of(["cat", "dog"]).ids == (0, 1)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("cat", "cat"), (0, 1), "name 'cat' occurs more than once"),
        (("cat", "dog"), (1, 1), "id '1' occurs more than once"),
        (("cat",), (0, 1), "1 class names for 2 ids"),
        (("cat \ud83d",), (0,), "holds half of a character"),
    ],
)
def test_contradictions_are_refused(names, ids, message):
    with pytest.raises(ClassError, match=message):
        Classes(names, ids)


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ClassError, match="did you mean 'Platelets'"):
        Classes.of(["RBC", "Platelets"]).index_of_name("platelet")


def test_unknown_id_is_answered_with_the_known_ones():
    with pytest.raises(ClassError, match="no class has the id 2; ids: 1, 3"):
        Classes(("a", "b"), (1, 3)).index_of_id(2)


def test_row_without_id_is_refused():
    with pytest.raises(ClassError, match="integer 'id'"):
        Classes.from_json([{"name": "cat"}])


@pytest.mark.parametrize(
    ("ids", "text"),
    [((0, 1, 2), "0 to 2"), ((1, 3), "1, 3"), ((5,), "5"), ((), "none"), ((3, 2, 1), "1 to 3")],
)
def test_valid_ids_for_messages(ids, text):
    assert Classes(tuple(f"c{number}" for number in ids), ids).valid_ids() == text


def test_classes_and_readers_load_no_torch():
    code = "import sys, flexdetr.classes, flexdetr.data.detect, flexdetr.data.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_repr_names_the_first_classes():
    assert described(Classes.of(["cat"]), (64, 96)) == "96x64 pixels, 1 class (cat)"
    assert described(Classes.of("abcdef"), (64, 64)) == "64x64 pixels, 6 classes (a, b, c, d, e, ...)"
