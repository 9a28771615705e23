"""A detector without random weights: they would be overwritten, and drawing them takes longer than reading a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flexdetr.config import Config
from flexdetr.model.detector import DetectionModel

_DRAWS: Final = frozenset(
    {
        "uniform_",
        "normal_",
        "trunc_normal_",
        "kaiming_uniform_",
        "kaiming_normal_",
        "xavier_uniform_",
        "xavier_normal_",
    }
)


class _NoDraws(TorchFunctionMode):
    """Random initialisation does nothing; constants are filled in as ever, buffers hold what they should."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's protocol
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def without_draws() -> TorchFunctionMode:
    """A context in which modules are built without drawing random weights."""
    return _NoDraws()


def skeleton(config: Config, num_classes: int, backbone: nn.Module | None = None) -> DetectionModel:
    """A detector whose weights hold nothing yet; every one must be loaded before it is used.

    ``backbone`` is a module of the user's in place of the configured one.

    Raises:
        ConfigError: if a part is unknown or does not fit.
    """
    with without_draws():
        return DetectionModel(config, num_classes, backbone)


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make ``state`` the module's tensors without copying them; names and shapes must be checked before.

    ``load_state_dict(assign=True)`` does the same; its checks take longer than all other steps of this.
    """
    device = next(module.parameters()).device
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for table in (part._parameters, part._buffers):
            for name, former in table.items():
                if former is None or (tensor := state.get(prefix + name)) is None:
                    continue
                tensor = tensor.to(device)
                table[name] = (
                    nn.Parameter(tensor, former.requires_grad) if isinstance(former, nn.Parameter) else tensor
                )


def set_norm_eps(module: nn.Module, eps: Mapping[str, float]) -> None:
    """Give batch norms the eps that their weights were trained with.

    ``eps`` are values by module path; a value holds for all norms at or below its path, longer paths win.
    """
    for path in sorted(eps, key=len):
        for part in module.get_submodule(path).modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eps = eps[path]
