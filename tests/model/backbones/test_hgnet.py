from __future__ import annotations

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.model.backbones.hgnet import hgnet
from flexdetr.model.fuse import fuse

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("variant", "parameters", "channels"),
    [
        ("tiny", 11_114_000, (224, 448, 512, 768)),
        ("small", 20_214_720, (256, 512, 768, 1024)),
        ("base", 66_907_744, (320, 640, 960, 1280)),
    ],
)
def test_is_as_large_as_published(variant, parameters, channels):
    with torch.device("meta"):
        backbone = hgnet(variant, strides=STRIDES, inserts={})
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert backbone.channels == channels


@pytest.mark.parametrize("case", ["paddleclas_hgnet_tiny", "timm_hgnet_tiny"])
def test_golden(case, golden, load_reference, assert_golden, classifier_type):
    model = classifier_type(hgnet("tiny", strides=STRIDES, inserts={}), 768)
    load_reference(case, model)
    model.eval()
    images = torch.from_numpy(golden.inputs(case))
    for form in (model, fuse(model)):
        with torch.inference_mode():
            logits, levels = form(images)
        assert_golden(
            case, {"logits": logits, **{f"stride{s}": x for s, x in zip(STRIDES, levels, strict=True)}}
        )


def test_unknown_variant():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        hgnet("tny", strides=STRIDES, inserts={})
