from __future__ import annotations

import pytest

from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read


def _categories(*rows):
    return [dict(zip(("id", "name", "supercategory"), row, strict=False)) for row in rows]


def test_a_root_that_is_named_like_the_only_class(tmp_path, write_coco):
    """Roboflow's unused category 0, whatever its super-category is called."""
    for split in ("train", "valid"):
        for rows in (((0, "bolt", "none"), (1, "bolt", "bolt")), ((0, "bolt"), (1, "bolt", "parts"))):
            write_coco(
                tmp_path / split / "_annotations.coco.json",
                {"a.png": [(1, 1, 1, 5, 5)]},
                {},
                categories=_categories(*rows),
            )
    dataset = read(tmp_path)
    assert (dataset.classes.names, dataset.classes.ids) == (("bolt",), (1,))
    assert any("category 0 'bolt'" in note and "not a class" in note for note in dataset.notes)
    assert [record.labels.tolist() for records in dataset.splits.values() for record in records] == [[0], [0]]


def test_two_used_categories_of_one_name_are_refused(tmp_path, write_coco):
    boxes = [(1, 1, 1, 5, 5), (2, 9, 9, 5, 5)]
    path = write_coco(tmp_path / "a.json", {"a.png": boxes}, {1: "bolt", 2: "bolt"})
    with pytest.raises(DataError, match="'bolt' occurs more than once"):
        read(path)


@pytest.mark.parametrize(
    "entry",
    [None, "bolt", [], 5, {}, {"id": 2}, {"name": "x"}, {"id": None, "name": "x"}, {"id": [1], "name": "x"},
     {"id": 1.5, "name": "x"}, {"id": True, "name": "x"}, {"id": 2, "name": None}, {"id": 2, "name": ["x"]},
     {"id": 2**63, "name": "x"}],
)  # fmt: skip
def test_what_is_no_category_is_refused_with_its_line(tmp_path, write_coco, entry):
    categories = [{"id": 1, "name": "bolt"}, entry]
    path = write_coco(tmp_path / "a.json", {"a.png": [(1, 1, 1, 5, 5)]}, {}, categories=categories)
    with pytest.raises(DataError, match=r"a\.json:\d+: a category needs an integer 'id' and a 'name'"):
        read(path)


def test_ids_and_names_in_other_writings(tmp_path, write_coco):
    categories = [{"id": "3", "name": 7}, {"id": 1.0, "name": "bolt"}]
    path = write_coco(
        tmp_path / "a.json", {"a.png": [(3, 1, 1, 5, 5), (1, 9, 9, 5, 5)]}, {}, categories=categories
    )
    classes = read(path).classes
    assert (classes.names, classes.ids) == (("bolt", "7"), (1, 3))


def test_two_names_for_one_id_in_one_file(tmp_path, write_coco):
    categories = [{"id": 1, "name": "bolt"}, {"id": "1", "name": "nut"}]
    path = write_coco(tmp_path / "a.json", {"a.png": []}, {}, categories=categories)
    with pytest.raises(DataError, match="category 1 is 'nut', further above it is 'bolt'"):
        read(path)
