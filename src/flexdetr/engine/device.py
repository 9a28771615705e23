"""Which device computes, in which precision, on which runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast, get_args

import torch

from flexdetr.config import ConfigError, nearest
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.cpu import bf16_supported
from flexdetr.runtime.parity import Asked

RUNTIMES = ("auto", "torch", "openvino")


def choose_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:0", "mps" (a Mac's GPU, which "auto" never
            takes: it was not tried) ...

    Raises:
        ConfigError: if the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not one; use auto, cpu, cuda, cuda:0 or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device {name!r} is not here: this machine has {count} CUDA devices; use cpu or auto"
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                f"device {name!r} is not here: it needs a Mac with Apple's GPU and PyTorch for it; use cpu or auto"
            )
    elif device.type != "cpu":
        raise ConfigError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:0 or mps")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that matrix products and convolutions compute in.

    Args:
        name: "auto", "fp32", "bf16" or "fp16".
        device: where they run.

    Returns:
        For "auto", bfloat16 wherever the device multiplies it in hardware (CUDA GPUs since Ampere, CPUs with AMX or
        AVX512-BF16), float32 elsewhere: emulated bf16 is several times slower than float32.

    Raises:
        ConfigError: for fp16 on a CPU, and if there is no such precision.
    """
    check_precision(name)
    if name == "fp16":
        if device.type == "cpu":
            raise ConfigError("precision fp16 needs a GPU; use auto, fp32 or bf16 on a CPU")
        return torch.float16
    if name == "bf16" or (name == "auto" and _has_bf16(device)):
        return torch.bfloat16
    return torch.float32


def check_precision(name: str) -> Asked:
    """A precision's name, where it is one.

    Raises:
        ConfigError: naming the nearest.
    """
    if name not in get_args(Asked):
        raise ConfigError(nearest(name, get_args(Asked), "precision"))
    return cast("Asked", name)


def precision_name(dtype: torch.dtype) -> str:
    """What ``choose_precision`` calls a type: "fp32", "bf16" or "fp16"."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")


def check_openvino(device: str, precision: str) -> Asked:
    """The precision for a checkpoint's detector on OpenVINO, where it can compute there.

    Raises:
        ConfigError: for another device than the CPU, and if there is no such precision.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"a checkpoint is computed with OpenVINO on the cpu only; got device {device}: use runtime torch"
        )
    return check_precision(precision)


def computation(device: torch.device, dtype: torch.dtype) -> Computation:
    """What PyTorch computes with."""
    where = f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    return Computation.here(f"PyTorch {torch.__version__}", where, precision_name(dtype))


def check_runtime(name: str) -> None:
    """Refuse what is none of ``RUNTIMES``.

    Raises:
        ConfigError: naming the nearest.
    """
    if name not in RUNTIMES:
        raise ConfigError(nearest(name, RUNTIMES, "runtime for a checkpoint"))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and bf16_supported()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which the model runs; it does nothing for float32."""
    return torch.autocast(
        device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32
    )


@contextmanager
def arithmetic(device: torch.device, *, tf32: bool = False, benchmark: bool = False) -> Iterator[None]:
    """Decides inside what a CUDA device may do with float32, and how cuDNN chooses its algorithms.

    PyTorch's own default is TF32 in convolutions and not in products: a float32 that depends on the layer. Here it is
    float32 in both, or TF32 in both. Other devices are left alone; what was set before comes back at the end.

    Args:
        device: where it computes.
        tf32: multiply float32 on tensor cores with 10 bits of mantissa instead of 23.
        benchmark: let cuDNN try its algorithms on each new shape and keep the fastest; else it takes only those that
            give the same numbers in every run.
    """
    if device.type != "cuda":
        yield
        return
    precision = "tf32" if tf32 else "ieee"
    wanted = [
        (torch.backends.cuda.matmul, "fp32_precision", precision),
        (torch.backends.cudnn.conv, "fp32_precision", precision),  # type: ignore[attr-defined]  # torch has no types
        (torch.backends.cudnn, "benchmark", benchmark),
        (torch.backends.cudnn, "deterministic", not benchmark),
    ]
    former = [getattr(place, name) for place, name, _ in wanted]
    for place, name, value in wanted:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(wanted, former, strict=True):
            setattr(place, name, value)
