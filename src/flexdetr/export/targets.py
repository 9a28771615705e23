"""Kinds of boards, and the ONNX operations that their toolchains take.

The lists are ours, and narrow on purpose: what the toolchains' own documentation names in common, cut to what is plain.
A toolchain has the last word about its own version; what is on its list may still run on the board's CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flexdetr.config import nearest
from flexdetr.export.errors import ExportError

# Opset 11 and later have them all.
_PLAIN: Final = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv",
    "ConvTranspose", "Div", "Erf", "Exp", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "MatMul", "MaxPool",
    "Mul", "Neg", "PRelu", "Pad", "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu",
    "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A kind of board.

    Attributes:
        what: which boards and toolchains.
        ops: ONNX operations that may be used.
        opsets: the lowest and the highest ONNX opset that its toolchain reads.
    """

    what: str
    ops: frozenset[str]
    opsets: tuple[int, int] = (11, 21)

    @property
    def plain_norms(self) -> bool:
        """Whether layer norms have to be spelt out."""
        return "LayerNormalization" not in self.ops


TARGETS: Final[Mapping[str, Target]] = {
    "generic": Target("any board: what all of the others take", _PLAIN),
    "rockchip": Target("RK35xx with rknn-toolkit2", _PLAIN, (12, 19)),
    "qualcomm": Target(
        "Snapdragon with QNN, or onnxruntime's QNN provider", _PLAIN | {"LayerNormalization", "Gelu"}
    ),
    "horizon": Target("Horizon and D-Robotics BPUs with OpenExplorer", _PLAIN),
}
# The word for the kind of chip means any of them.
_ALIASES: Final[Mapping[str, str]] = {"npu": "generic"}


def target_of(name: str) -> Target:
    """A target by its name.

    Raises:
        ExportError: naming the nearest if there is none of this name.
    """
    found = TARGETS.get(_ALIASES.get(name, name))
    if found is None:
        raise ExportError(nearest(name, [*TARGETS, *_ALIASES], "target"))
    return found


def check_board(target: str | None, format: str, precision: str, *, dynamic_size: bool) -> None:  # noqa: A002
    """Options that do not go with a board, answered before any work.

    Raises:
        ExportError: with what to give instead.
    """
    if target is None:
        raise ExportError(f"graphs for a board are format onnx with a target: {', '.join(TARGETS)}")
    target_of(target)
    if format not in ("onnx", "board"):
        raise ExportError(
            f"a target is for format onnx, which boards' toolchains read; the format is {format}"
        )
    if precision != "fp32":
        raise ExportError(
            f"graphs for boards are written in fp32, and their toolchains quantise; got precision {precision}"
        )
    if dynamic_size:
        raise ExportError("boards need fixed sizes: leave dynamic_size out")
