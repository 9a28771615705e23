"""``flexdetr`` as torchrun starts it in test_elastic.py: the second rank is killed once, in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import sys

from flexdetr.cli import main
from flexdetr.engine import trainer


def killed_at(epoch: int, step: int) -> None:
    """Kill this process when it comes there, as a machine that fails does."""
    real = trainer.Trainer._step

    def stepped(self: trainer.Trainer, batch: object) -> object:
        if (self.epoch, self.batch_index) == (epoch, step):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    trainer.Trainer._step = stepped


if __name__ == "__main__":
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0") and sys.argv[1] == "kill":
        killed_at(1, 1)
    raise SystemExit(main(sys.argv[2:]))
