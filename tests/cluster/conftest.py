"""A tiny exported detector and pictures for it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fakes.tiny import settled

COUNT = 10


@pytest.fixture(scope="session")
def artifact(once):
    return once("settled", lambda path: settled().export("openvino", path)).path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder
