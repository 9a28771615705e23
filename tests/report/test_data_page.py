"""Pages on data: self-contained, whatever the names, and with the numbers in them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from flexdetr.classes import ClassError, Classes
from flexdetr.data.dataset import Dataset
from flexdetr.data.detect import read
from flexdetr.data.scenes import draw_scenes
from flexdetr.data.statistics import statistics
from flexdetr.report.data_page import doubts, preview_page, statistics_page


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = draw_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=2, test=0, size=(96, 128))
    found = read(root, val_fraction=None)
    odd = Classes(("<script>alert(1)</script>", *found.classes.names[1:]), found.classes.ids)
    return replace(found, classes=odd)


def assert_self_contained(text: str) -> None:
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(text)
    assert "script" not in {tag for tag, _ in tags}
    addresses = [value for _, given in tags for key, value in given.items() if key in ("src", "href")]
    assert all(address.startswith(("data:image/", "#")) for address in addresses)


def test_statistics_page(dataset):
    found = statistics(dataset)
    text = statistics_page(found)
    assert_self_contained(text)
    for heading in ("Overview", "Classes", "Sizes", "Classes in one image", "Images that look alike"):
        assert f"<h2>{heading}</h2>" in text
    assert f"<b>{len(found.sides)}</b><span>objects</span>" in text
    assert "128x96" in text
    counted = text.partition("Objects in an image")[2]
    assert "3 to 4" in counted  # whole numbers: neither "0 to 1" nor "3 to 5" for three or four
    assert not re.search(r"\b0 to 1\b", counted)


def test_statistics_page_shows_twins(dataset):
    twice = replace(dataset, splits={**dataset.splits, "test": dataset.splits["train"][:1]})
    text = statistics_page(statistics(twice))
    assert "<b>1</b><span>twins in two splits</span>" in text
    assert text.count("data:image/jpeg") == 2


def test_preview_page_shows_images_with_labels(dataset):
    text = preview_page(dataset, count=4)
    assert_self_contained(text)
    assert text.count("data:image/jpeg") == 4 + 2
    assert "4 of 6 images" in text
    assert preview_page(dataset, count=4) == text
    assert preview_page(dataset, count=4, seed=1) != text
    name = dataset.classes.names[2]
    showing = sum((one.labels == 2).any() for one in dataset.splits["train"])
    only = preview_page(dataset, count=48, only=name)
    assert re.search(rf"<p>{showing} of {showing} images</p>", only)
    with pytest.raises(ClassError, match=name):
        preview_page(dataset, count=1, only=name[:-1])


def test_doubtful_labels_are_shown(dataset):
    records = [one for one in dataset.splits["train"] if len(one)]
    right = {
        one.image_id: (one.boxes_xyxy, np.full(len(one), 0.9, np.float32), one.labels) for one in records
    }
    agreed = doubts(records, right, dataset.classes)
    assert all("0 in all" in body for body in agreed.values())
    nothing = doubts(records, {}, dataset.classes)
    total = sum(map(len, records))
    assert f"{total} in all" in nothing["Labelled, not found"]
    text = statistics_page(statistics(dataset), nothing)
    assert_self_contained(text)
    assert "<h2>Labelled, not found</h2>" in text
