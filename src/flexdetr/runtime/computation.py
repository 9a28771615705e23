"""What a detector's answers were computed with: a number is valid only with the arithmetic that made it."""

from __future__ import annotations

from typing import Any, NamedTuple

from flexdetr.runtime.cpu import cpu_features, processor


class Computation(NamedTuple):
    """What computes.

    Attributes:
        runtime: its name and version.
        device: where, as the runtime calls it.
        precision: of the arithmetic: "fp32", "bf16" or "fp16".
        weights: what the weights are kept in: "fp32", "fp16" or "int8". Layers in int8 compute in it.
        cpu: the name of this machine's CPU.
        cpu_features: those that decide how networks are computed, as Linux names them.
    """

    runtime: str
    device: str
    precision: str
    weights: str
    cpu: str
    cpu_features: tuple[str, ...]

    @classmethod
    def here(cls, runtime: str, device: str, precision: str, weights: str = "fp32") -> Computation:
        """On this machine."""
        return cls(runtime, device, precision, weights, processor(), cpu_features())

    def describe(self) -> str:
        """In one line."""
        inside = f"int8 and {self.precision}" if self.weights == "int8" else self.precision
        features = " ".join(self.cpu_features) or "no features known"
        return f"{self.runtime} on {self.device} in {inside} ({self.cpu}: {features})"

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {**self._asdict(), "cpu_features": list(self.cpu_features)}
