"""The boxes of a COCO file's annotations."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from flexdetr.classes import Classes
from flexdetr.data.coco_file import CocoFile
from flexdetr.data.dataset import Defect
from flexdetr.data.outlines import Box, box_around
from flexdetr.data.records import RawBox, fraction_like
from flexdetr.data.values import flag, identity, number, shown, whole

_LARGEST_AREA = 1e12  # square pixels


@dataclass
class Boxes:
    """What a file's annotations give.

    Attributes:
        of_image: boxes by image id; their ``line`` is the annotation's place in its list.
        broken: ids of images with an annotation that cannot be used.
        outlined: boxes that were taken from outlines.
        defects: of these annotations.
    """

    of_image: dict[int | str, list[RawBox]] = field(default_factory=lambda: defaultdict(list))
    broken: set[int | str] = field(default_factory=set)
    outlined: int = 0
    defects: list[Defect] = field(default_factory=list)


def read_boxes(file: CocoFile, classes: Classes) -> Boxes:
    """The boxes of a file, by image."""
    boxes = Boxes()
    index = {number: position for position, number in enumerate(classes.ids)}
    for place, annotation in enumerate(file.entries("annotations")):
        image = identity(annotation.get("image_id")) if isinstance(annotation, dict) else None
        box = _box(annotation, place, index, classes)
        if isinstance(box, str):
            boxes.defects.append(file.error("annotations", place, box))
            if image is not None:
                boxes.broken.add(image)
        elif image is None:
            message = (
                f"{box.name}: 'image_id' must be a number or a text; got {shown(annotation.get('image_id'))}"
            )
            boxes.defects.append(file.error("annotations", place, message))
        else:
            boxes.of_image[image].append(box)
            boxes.outlined += _written_box(annotation) is None
    _refuse_fractions(file, boxes)
    return boxes


def _box(annotation: object, place: int, index: dict[int, int], classes: Classes) -> RawBox | str:
    """A box, whose ``line`` is its place in the list of annotations, or what is wrong with it."""
    if not isinstance(annotation, dict):
        return f"an annotation must be an object with 'image_id', 'category_id' and 'bbox'; got {shown(annotation)}"
    name = f"annotation {shown(annotation.get('id'), 40)}"
    category = whole(annotation.get("category_id"))
    if category not in index:
        given = shown(annotation.get("category_id")) if category is None else category
        return f"{name}: category id {given} is not one of the categories (valid: {classes.valid_ids()})"
    corners = _written_box(annotation)
    if corners is None and annotation.get("bbox") in (None, []):
        corners = box_around(annotation.get("segmentation"))
    if corners is None:
        given = shown(annotation.get("bbox"))
        return (
            f"{name}: bbox must be [x, y, width, height], or 'segmentation' cover an area; got bbox {given}"
        )
    crowd = flag(annotation.get("iscrowd"))
    if crowd is None:
        return f"{name}: iscrowd must be 0 or 1; got {shown(annotation['iscrowd'])}"
    ignored = flag(annotation.get("ignore"))
    if ignored is None:
        return f"{name}: ignore must be 0 or 1; got {shown(annotation['ignore'])}"
    area = number(annotation.get("area"))
    return RawBox(
        corners,
        index[category],
        place,
        name,
        crowd or ignored,
        area if area is not None and 0 <= area <= _LARGEST_AREA else None,
    )


def _written_box(annotation: dict[str, object]) -> Box | None:
    bbox = annotation.get("bbox")
    values = [number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else []
    x, y, width, height = values or (None,) * 4
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, x + width, y + height


def _refuse_fractions(file: CocoFile, boxes: Boxes) -> None:
    """An error where boxes look like fractions of the image: as pixels they would be smaller than one."""
    suspects = [
        (image, box)
        for image, found in boxes.of_image.items()
        for box, small in zip(found, fraction_like([box.xyxy for box in found]), strict=True)
        if small
    ]
    if not suspects:
        return
    total = sum(map(len, boxes.of_image.values()))
    first = min((box for _, box in suspects), key=lambda box: box.line or 0)
    message = (
        f"{len(suspects)} of {total} boxes look like fractions of the image, for instance {first.name}: pixels are "
        "expected; multiply x and width by the image's width, y and height by its height"
    )
    boxes.defects.append(file.error("annotations", first.line or 0, message))
    boxes.broken |= {image for image, _ in suspects}
