"""What a server takes from strangers, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        max_bytes: of a request's body.
        max_pixels: of a picture, width times height.
        seconds: for a request from its first byte to its answer.
        in_flight: requests that are being read, decoded or computed; more are sent away.
        batch_size: pictures that are computed together, at most.
        batch_wait: seconds that a picture waits for others to be computed with.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    seconds: float = 30.0
    in_flight: int = 64
    batch_size: int = 8
    batch_wait: float = 0.005


class RefusedError(Exception):
    """A request that is answered with a 4xx or 5xx status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
