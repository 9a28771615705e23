"""Which device computes, in which precision, on which runtime."""

from __future__ import annotations

import importlib.util

import torch

from flexdetr.config import ConfigError, nearest
from flexdetr.runtime.cpu import bf16_supported

RUNTIMES = ("auto", "torch", "openvino")
# Converting a detector takes OpenVINO some seconds, and gains a part of a second with each picture.
PICTURES_FOR_OPENVINO = 100


def choose_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:0" ...

    Raises:
        ConfigError: where the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not one; use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device {name!r} is not here: this machine has {count} CUDA devices; use cpu or auto"
            )
    elif device.type != "cpu":
        raise ConfigError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:0")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that matrix products and convolutions compute in.

    Args:
        name: "auto", "fp32", "bf16" or "fp16".
        device: where they run.

    Returns:
        For "auto", bfloat16 wherever the device multiplies it in hardware (GPUs since Ampere, CPUs with AMX or
        AVX512-BF16), float32 elsewhere: emulated bf16 is several times slower than float32.

    Raises:
        ConfigError: for fp16 on a CPU.
    """
    if name == "fp16":
        if device.type == "cpu":
            raise ConfigError("precision fp16 needs a GPU; use auto, fp32 or bf16 on a CPU")
        return torch.float16
    if name == "bf16" or (name == "auto" and _has_bf16(device)):
        return torch.bfloat16
    return torch.float32


def choose_runtime(name: str, device: torch.device, pictures: int) -> str:
    """What predicts with a checkpoint's detector: "torch" or "openvino".

    Args:
        name: one of ``RUNTIMES``; "auto" is OpenVINO on a CPU from ``PICTURES_FOR_OPENVINO`` pictures on, where it is
            installed.
        device: where to compute.
        pictures: how many are to come.

    Raises:
        ConfigError: where there is no such runtime for a checkpoint, or it does not go with the device.
    """
    check_runtime(name)
    on_cpu = device.type == "cpu"
    if name == "openvino" and not on_cpu:
        raise ConfigError(
            f"a checkpoint is predicted with on OpenVINO on the cpu only; got device {device}: use runtime torch"
        )
    many = pictures >= PICTURES_FOR_OPENVINO and importlib.util.find_spec("openvino") is not None
    return "openvino" if name == "openvino" or (name == "auto" and on_cpu and many) else "torch"


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
    return bf16_supported()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which the model runs; it does nothing for float32."""
    return torch.autocast(
        device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32
    )
