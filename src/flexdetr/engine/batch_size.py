"""How many images per step can hold: measured on the model itself, on a CPU and on a GPU alike."""

from __future__ import annotations

import copy

import psutil
import torch
from torch import Tensor

from flexdetr.config import Config
from flexdetr.engine import state as run_state
from flexdetr.engine.cpu_autocast import training_autocast
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Targets

# Activations that wait for the backward pass are most of a step's memory; gradients in flight, the loss and the
# allocator's rounding add about half as much again.
_OVERHEAD = 1.5
# What others on the machine (loader workers, the image cache, the display) are left with.
_SHARE = 0.7
_MOST = 256
# Multi-scale training draws sizes up to 1.25 times the nominal side.
_LARGEST_SCALE = 1.25


def largest_batch(model: DetectionModel, config: Config, device: torch.device, dtype: torch.dtype) -> int:
    """The largest power of two of images whose training step fits in the free memory.

    Args:
        model: the detector, on the device.
        config: the run's configuration.
        device: where it trains.
        dtype: autocast's type.
    """
    height, width = config.image_size
    if config.data.multi_scale:
        height, width = (round(side * _LARGEST_SCALE / 32) * 32 for side in (height, width))
    needed = _OVERHEAD * _activation_bytes(model, height, width, device, dtype)
    fits = int(_SHARE * _free_bytes(device) / needed)
    return max(1, min(_MOST, 1 << max(0, fits.bit_length() - 1)))


def _activation_bytes(
    model: DetectionModel, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Bytes an image that the forward pass keeps for the backward pass, counted over two images."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    probe = copy.deepcopy(model).train()  # a forward pass in training mode moves the statistics of the norms
    weights = {tensor.untyped_storage().data_ptr() for tensor in probe.state_dict().values()}
    with (
        run_state.random_state_kept(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        training_autocast(device, dtype),
    ):
        images = torch.rand(2, model.channels, height, width, device=device)
        boxes = torch.full((20, 4), 0.5, device=device)
        targets = Targets([torch.zeros(20, dtype=torch.long, device=device)] * 2, [boxes] * 2, ["probe"] * 2)
        output = probe(images, targets)
    del output
    return sum(size for place, size in sizes.items() if place not in weights) / 2


def release_memory(device: torch.device) -> None:
    """Give back what this process's allocator keeps for later: the driver counts it as taken."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _free_bytes(device: torch.device) -> int:
    release_memory(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)
