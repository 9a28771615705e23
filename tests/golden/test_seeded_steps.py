"""Twenty seeded training steps give the numbers that they gave when they were recorded, bit for bit.

The recording (``seeded_steps.json``) was made before the head became a part; `python tests/golden/test_seeded_steps.py`
writes it anew, which is right only if a change is meant to change numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from flexdetr.loss.criterion import Criterion
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Targets
from flexdetr.presets import resolve

RECORDING = Path(__file__).with_name("seeded_steps.json")
MODELS = ("rtdetr_r18", "rtdetrv2_s", "flexdetr_nano")
LONG = ("rtdetr_r18", "rtdetrv2_s")
STEPS = 20


def arithmetic() -> str:
    """Tells CPUs (and builds of torch) apart that round differently: only equal ones can agree bit for bit."""
    torch.manual_seed(7)
    x = torch.randn(2, 16, 24, 24, requires_grad=True)
    layers = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 8, 1))
    y = layers(x).flatten(2).softmax(-1)
    z = nn.Linear(484, 64)(y).sigmoid().log()
    z.square().sum().backward()
    assert x.grad is not None
    return _hash([z, x.grad])


def _hash(tensors: list[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def run(name: str) -> tuple[list[float], str]:
    """Losses of the steps, and a hash of all parameters and buffers after them, in their order."""
    torch.manual_seed(0)
    config = resolve(name)
    model = DetectionModel(config, 5).train()
    criterion = Criterion(config.loss, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(2, 3, 96, 96, generator=generator)
        counts = (step % 3, 2)
        boxes = [torch.rand(count, 4, generator=generator) * 0.3 + 0.3 for count in counts]
        labels = [torch.randint(0, 5, (count,), generator=generator) for count in counts]
        targets = Targets(labels, boxes, [0, 1])
        loss = criterion(model(images, targets), targets).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, _hash([*model.parameters(), *model.buffers()])


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """Sums are split over threads: their number is part of the arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in MODELS]
)
def test_steps_are_as_recorded(name: str) -> None:
    recorded = json.loads(RECORDING.read_text(encoding="utf-8"))
    losses, weights = run(name)
    expected = recorded["runs"][name]
    # Other arithmetic departs slowly, from rounding alone: the first steps are the same to many digits anywhere.
    assert losses[:3] == pytest.approx(expected["losses"][:3], rel=1e-4)
    if arithmetic() == recorded["arithmetic"]:
        assert losses == expected["losses"]
        assert weights == expected["weights"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = {name: dict(zip(("losses", "weights"), run(name), strict=True)) for name in MODELS}
    RECORDING.write_text(
        json.dumps({"arithmetic": arithmetic(), "runs": runs}, indent=1) + "\n", encoding="utf-8"
    )
