"""Distribution focal loss and the expectation against the reference's."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
import torch

import vectors
from flexdetr.loss.distribution_focal import distribution_focal_loss
from flexdetr.model.heads.yolov8.cells import expectation


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_are_the_published_values(golden: ModuleType, dtype: torch.dtype, limit: float) -> None:
    arrays = {name: torch.from_numpy(value).to(dtype) for name, value in golden.arrays("dfl").items()}
    loss = distribution_focal_loss(arrays["logits"], arrays["target"])
    torch.testing.assert_close(loss, arrays["loss"], atol=limit, rtol=0)
    torch.testing.assert_close(loss.view(-1, 4).mean(-1), arrays["cell_loss"], atol=limit, rtol=0)
    torch.testing.assert_close(expectation(arrays["logits"]), arrays["expectation"], atol=10 * limit, rtol=0)


def test_a_distance_beyond_the_bins_is_moved_to_them(golden: ModuleType) -> None:
    outside = json.loads((vectors.HERE / "dfl.json").read_text(encoding="utf-8"))["outside"]
    logits = torch.from_numpy(golden.arrays("dfl")["logits"][:4]).double()
    loss = distribution_focal_loss(logits, torch.tensor(outside["target"], dtype=torch.float64))
    assert loss.mean().item() == pytest.approx(outside["cell_loss"], abs=1e-10)
