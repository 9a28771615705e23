"""Ultralytics' pickled modules, rebuilt from stand-in classes of the same names; none of theirs is installed here."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexdetr.presets import PRESETS
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any
from flexdetr.weights.skeleton import skeleton

BLOCKS = (1, 1, 3, 1)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """An L detector of seven classes whose values half precision can hold."""
    generator = torch.Generator().manual_seed(3)
    state = skeleton(PRESETS["rtdetr_hgnetv2_l"], 7).state_dict()
    values = {}
    for name, tensor in state.items():
        drawn = torch.randn(tensor.shape, generator=generator) / 64
        values[name] = drawn.half().float() if tensor.is_floating_point() else tensor
    values["head.denoising.embedding.weight"][-1] = 0
    return values


@pytest.fixture
def stand_ins() -> Iterator[Callable[[str, str], type[nn.Module]]]:
    """Makes modules ``ultralytics.nn...`` with empty classes, and takes them away again."""
    made: list[str] = []

    def class_of(module: str, name: str) -> type[nn.Module]:
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            if path not in sys.modules:
                sys.modules[path] = ModuleType(path)
                made.append(path)
        made_class = getattr(sys.modules[module], name, None) or type(
            name, (nn.Module,), {"__module__": module}
        )
        setattr(sys.modules[module], name, made_class)
        return made_class

    yield class_of
    for path in made:
        del sys.modules[path]


def module_of(
    state: dict[str, Tensor], class_of: Callable[[str, str], type[nn.Module]], eps: float
) -> nn.Module:
    """A tree of modules with this state dict; batch norms and multi-head attention are torch's own."""
    root = class_of("ultralytics.nn.tasks", "RTDETRDetectionModel")()
    norms = {name.removesuffix(".running_var") for name in state if name.endswith(".running_var")}
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        module = root
        for depth, part in enumerate(path, 1):
            if part not in module._modules:
                if ".".join(path[:depth]) in norms:
                    child: nn.Module = nn.BatchNorm2d(tensor.shape[0], eps=eps, momentum=0.03)
                else:
                    child = class_of("ultralytics.nn.modules.block", "HGBlock" if depth == 2 else "Conv")()
                module.add_module(part, child)
            module = module._modules[part]
        if leaf in ("running_mean", "running_var", "num_batches_tracked"):
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    root.names = {index: f"thing {index}" for index in range(7)}
    root.yaml = {"nc": 7, "backbone": [[-1, 1, "HGStem", [32, 48]]]}
    root.args = {"imgsz": 640}
    root.stride = torch.tensor([32])
    return root


def checkpoint(root: nn.Module, **changes: Any) -> dict[str, Any]:
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": root,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {"imgsz": 512, "model": "rtdetr-l.yaml", "data": Path("coco.yaml")},
        "date": "2023-01-01T00:00:00",
        "version": "8.4.190",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    }
    return {**content, **changes}


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_pickled_modules_in_half_precision(
    eps: float,
    weights: dict[str, Tensor],
    dialects: SimpleNamespace,
    stand_ins: Callable[[str, str], type[nn.Module]],
    save_torch: Callable[..., Path],
) -> None:
    root = module_of(dialects.ultralytics(weights, BLOCKS), stand_ins, eps)
    file = save_torch(checkpoint(copy.deepcopy(root).half()), "rtdetr-l.pt")
    del sys.modules["ultralytics.nn.tasks"].RTDETRDetectionModel
    loaded = load_any(file)
    assert "ultralytics" not in str(type(loaded.tensors))
    assert loaded.config.model == "rtdetr_hgnetv2_l"
    assert loaded.config.image_size == (512, 512)
    assert loaded.classes.names == tuple(f"thing {index}" for index in range(7))
    assert loaded.metadata.licence == "AGPL-3.0"
    assert loaded.metadata.norm_eps == ({"": 1e-3} if eps == 1e-3 else {})
    assert "half precision" in str(loaded.report)
    model = loaded.build()
    found = model.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert {part.eps for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {eps}


def test_a_training_checkpoint_gives_its_average(
    weights: dict[str, Tensor],
    dialects: SimpleNamespace,
    stand_ins: Callable[[str, str], type[nn.Module]],
    save_torch: Callable[..., Path],
) -> None:
    names = dialects.ultralytics(weights, BLOCKS)
    raw = module_of({name: torch.zeros_like(value) for name, value in names.items()}, stand_ins, 1e-3)
    file = save_torch(checkpoint(raw, ema=module_of(names, stand_ins, 1e-3)), "last.pt")
    loaded = load_any(file)
    assert loaded.report.branch == "EMA"
    assert torch.equal(loaded.tensors["head.scores.5.weight"].read(), weights["head.scores.5.weight"])
    assert not load_any(file, prefer="raw").tensors["head.scores.5.weight"].read().any()


def test_one_odd_norm_keeps_its_own_eps(
    weights: dict[str, Tensor],
    dialects: SimpleNamespace,
    stand_ins: Callable[[str, str], type[nn.Module]],
    save_torch: Callable[..., Path],
) -> None:
    root = module_of(dialects.ultralytics(weights, BLOCKS), stand_ins, 1e-5)
    root.get_submodule("model.12.bn").eps = 1e-2
    loaded = load_any(save_torch(checkpoint(root), "rtdetr-l.pt"))
    assert loaded.metadata.norm_eps == {"encoder.lateral.0.norm": 1e-2}


def test_a_bare_state_dict_has_yaml_eps(
    weights: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Callable[..., Path]
) -> None:
    loaded = load_any(save_torch(dialects.ultralytics(weights, BLOCKS)))
    assert loaded.kind == "ultralytics"
    assert loaded.metadata.norm_eps == {"": 1e-3}
    assert "does not show its batch-norm eps" in str(loaded.report)
    assert torch.equal(
        loaded.tensors["backbone.stem.stem1.conv.weight"].read(), weights["backbone.stem.stem1.conv.weight"]
    )


def test_other_models_and_orders_are_refused(
    weights: dict[str, Tensor],
    dialects: SimpleNamespace,
    stand_ins: Callable[[str, str], type[nn.Module]],
    save_torch: Callable[..., Path],
) -> None:
    yolo = module_of({"model.0.conv.weight": torch.ones(8, 3, 3, 3)}, stand_ins, 1e-3)
    with pytest.raises(WeightsError, match=r"RTDETRDetectionModel, which is not an Ultralytics RT-DETR"):
        load_any(save_torch(checkpoint(yolo), "yolo.pt"))
    names = dialects.ultralytics(weights, BLOCKS)
    shuffled = {name.replace("model.12.", "model.99."): value for name, value in names.items()}
    with pytest.raises(WeightsError, match="is not where the published RT-DETR L and X have such a layer"):
        load_any(save_torch(shuffled))
    cut = {name: value for name, value in names.items() if not name.startswith("model.27.")}
    with pytest.raises(WeightsError, match=r"layer 28 \(head\) is not where"):
        load_any(save_torch(cut))


def test_a_module_inside_itself_is_damaged(
    stand_ins: Callable[[str, str], type[nn.Module]], save_torch: Callable[..., Path]
) -> None:
    root = stand_ins("ultralytics.nn.tasks", "RTDETRDetectionModel")()
    root._modules["model"] = root
    with pytest.raises(WeightsError, match="contain each other"):
        load_any(save_torch({"model": root}, "loop.pt"))
