"""Found objects in the forms that annotation tools import: Label Studio, CVAT, FiftyOne."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Objects = Sequence[Mapping[str, Any]]
# Characters that no XML document can hold, not even escaped.
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def label_studio(
    objects: Objects, image: str, size: tuple[int, int], model_version: str = "flexdetr"
) -> dict[str, Any]:
    """A task of Label Studio with one prediction.

    The project's labelling configuration has ``<Image name="image">`` and ``<RectangleLabels name="label"
    toName="image">``.

    Args:
        objects: as ``Detections.to_json`` gives them.
        image: the picture's address, as Label Studio reaches it.
        size: (height, width) of the picture.
        model_version: how Label Studio calls the prediction.
    """
    height, width = size
    result = []
    for number, found in enumerate(objects):
        x0, y0, x1, y1 = found["box_xyxy"]
        value = {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
            "rectanglelabels": [found["name"]],
        }
        result.append(
            {
                "id": f"object-{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": found["score"],
                "value": value,
            }
        )
    # The least certain object decides where a person should look first.
    score = min((float(found["score"]) for found in objects), default=0.0)
    return {
        "data": {"image": image},
        "predictions": [{"model_version": model_version, "score": score, "result": result}],
    }


def cvat(pictures: Iterable[tuple[str, tuple[int, int], Objects]], names: Iterable[str] = ()) -> str:
    """A document in the form "CVAT for images 1.1".

    Args:
        pictures: of each its name in the task, its (height, width), and its objects as ``Detections.to_json`` gives
            them.
        names: of the task's labels, those besides that no object has.
    """
    pictures = list(pictures)
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")  # other tools' readers ask for it
    ET.SubElement(task, "size").text = str(len(pictures))
    ET.SubElement(task, "mode").text = "annotation"
    labels = ET.SubElement(task, "labels")
    for name in dict.fromkeys([*names, *(found["name"] for _, _, objects in pictures for found in objects)]):
        one = ET.SubElement(labels, "label")
        ET.SubElement(one, "name").text = _xml(name)
        ET.SubElement(one, "type").text = "rectangle"
        ET.SubElement(one, "attributes")
    for number, (name, (height, width), objects) in enumerate(pictures):
        shown = {"id": str(number), "name": _xml(name), "width": str(width), "height": str(height)}
        image = ET.SubElement(root, "image", shown)
        for found in objects:
            corners = (f"{side:.2f}" for side in found["box_xyxy"])
            places = dict(zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
            fixed = {"label": _xml(found["name"]), "source": "auto", "occluded": "0", "z_order": "0"}
            ET.SubElement(image, "box", {**fixed, **places})
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def fiftyone(objects: Objects, size: tuple[int, int]) -> dict[str, Any]:
    """A field of a FiftyOne sample, as its ``to_dict`` writes it.

    Args:
        objects: as ``Detections.to_json`` gives them.
        size: (height, width) of the picture.

    Returns:
        ``_cls`` "Detections", and in ``detections`` a dictionary per object: ``label``, ``confidence``,
        ``bounding_box`` (left, top, width, height as fractions) and, where it was tracked, ``index``.
    """
    height, width = size
    found = []
    for one in objects:
        x0, y0, x1, y1 = one["box_xyxy"]
        entry = {
            "_cls": "Detection",
            "label": one["name"],
            "bounding_box": [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
            "confidence": one["score"],
        }
        if one.get("tracker_id", -1) >= 0:
            entry["index"] = one["tracker_id"]
        found.append(entry)
    return {"_cls": "Detections", "detections": found}


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
