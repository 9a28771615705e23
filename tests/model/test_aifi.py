"""Attention within a level."""

from __future__ import annotations

import torch

from flexdetr.config import EncoderConfig
from flexdetr.model.aifi import AIFI


def test_aifi_sees_where_a_token_is() -> None:
    """Without a position, attention would give a shuffled map the shuffled answer."""
    torch.manual_seed(0)
    module = AIFI(EncoderConfig(width=16, heads=4, ffn=24)).eval()
    level = torch.randn(1, 16, 3, 5)
    with torch.no_grad():
        assert (module(level.flip(-1)) - module(level).flip(-1)).abs().max() > 1e-3
        assert (module(level.flip(-2)) - module(level).flip(-2)).abs().max() > 1e-3
