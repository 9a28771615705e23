"""Building blocks that backbones and encoders share, and how each folds into its deploy form.

A module that has a simpler inference form defines ``fuse() -> nn.Module``: it returns a new module, complete
with everything below it, and leaves the old one as it is. ``flexdetr.model.fuse`` walks a detector and puts
those in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "relu6", "silu", "gelu"]

# In-place is safe where these are used: their input is a norm's (or a biased convolution's) fresh output.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": nn.GELU,
}


def activation(name: Activation | None) -> nn.Module:
    """A fresh activation module; the identity for None."""
    return nn.Identity() if name is None else ACTIVATIONS[name]()


class LearnableAffineBlock(nn.Module):
    """One learnable scale and shift for a whole feature map, PP-HGNetV2's ``lab``: ``scale * x + bias``.

    Its parameters stay float32 under autocast but are applied in the features' own type, so that a bf16
    feature map is not widened to float32 after every convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as ``x``."""
        return torch.addcmul(self.bias.to(x.dtype), x, self.scale.to(x.dtype))


class Shift(nn.Module):
    """Adds one constant: what is left of a learnable affine block whose scale went into the convolution."""

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return x + self.bias


class ConvBNAct(nn.Module):
    """Convolution without bias, batch norm, activation and (``use_lab``) affine block, in this order.

    Args:
        kernel_size: side of the kernel, or (height, width).
        stride: of the convolution.
        groups: of the convolution.
        act: "relu", "silu", "gelu", or None for no activation.
        use_lab: end with a LearnableAffineBlock.
        padding: zeros on each side; None keeps the size of odd kernels, ``(K - 1) // 2``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        act: Activation | None = "relu",
        use_lab: bool = False,
        padding: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = activation(act)
        self.lab: nn.Module = LearnableAffineBlock() if use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if self.training and isinstance(self.lab, LearnableAffineBlock) and self._scale_fits_norm(self.lab):
            # scale * relu(norm(x)) = relu(scale * norm(x)): scaling the norm's own small vectors spares the
            # backward pass three walks over the feature map, a tenth of a B0 training step on a CPU.
            x = self.conv(x)
            norm, scale = self.norm, self.lab.scale.to(x.dtype)
            if norm.num_batches_tracked is not None and norm.training:
                norm.num_batches_tracked.add_(1)
            x = F.batch_norm(
                x,
                norm.running_mean,
                norm.running_var,
                norm.weight * scale,
                norm.bias * scale,
                norm.training,
                norm.momentum or 0.0,
                norm.eps,
            )
            return self.act(x) + self.lab.bias.to(x.dtype)
        return self.lab(self.act(self.norm(self.conv(x))))

    def _scale_fits_norm(self, lab: LearnableAffineBlock) -> bool:
        """Whether the scale may move before the activation; asked on the CPU only, where the answer is at hand."""
        if "forward" in vars(self.norm):  # it takes its statistics over several processes
            return False
        return lab.scale.device.type == "cpu" and isinstance(self.act, nn.ReLU) and bool(lab.scale > 0)

    def fuse(self) -> nn.Module:
        """A biased convolution, the activation, and what cannot be folded of the affine block."""
        return fuse_conv(*fold_norm(self.conv.weight, self.norm), self.conv, self.act, self.lab)


class LightConvBNAct(nn.Module):
    """PP-HGNetV2's light layer: a 1x1 ConvBNAct without activation, then a depthwise one with it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: Activation | None = "relu",
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, out_channels, 1, act=None)
        self.conv2 = ConvBNAct(
            out_channels, out_channels, kernel_size, groups=out_channels, act=act, use_lab=use_lab
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.conv2(self.conv1(x))


class ConvAct(nn.Module):
    """Deploy form of ConvBNAct: a biased convolution, the activation, and the rest of the affine block."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module, lab: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act
        self.lab = lab

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        return self.lab(self.act(self.conv(x)))


def fold_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that equals ``norm(conv(x))`` in evaluation mode.

    Computed in float64: the deploy form then differs from the training form by the rounding of one product.

    ``weight`` is the (O, I / groups, K, K) kernel of a convolution without bias.

    Returns:
        (O, I / groups, K, K) and (O,), float64.
    """
    mean, variance, gamma, beta = (x.detach().double() for x in _statistics(norm))
    scale = gamma * torch.rsqrt(variance + norm.eps)
    return weight.detach().double() * scale[:, None, None, None], beta - mean * scale


def fold_identity(norm: nn.BatchNorm2d, kernel_size: int, groups: int) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that equals ``norm(x)`` in evaluation mode.

    The kernel's side is odd.

    Returns:
        (C, C / groups, K, K) and (C,), float64.
    """
    channels, centre = norm.num_features, kernel_size // 2
    per_group = channels // groups
    delta = torch.zeros(channels, per_group, kernel_size, kernel_size, device=norm.weight.device)
    rows = torch.arange(channels, device=delta.device)
    delta[rows, rows % per_group, centre, centre] = 1
    return fold_norm(delta, norm)


def pad_kernel(weight: Tensor, kernel_size: int) -> Tensor:
    """An odd kernel as a larger odd one, with zeros around it."""
    margin = (kernel_size - weight.shape[-1]) // 2
    return F.pad(weight, (margin, margin, margin, margin))


def biased_conv(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """An inference-only convolution with this kernel and bias; all else is taken from ``like``."""
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        (weight.shape[-2], weight.shape[-1]),
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=like.groups,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
    return conv.requires_grad_(False).eval()


def fuse_conv(weight: Tensor, bias: Tensor, like: nn.Conv2d, act: nn.Module, lab: nn.Module) -> nn.Module:
    """The deploy form of ``lab(act(convolution))``, simplified as far as it stays exact.

    A positive scale commutes with the ReLU, ``s * relu(x) = relu(s * x)``, and goes into the kernel. The
    shift follows the activation and stays: the next convolution's zero padding would lack it.

    Returns:
        A plain convolution where nothing follows it, else a ConvAct.
    """
    linear = isinstance(act, nn.Identity)
    rest: nn.Module = nn.Identity()
    if isinstance(lab, LearnableAffineBlock):
        scale, shift = lab.scale.detach().double(), lab.bias.detach().double()
        if linear:
            weight, bias = weight * scale, bias * scale + shift
        elif isinstance(act, nn.ReLU) and scale.item() > 0:
            weight, bias = weight * scale, bias * scale
            rest = Shift(lab.bias.detach().clone())
        else:
            rest = LearnableAffineBlock().to(lab.scale)
            rest.load_state_dict(lab.state_dict())
    conv = biased_conv(weight, bias, like)
    if linear:
        return conv
    return ConvAct(conv, copy.deepcopy(act), rest).requires_grad_(False).eval()


def init_weights(module: nn.Module) -> None:
    """Initialises every convolution and norm below ``module`` for training from scratch.

    Kaiming normal by fan-in (1502.01852, eq. 10): a depthwise kernel's fan-in is its area, so that
    depthwise and dense layers start with outputs of the same size. Biases start at 0, norms at scale 1 and
    shift 0.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics cannot be folded into its convolution")
    return mean, variance, norm.weight, norm.bias
