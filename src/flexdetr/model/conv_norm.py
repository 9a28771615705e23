"""Finds batch norms that directly follow a convolution, in modules of any origin, and folds them away."""

from __future__ import annotations

import copy
import inspect
import logging
from collections import Counter
from collections.abc import Iterator

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import fuse_conv_bn_weights

_LOG = logging.getLogger(__name__)

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)


class _Tracer(fx.Tracer):
    """Looks into one module's own ``forward``; what it calls stays closed, but for plain sequences."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - fx's signature
        return type(m) is not nn.Sequential or _is_hooked(m)


def fold_pairs(model: nn.Module) -> int:
    """Folds every batch norm into the convolution that alone feeds it, in place.

    Each module's own ``forward`` is traced symbolically, with its children closed. A pair is a convolution called
    once, whose output goes to a batch norm called once, and nowhere else. A ``forward`` that cannot be traced (its
    control flow depends on the values) is left as it is, which is slower but not wrong.

    The model is in evaluation mode.

    Returns:
        How many norms were folded.
    """
    seen = Counter(id(part) for _, part in model.named_modules(remove_duplicate=False))
    tensors = Counter(id(tensor) for part in model.modules() for tensor in part.parameters(recurse=False))
    folded = 0
    for parent in list(model.modules()):
        for conv_name, norm_name in list(_pairs(parent)):
            conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
            if not isinstance(conv, _ConvNd) or not isinstance(norm, nn.BatchNorm2d):
                raise TypeError(f"{conv_name} and {norm_name} are not a convolution and a batch norm")
            own = (*conv.parameters(recurse=False), *norm.parameters(recurse=False))
            if seen[id(conv)] > 1 or seen[id(norm)] > 1 or any(tensors[id(tensor)] > 1 for tensor in own):
                continue  # used in several places
            _fold(conv, norm)
            parent.set_submodule(norm_name, _after(norm))
            folded += 1
    return folded


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of a convolution and the norm that alone reads its output, in ``parent.forward``."""
    parts = dict(_called(parent))
    if not any(map(_is_conv, parts.values())) or not any(map(_is_norm, parts.values())):
        return
    graph = _trace(parent)
    if graph is None:
        return
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv, norm = str(source.target), str(node.target)
        alone = len(source.users) == 1 and len(source.args) == 1 and not source.kwargs
        once = calls[conv] == 1 and calls[norm] == 1 and len(node.args) == 1 and not node.kwargs
        if alone and once and _is_conv(parts.get(conv)) and _is_norm(parts.get(norm)):
            yield conv, norm


def _called(parent: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that ``parent.forward`` calls by name: its children, and those of plain sequences."""
    for name, child in parent.named_children():
        if type(child) is nn.Sequential and not _is_hooked(child):
            yield from _called(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _trace(parent: nn.Module) -> fx.Graph | None:
    if type(parent).forward in (nn.Module.forward, nn.ModuleList.forward, nn.ModuleDict.forward):
        return None  # a container: nothing to run
    # Arguments with a default keep it, as in a backbone's own calls.
    defaults = {
        name: argument.default
        for name, argument in inspect.signature(parent.forward).parameters.items()
        if argument.default is not inspect.Parameter.empty
    }
    try:
        return _Tracer().trace(parent, concrete_args=defaults)
    except (
        Exception
    ) as error:  # a forward may hold any code, and may do anything with a stand-in for a tensor
        _LOG.debug("%s is not traced, its norms stay: %s", type(parent).__name__, error)
        return None


# timm's convolution with TensorFlow's padding, and its norm with the activation inside; by name, so that models
# without timm need not import it.
_TIMM_CONV = "timm.layers.conv2d_same.Conv2dSame"
_TIMM_NORM = "timm.layers.norm_act.BatchNormAct2d"


def _kind(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__name__}"


def _is_hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


def _is_conv(part: nn.Module | None) -> bool:
    """A convolution that uses its weight as it is; other subclasses may standardise it first."""
    if part is None or _is_hooked(part) or (type(part) not in _CONVS and _kind(part) != _TIMM_CONV):
        return False
    return not isinstance(part, nn.ConvTranspose2d) or part.groups == 1


def _is_norm(part: nn.Module | None) -> bool:
    """A batch norm that uses its running statistics."""
    if part is None or _is_hooked(part) or (type(part) is not nn.BatchNorm2d and _kind(part) != _TIMM_NORM):
        return False
    return isinstance(part, nn.BatchNorm2d) and part.running_mean is not None


def _after(norm: nn.Module) -> nn.Module:
    """What remains of a norm once its arithmetic is in the convolution."""
    if _kind(norm) != _TIMM_NORM:
        return nn.Identity()
    return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))


def _fold(conv: _ConvNd, norm: nn.BatchNorm2d) -> None:
    """``norm(conv(x))`` into ``conv``, computed in float64."""
    copied = copy.deepcopy(norm).double()
    if copied.running_mean is None or copied.running_var is None:
        raise TypeError("a batch norm without running statistics cannot be folded")
    kernel, shift = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        copied.running_mean,
        copied.running_var,
        copied.eps,
        copied.weight,
        copied.bias,
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    for name, value in (("weight", kernel), ("bias", shift)):
        conv.register_parameter(name, nn.Parameter(value.detach().to(conv.weight.dtype), requires_grad=False))
