"""Blocks within a level that pool."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flexdetr.model.pooled import SPPF


def test_sppf_pools_further_and_further() -> None:
    torch.manual_seed(0)
    module = SPPF(8).eval()
    seen: list[Tensor] = []
    module.expand.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    level = torch.randn(1, 8, 16, 16)
    module(level)
    squeezed = module.squeeze(level)
    want = [squeezed, *(F.max_pool2d(squeezed, size, 1, size // 2) for size in (5, 9, 13))]
    torch.testing.assert_close(seen[0], torch.cat(want, 1))
