"""Golden classifiers: the file in its own container, loaded as a whole model; the logits are the reference's."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from flexdetr.loading import load
from flexdetr.model.fuse import fuse

CASES = {
    "paddleclas_hgnet_tiny": "pphgnet_tiny_cls",
    "paddleclas_hgnetv2_b0": "hgnetv2_b0_cls",
    "paddleclas_hgnetv2_b4": "hgnetv2_b4_cls",
    "timm_hgnetv2_b0": "hgnetv2_b0_cls",
    "timm_hgnet_tiny": "pphgnet_tiny_cls",
    "timm_ghostnet_100": "ghostnet_100_cls",
    "timm_ghostnetv3_100": "ghostnetv3_100_cls",
    "timm_mobilenetv1_100": "mobilenetv1_cls",
    "huawei_ghostnetv3_100": "ghostnetv3_100_cls",
}


@pytest.mark.parametrize("case", CASES)
def test_same_logits(case: str, golden: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(golden.write(case, tmp_path))
    facts = golden.cases()[case]
    assert classifier.config.model == CASES[case]
    assert classifier.config.task == "classify"
    assert len(classifier.classes) == facts["model"]["classes"]
    assert sum(one.numel() for one in classifier.model.parameters()) == facts["parameters"]
    # Some inputs have odd sides, which the reference takes; ours are padded by the caller.
    images = torch.from_numpy(golden.inputs(case))
    head, levels = classifier.model.head, classifier.model.backbone
    expected, limit = golden.expected(case), facts["tolerance"]["logits"]
    with torch.inference_mode():
        logits = head(levels(images)).final.logits[:, 0].numpy()
        assert np.abs(logits - expected["logits"]).max() <= limit
        if "logits_folded" in expected:
            folded = fuse(classifier.model.eval())
            logits = folded.head(folded.backbone(images)).final.logits[:, 0].numpy()
            assert np.abs(logits - expected["logits_folded"]).max() <= limit
