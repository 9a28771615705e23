"""Whole models through both deployment formats, square and not; each proof runs one by one and in a batch of 4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexdetr.api import Detector

pytestmark = pytest.mark.slow

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "r18": ("rtdetr_r18", {}),
    "hgnetv2_l": ("rtdetr_hgnetv2_l", {}),
    "ghostnetv3_100": ("rtdetr_ghostnetv3_100", {}),
    # Seed 0 has two candidates for the last query that score alike, and seed 1 no score above 0.3.
    "nano": ("flexdetr_nano", {"seed": 4}),
    "convnext_atto": ("rtdetr_r18", {"backbone": "timm/convnext_atto"}),
}
# Drift of a score, and of a box in pixels; docs/proofs.md has what was measured: at most 1.3e-5 and 0.004 px, and
# 1.3e-4 and 0.031 px of GhostNetV3, whose gates multiply a rounding.
LIMITS = dict.fromkeys(MODELS, (1e-4, 0.02)) | {"ghostnetv3_100": (5e-4, 0.1)}


@pytest.mark.parametrize("size", [(320, 320), (256, 416)], ids=["square", "wide"])
@pytest.mark.parametrize("name", MODELS)
def test_drift(
    name: str,
    size: tuple[int, int],
    whole: Callable[..., Detector],
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    preset, changes = MODELS[name]
    detector = whole(preset, image_size=size, **changes)
    for kind in ("openvino", "onnx"):
        parity = detector.export(kind, tmp_path / kind).parity
        assert parity is not None
        assert parity.passed
        assert min(drift.floor for drift in parity.drifts) == 0.3, "nothing scores above 0.3"
        for drift in parity.drifts:
            record_property(f"{kind}, {drift.case}", f"score {drift.score:.1e}, box {drift.box:.1e} px")
            # The graph's own resizing does not round pixels as Pillow does: single boxes move by a tenth of a pixel.
            score, box = (1e-3, 0.2) if drift.case == "resized by the graph" else LIMITS[name]
            assert drift.score <= score
            assert drift.box <= box
