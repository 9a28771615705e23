"""A step that is divided by what its parts add up to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexdetr.engine.distributed import Ranks
from flexdetr.engine.divisor import divided
from flexdetr.engine.sentinels import PartLoss


def parts(*shares: float | None) -> list[PartLoss]:
    return [
        PartLoss(
            torch.tensor(6.0),
            {"bce": torch.tensor(4.0), "dfl": torch.tensor(2.0)},
            (number,),
            None if share is None else torch.tensor(share),
        )
        for number, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("shares", "divisor"),
    [((1.5, 0.5), 2.0), ((0.25, None), 0.25), ((0.0, 0.0), 0.1)],
    ids=["sum", "one failed", "nothing assigned"],
)
def test_gradient_and_losses_are_divided(shares: tuple[float | None, ...], divisor: float) -> None:
    taught, untaught = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    taught.grad = torch.tensor([3.0, -1.0])
    found = divided(parts(*shares), [taught, untaught], least=0.1, ranks=Ranks())
    torch.testing.assert_close(taught.grad, torch.tensor([3.0, -1.0]) / divisor)
    assert untaught.grad is None
    assert [part.total.item() for part in found] == pytest.approx([6 / divisor] * 2)
    assert found[0].terms["bce"].item() == pytest.approx(4 / divisor)
    assert [part.image_ids for part in found] == [(0,), (1,)]
