"""Drawing leaves the picture's size alone, marks each box, and survives boxes at the edge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from flexdetr import draw
from flexdetr.draw import annotate, class_colour, contact_sheet, draw_detections
from flexdetr.runtime.detections import Detections


def test_marks_the_box_and_copies_the_picture() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    found = Detections([[50, 60, 150, 160]], [0.9], [7], ["cat"], [3])
    drawn = draw_detections(image, found)
    assert drawn.shape == image.shape
    assert not image.any()
    assert tuple(drawn[159, 100]) == class_colour(3)  # the lower edge
    assert tuple(drawn[110, 50]) == class_colour(3)  # the left edge
    assert not drawn[110, 100].any()  # inside


@pytest.mark.parametrize("box", [[0, 0, 300, 200], [299, 199, 300, 200], [10, 10, 10, 10], [0, 0, 0.4, 0.4]])
def test_boxes_at_the_edge_and_without_area(box: list[float]) -> None:
    found = Detections([box], [0.5], [1], ["a name that is longer than the picture is wide, by far"], [0])
    assert draw_detections(np.zeros((200, 300, 3), np.uint8), found).any()


def test_nothing_found_changes_nothing() -> None:
    image = np.full((40, 50, 3), 7, np.uint8)
    assert (draw_detections(image, Detections.empty()) == image).all()


def test_the_first_eighty_classes_have_their_own_colours() -> None:
    assert len({class_colour(index) for index in range(80)}) == 80


def test_any_pillow_image_is_annotated_in_a_copy() -> None:
    found = Detections([[5, 5, 30, 30]], [0.9], [7], ["cat"], [3])
    for mode in ("RGB", "L", "RGBA", "P"):
        image = Image.new(mode, (60, 50))
        drawn = annotate(image, found)
        assert (drawn.mode, drawn.size) == ("RGB", (60, 50))
        assert not np.asarray(image)[..., :1].any()


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (2000, 300), (1500, 4000)])
def test_labels_stay_inside_pictures_of_any_size(size: tuple[int, int]) -> None:
    pen = ImageDraw.Draw(Image.new("RGB", size))
    font = ImageFont.load_default(10)
    for box in ((0, 0, 5, 5), (size[0] - 3, size[1] - 3, size[0], size[1]), (0, 0, *size)):
        for plate in draw._places(pen, "cat", font, box, size):
            if size[0] > 40:
                assert 0 <= plate[0] < plate[2] <= size[0]
                assert 0 <= plate[1] < plate[3] <= size[1]


def test_labels_do_not_hide_each_other_while_there_is_room() -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (300, 300))), ImageFont.load_default(12)
    plates: list[tuple[float, float, float, float]] = []
    for _ in range(3):
        plate = draw._plate(pen, "cat 0.50", font, (100, 100, 200, 200), (300, 300), plates, np.zeros((0, 4)))
        assert plate is not None
        plates.append(plate)
    assert not any(draw._overlap(plates[a], plates[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def crowd(columns: int, rows: int, side: float = 24) -> Detections:
    """Objects close beside each other, of two classes, the best first."""
    places = [(12 + side * column, 12 + side * row) for row in range(rows) for column in range(columns)]
    count = len(places)
    boxes = [[x, y, x + side - 2, y + side - 2] for x, y in places]
    indices = [number % 2 for number in range(count)]
    names = [("white-pawn", "black-pawn")[index] for index in indices]
    return Detections(boxes, np.linspace(0.9, 0.5, count), indices, names, indices)


def test_a_dense_picture_keeps_its_objects_in_sight() -> None:
    found = crowd(20, 16)
    pen = ImageDraw.Draw(Image.new("RGB", (512, 420)))
    boxes = [draw._ordered(box) for box in found.boxes_xyxy.tolist()]
    labels = draw._labels(pen, found, boxes, (512, 420), 10, scores=True)
    assert {index for *_, index in labels} == {0, 1}  # each class is named
    plates = [plate for _, _, plate, _ in labels]
    assert not any(draw._overlap(one, other) for one in plates for other in plates if one is not other)
    covered = np.zeros((420, 512), bool)
    for left, top, right, bottom in plates:
        covered[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
    assert covered.mean() < 0.15


def test_few_objects_all_have_their_label_and_score() -> None:
    found = crowd(2, 2, side=120)
    pen = ImageDraw.Draw(Image.new("RGB", (400, 400)))
    boxes = [draw._ordered(box) for box in found.boxes_xyxy.tolist()]
    labels = draw._labels(pen, found, boxes, (400, 400), 12, scores=True)
    assert [text for text, *_ in labels] == [
        "white-pawn 0.90",
        "black-pawn 0.77",
        "white-pawn 0.63",
        "black-pawn 0.50",
    ]


def test_long_names_are_shortened_and_kept_on_one_line() -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (99, 99))), ImageFont.load_default(12)
    text = draw._shortened(pen, "a name\nof several lines " * 5, font, 99)
    assert text.startswith("a name of")
    assert text.endswith("...")
    assert pen.textlength(text, font=font) <= 99
    assert draw._shortened(pen, "cat", font, 99) == "cat"


def test_contact_sheet_holds_all_pictures() -> None:
    images = [np.full((40 + 10 * i, 60, 3), 50 * i, np.uint8) for i in range(5)]
    sheet = np.asarray(contact_sheet(images, 3, cell=60))
    for value in range(5):
        # 60 x 80 is made smaller to fit; the others keep their size.
        count = int((sheet == 50 * value).all(axis=2).sum())
        assert count == (45 * 60 if value == 4 else (40 + 10 * value) * 60 if value < 3 else 51 * 60)
    captioned = contact_sheet(images, 3, cell=60, captions=list("abcde"))
    assert captioned.height > sheet.shape[0]
    assert captioned.width == sheet.shape[1]


def test_contact_sheet_refuses_nothing_and_wrong_captions() -> None:
    with pytest.raises(ValueError, match="needs pictures"):
        contact_sheet([])
    with pytest.raises(ValueError, match="1 captions for 2 pictures"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)] * 2, captions=["a"])
