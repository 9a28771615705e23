"""The deploy form: a new, inference-only module that computes the same with fewer operations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from flexdetr.model.conv_norm import fold_pairs

if TYPE_CHECKING:
    from flexdetr.model.detector import DetectionModel


class FuseError(ValueError):
    """A model that cannot be brought into the deploy form, or a deploy form that is used for training."""


@overload
def fuse(model: DetectionModel, *, decoder_layers: int | None = ...) -> DetectionModel: ...


@overload
def fuse(model: nn.Module, *, decoder_layers: int | None = ...) -> nn.Module: ...


def fuse(model: nn.Module, *, decoder_layers: int | None = None) -> nn.Module:
    """The deploy form of a detector, or of any part of one.

    Every module with a method ``fuse()`` is replaced by what it returns: a convolution with its norm, the branches of
    RepVGG blocks and of GhostNetV3, the learnable affine blocks. timm's networks go through timm's own
    re-parameterisation. Elsewhere (timm's networks, modules of the user) a batch norm goes into the convolution
    before it where no one else reads that convolution's output. A head drops what only training needs.

    The model, in evaluation mode, is left as it is, and shares no tensor with the result. ``decoder_layers``
    are kept; None keeps all, so that the number can still be chosen at inference.

    Returns:
        A new module on the same device and in the same precision, without gradients, whose attribute ``fused`` is
        True. A ``DetectionModel`` gives a ``DetectionModel`` that refuses ``train()``.

    Raises:
        FuseError: if the model is in training mode or is a deploy form already, where ``decoder_layers`` does not
            exist, or where a ``fuse()`` does not return a new module.
    """
    if getattr(model, "fused", False) is True:
        raise FuseError("this model is the deploy form already; fuse the model that was trained")
    if model.training:
        raise FuseError(
            "the model is in training mode, where batch norms still change; call model.eval() before fuse(model)"
        )
    with _default_type(model):
        fused = copy.deepcopy(model, _deploy_forms(model))
    fold_pairs(fused)
    for part in fused.modules():
        if callable(fold := getattr(part, "fold", None)):  # a head
            try:
                fold(decoder_layers)
            except ValueError as error:
                raise FuseError(str(error)) from None
    fused.requires_grad_(False).eval()
    fused.fused = True  # type: ignore[assignment]  # stubs of nn.Module allow tensors and modules only
    return fused


def deploy_form(model: DetectionModel, *, decoder_layers: int | None = None) -> DetectionModel:
    """``fuse`` of a detector in whatever mode it is, which it keeps; its tensors serve outside of inference mode too.

    Raises:
        FuseError: as ``fuse`` does.
    """
    modes = [(part, part.training) for part in model.modules()]
    with torch.inference_mode(False), torch.no_grad():
        try:
            return fuse(model.eval(), decoder_layers=decoder_layers)
        finally:
            for part, mode in modes:
                part.training = mode


@contextmanager
def _default_type(model: nn.Module) -> Iterator[None]:
    """The folds of timm make layers in torch's default type: let it be the model's."""
    types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(types.pop() if len(types) == 1 else usual)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _deploy_forms(model: nn.Module) -> dict[int, Any]:
    """The deploy form of each outermost module that has one, by the module's id.

    Handed to ``copy.deepcopy`` as its memory of what was copied before, it puts the deploy form wherever the module
    is referred to, and copies nothing that is folded away.
    """
    forms: dict[int, Any] = {}
    parts = [model]
    while parts:
        part = parts.pop()
        if id(part) in forms:
            continue
        form = _deploy_form(part)
        # What hangs on a module's call (an attention insert in timm's network) has to stay.
        if form is None or _hooked(form) < _hooked(part):
            parts.extend(part.children())
        else:
            forms[id(part)] = form
    return forms


def _deploy_form(part: nn.Module) -> nn.Module | None:
    if type(part).__module__.partition(".")[0] == "timm":
        # It takes seconds to import; here it is in use already.
        from timm.utils.model import reparameterize_model

        holder = nn.ModuleList([copy.deepcopy(part)])  # timm looks at children only
        reparameterize_model(holder, inplace=True)
        return holder[0]
    if not callable(getattr(part, "fuse", None)):
        return None
    form = part.fuse()  # type: ignore[operator]  # the line above asks
    kind = type(part).__name__
    if not isinstance(form, nn.Module):
        raise FuseError(f"{kind}.fuse() returned {type(form).__name__}; it has to return a new nn.Module")
    if form is part:
        raise FuseError(
            f"{kind}.fuse() returned the module itself; it has to leave it as it is and return a new one"
        )
    kept = {id(tensor) for tensor in _tensors(part)}
    return copy.deepcopy(form) if any(id(tensor) in kept for tensor in _tensors(form)) else form


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _hooked(module: nn.Module) -> int:
    """How many modules have something hanging on their call."""
    return sum(bool(part._forward_hooks or part._forward_pre_hooks) for part in module.modules())
