"""Batch norms over the images of all processes, so that two processes see the statistics that one would see."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from flexdetr.config import ConfigError


def synchronise_norms(model: nn.Module, device: torch.device) -> int:
    """Let every batch norm that learns take its statistics over all ranks.

    On a GPU they become ``SyncBatchNorm``, which torch has for GPUs only; on a CPU their ``forward`` is replaced.
    Frozen norms stay as they are. Names and shapes of the state do not change. timm's norms keep the activation that
    they end with.

    Args:
        model: the trained model, changed in place; copies that are only evaluated need no change.
        device: where the model computes.

    Returns:
        How many norms were changed.

    Raises:
        ConfigError: if a norm is of a kind whose ``forward`` is not known.
    """
    changed = 0
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) or not norm.track_running_stats:
            continue
        if norm.affine and not norm.weight.requires_grad:
            continue
        if not _of_timm(norm) and type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise ConfigError(
                f"the norm {name} is a {type(norm).__module__}.{type(norm).__qualname__}, whose statistics cannot be "
                "taken over several processes; use --set train.sync_norms=false, or train in one process"
            )
        if device.type == "cuda":
            model.set_submodule(name, _on_gpu(norm))
        else:
            norm.forward = _Synchronised(norm)  # type: ignore[method-assign, assignment]
        changed += 1
    return changed


def moving_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances that a step in training mode moves."""
    return [
        tensor
        for norm in model.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
        for tensor in (norm.running_mean, norm.running_var)
        if tensor is not None
    ]


def _on_gpu(norm: nn.Module) -> nn.Module:
    if _of_timm(norm):
        from timm.layers.norm_act import convert_sync_batchnorm

        return cast("nn.Module", convert_sync_batchnorm(norm))  # type: ignore[no-untyped-call]
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
    return converted


def _of_timm(norm: nn.Module) -> bool:
    """Whether this is timm's norm that ends with dropout and an activation."""
    return type(norm).__module__.startswith("timm.") and hasattr(norm, "drop") and hasattr(norm, "act")


class _Synchronised:
    """The ``forward`` of a batch norm whose statistics are those of all ranks' images."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        normed = self._normed(x)
        if _of_timm(self.norm):
            activated: Tensor = self.norm.act(self.norm.drop(normed))  # type: ignore[operator]
            return activated
        return normed

    def _normed(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        places = [axis for axis in range(x.ndim) if axis != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_tensor(float(wide.numel() // wide.shape[1]))
        dist.all_reduce(count)
        # Two passes, mean first: sums of squares would lose the digits that float32 has.
        mean = _AddedUp.apply(wide.sum(places)) / count
        shape = [1, -1, *[1] * (x.ndim - 2)]
        centred = wide - mean.view(shape)
        variance = _AddedUp.apply(centred.square().sum(places)) / count
        self._remember(mean.detach(), variance.detach(), float(count))
        scaled = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
        return scaled.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Moves the running statistics, as torch's own norm does: the variance is the unbiased one."""
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        unbiased = variance * (count / max(1.0, count - 1))
        norm.running_var.lerp_(unbiased.to(norm.running_var), share)


class _AddedUp(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, own: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        total = own.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
