"""COCO's 80 object classes with their ids, 1 to 90 with holes, in the order of every 80-class detector head."""

from __future__ import annotations

from typing import Final

from flexdetr.classes import Classes

_NAMES: Final = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut",
    61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave",
    79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase",
    87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
COCO: Final = Classes(tuple(_NAMES.values()), tuple(_NAMES))

# How older lists (Pascal's words) call some of them; configurations of published checkpoints use these.
_OTHER_WORDS: Final = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "hair dryer": "hair drier",
}


def named(names: list[str] | None, count: int) -> tuple[Classes, str]:
    """The classes of a head.

    ``names`` are what the checkpoint calls its ``count`` classes, in the head's order; None or placeholders
    where it does not say.

    Returns:
        The classes, and a sentence on where they come from. Names that are COCO's, in its order, get COCO's ids.
    """
    if names is not None and len(names) == count and not _placeholders(names):
        spelled = [_OTHER_WORDS.get(name.casefold(), name.casefold()) for name in names]
        if spelled == list(COCO.names):
            return COCO, "named in the file; COCO's ids"
        if len(set(names)) == count:
            return Classes.of(names), "named in the file, numbered from 0"
    if count == len(COCO):
        return COCO, "not named in the file; 80, so COCO's names and ids are taken"
    return Classes.of(f"class_{index}" for index in range(count)), "not named in the file"


def _placeholders(names: list[str]) -> bool:
    return all(
        name.casefold() in (f"label_{index}", f"class{index}", f"class_{index}")
        for index, name in enumerate(names)
    )
