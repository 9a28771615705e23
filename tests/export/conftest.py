"""A tiny detector whose scores are spread, so that a wrong artifact cannot look right, and artifacts made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fakes.tiny import CLASSES, settled, spread, tiny
from flexdetr.api import Detector
from flexdetr.data.images import pixels
from flexdetr.data.scenes import draw_scene
from flexdetr.export.make import ExportSource, export
from flexdetr.export.reference import Reference
from flexdetr.runtime.artifact import Artifact
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.formats import FORMATS
from flexdetr.runtime.sources import Source


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_float32(detector: Detector, image: Source, threshold: float) -> Detections:
    """What the PyTorch model finds in float32, which is what files written in it are compared with."""
    reference = Reference(detector.model, detector.classes, detector.config.image_size)
    found = reference.predict(pixels(image))
    return found[found.scores >= threshold]


@pytest.fixture(scope="session", name="in_float32")
def _in_float32() -> Callable[[Detector, Source, float], Detections]:
    return in_float32


@pytest.fixture(scope="session")
def detector() -> Detector:
    """A detector for pictures of 64x96."""
    return tiny()


@pytest.fixture(scope="session")
def make() -> Callable[..., Detector]:
    """``tiny``: (size, changes) -> a detector."""
    return tiny


@pytest.fixture(scope="session")
def whole() -> Callable[..., Detector]:
    """(preset, changes) -> a preset's detector with spread scores."""

    def make(preset: str, seed: int = 0, **changes: Any) -> Detector:
        torch.manual_seed(seed)
        detector = Detector(preset, classes=CLASSES, **changes)
        spread(detector.model)
        return detector

    return make


@pytest.fixture(scope="session")
def subject(detector: Detector) -> ExportSource:
    return ExportSource(detector.model, detector.config, detector.classes, detector.metadata)


@pytest.fixture(scope="session", name="settled")
def _settled() -> Detector:
    """See ``fakes.tiny.settled``."""
    return settled()


@pytest.fixture(scope="session")
def settled_artifact(
    settled: Detector, once: Callable[[str, Callable[[Path], Artifact]], Artifact]
) -> Artifact:
    """Its OpenVINO artifact, made once; not to be written to."""
    return once("settled", lambda path: settled.export("openvino", path))


@pytest.fixture(scope="session")
def exported(
    subject: ExportSource, once: Callable[[str, Callable[[Path], Artifact]], Artifact]
) -> Callable[[str], Artifact]:
    """(row of the formats' table) -> its artifact, made once; not to be written to. Boards' is the generic one."""
    made: dict[str, Artifact] = {}

    def get(kind: str) -> Artifact:
        if kind not in made:
            target = "generic" if FORMATS[kind].for_target else None
            asked = "onnx" if target else kind
            made[kind] = once(kind, lambda path: export(subject, asked, path, target=target))
        return made[kind]

    return get


@pytest.fixture
def folder_of(exported: Callable[[str], Artifact], tmp_path: Path) -> Callable[[str], Path]:
    """(format) -> a copy of its artifact that may be broken."""
    import shutil

    return lambda kind: Path(shutil.copytree(exported(kind).path, tmp_path / kind))


@pytest.fixture(scope="session")
def labelled(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes labelled by the detector itself, so that its float32 AP is 1 and whatever int8 costs is seen."""
    root = tmp_path_factory.mktemp("labelled")
    (root / "annotations").mkdir()
    categories = [
        {"id": row, "name": name}
        for row, name in zip(detector.classes.ids, detector.classes.names, strict=True)
    ]
    for split, count in (("train", 6), ("val", 4)):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            image = draw_scene(np.random.default_rng(number + 10 * count), (96, 128)).image
            Image.fromarray(image).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
            found = in_float32(detector, image, 0.5)
            for row in found.to_coco(number):
                row.pop("score")
                area = row["bbox"][2] * row["bbox"][3]
                annotations.append(row | {"id": len(annotations) + 1, "area": area, "iscrowd": 0})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root
