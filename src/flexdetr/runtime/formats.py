"""Formats that a detector is exported to, a row each, and what runs them; the tables import nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from flexdetr.runtime.parity import Precision


@dataclass(frozen=True)
class Engine:
    """What runs the files of some formats.

    Attributes:
        package: the Python package that has to be installed.
        extra: of ``pip install 'flexdetr[...]'``, which brings it; empty if the base install does.
        needs_torch: whether its module imports torch; all others run without.
        shares: whether it can give its threads to several pictures at a time.
        chooses: whether it may compute in another precision than the file was written in.
    """

    package: str
    extra: str
    needs_torch: bool = False
    shares: bool = False
    chooses: bool = False


ENGINES: Final[Mapping[str, Engine]] = {
    "openvino": Engine("openvino", "", shares=True, chooses=True),
    "onnxruntime": Engine("onnxruntime", "export", shares=True),
    "torch": Engine("torch", "train", needs_torch=True),
    "executorch": Engine("executorch", "executorch", needs_torch=True),
    "litert": Engine("ai_edge_litert", "litert"),
}


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        writer: the module that writes it, a ``flexdetr.export.formats.Writer``; it is imported when it is used, because
            each needs its own packages.
        runtimes: engine -> what opens an artifact on it, as ``package.module:NAME``; the format's own engine first.
        extra: of ``pip install 'flexdetr[...]'``, which brings what the writer needs, beside torch.
        packages: those that the extra brings.
        suffixes: of the model's files.
        resizes: whether its runtimes resize pictures as Pillow does. ONNX has such an operation, but its runtimes
            do not agree on what it computes.
        half: what "fp16" means; empty if there is none.
        int8: whether there is int8; the writer is a ``flexdetr.export.formats.Quantiser`` then.
        computes_in_half: whether it means that values between layers are in half precision.
        for_target: whether it is asked for with a kind of board instead of by its name.
        two_graphs: whether it is two graphs of fixed shapes, with the choice of queries between them on the host; of a
            dense head one, with suppression behind it on the host.
        sees_inside: whether values inside a written file can be read, or the graphs' outputs only.
        precisions: what its runtime may choose to compute in, the one that a file has to be proven in first.
        sampling: the form of bilinear sampling that its runtimes compute fastest.
    """

    writer: str
    runtimes: Mapping[str, str]
    extra: str
    packages: tuple[str, ...]
    suffixes: tuple[str, ...]
    resizes: bool = False
    half: str = ""
    int8: bool = False
    computes_in_half: bool = False
    for_target: bool = False
    two_graphs: bool = False
    sees_inside: bool = True
    precisions: tuple[Precision, ...] = ("fp32",)
    sampling: Literal["model", "gather"] = "model"


FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format(
        "flexdetr.export.onnx",
        {
            "onnxruntime": "flexdetr.runtime.onnxruntime:OnnxRuntime",
            "openvino": "flexdetr.runtime.openvino:OpenVINORuntime",
        },
        extra="export",
        packages=("onnx", "onnxscript", "onnxruntime", "nncf"),
        suffixes=(".onnx",),
        int8=True,
        half="computed in half precision",
        computes_in_half=True,
    ),
    "openvino": Format(
        "flexdetr.export.openvino",
        {"openvino": "flexdetr.runtime.openvino:OpenVINORuntime"},
        extra="export",
        packages=("nncf",),
        suffixes=(".xml", ".bin"),
        resizes=True,
        int8=True,
        half="weights stored in half precision",
        precisions=("fp32", "bf16"),
        sampling="gather",  # 6 ms a decoder layer instead of 18: docs/results.md
    ),
    "torch": Format(
        "flexdetr.export.torch_program",
        {"torch": "flexdetr.runtime.torch_program:TorchProgramRuntime"},
        extra="train",
        packages=("torch",),
        suffixes=(".pt2",),
        resizes=True,
        half="computed in half precision",
        computes_in_half=True,
    ),
    "board": Format(
        "flexdetr.export.board",
        {"onnxruntime": "flexdetr.runtime.board:on_onnxruntime"},
        extra="export",
        packages=("onnx", "onnxscript", "onnxruntime"),
        suffixes=(".onnx",),
        computes_in_half=True,
        for_target=True,
        two_graphs=True,
    ),
    "executorch": Format(
        "flexdetr.export.executorch",
        {"executorch": "flexdetr.runtime.executorch:open_runtime"},
        extra="executorch",
        packages=("executorch",),
        suffixes=(".pte",),
        two_graphs=True,
        sees_inside=False,
    ),
    "litert": Format(
        "flexdetr.export.litert",
        {"litert": "flexdetr.runtime.litert:open_runtime"},
        extra="litert",
        packages=("litert_torch", "ai_edge_litert"),
        suffixes=(".tflite",),
        two_graphs=True,
        sees_inside=False,
    ),
}

# What can be asked for by name.
NAMED: Final = tuple(name for name, row in FORMATS.items() if not row.for_target)
SUFFIXES: Final = frozenset(suffix for row in FORMATS.values() for suffix in row.suffixes)
