"""File layouts that people really have: shards, old formats, shared storages, averages alone, other byte orders."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexdetr.classes import Classes
from flexdetr.config import build, merge
from flexdetr.weights import coco_classes, store
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any
from flexdetr.weights.transformers_export import to_transformers

Save = Callable[..., Path]
CLASSES = Classes.of("abcde")


@pytest.fixture(scope="module")
def state(dialects: SimpleNamespace) -> dict[str, Tensor]:
    return dict(dialects.make_model().state_dict())


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    assert found.keys() == wanted.keys()
    return all(
        torch.equal(found[name], wanted[name]) for name in wanted if not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize(
    "branch", ["ema.module", "model", "ema", "state_dict", "model_state_dict", "module", ""]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_one_branch_alone_in_either_torch_format(
    branch: str, legacy: bool, state: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Save
) -> None:
    content: Any = dialects.lyuwenyu(state, version=1)
    for part in reversed(branch.split(".") if branch else []):
        content = {part: content}
    file = save_torch(content, _use_new_zipfile_serialization=not legacy)
    loaded = load_any(file)
    assert same(loaded.state(), state)
    assert loaded.report.branch == {"": "", "ema": "EMA", "ema.module": "EMA"}.get(branch, "raw")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_files_of_other_pickle_protocols(
    protocol: int, state: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Save
) -> None:
    names = dialects.lyuwenyu(state)
    for legacy in (False, True):
        file = save_torch(
            {"model": names}, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
        )
        assert same(load_any(file).state(), state)


def test_views_strides_and_shared_storages(
    state: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Save
) -> None:
    """Tensors that lie in one storage, or that are transposed, channels-last or expanded views of it."""
    names = dialects.lyuwenyu(state)
    floats = {name: value for name, value in names.items() if value.is_floating_point()}
    flat, place, views = torch.cat([value.flatten() for value in floats.values()]), 0, {}
    for name, value in floats.items():
        views[name] = flat[place : place + value.numel()].view(value.shape)
        place += value.numel()
    turned = {
        name: value.contiguous(memory_format=torch.channels_last)
        if value.ndim == 4
        else value.T.contiguous().T
        if value.ndim == 2
        else value
        for name, value in names.items()
    }
    parameters = {
        name: torch.nn.Parameter(value, requires_grad=False) if value.is_floating_point() else value
        for name, value in names.items()
    }
    for content in ({**names, **views}, turned, parameters):
        for legacy in (False, True):
            file = save_torch({"model": content}, _use_new_zipfile_serialization=not legacy)
            found = load_any(file).state()
            assert same(found, state)
            assert all(tensor.is_contiguous() for tensor in found.values())


def test_a_training_checkpoint_with_everything_in_it(
    state: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Save
) -> None:
    """Optimizer, scheduler, scaler, date and last epoch lie beside the weights in lyuwenyu's files."""
    names = dialects.lyuwenyu(state, points=(4, 4, 4))
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    content = {
        "date": "2024-01-01", "last_epoch": 71, "optimizer": optimizer.state_dict(), "scaler": {"scale": 65536.0},
        "lr_scheduler": schedule.state_dict(), "model": {f"module.{name}": value * 2 for name, value in names.items()},
        "ema": {"module": {f"module.{name}": value for name, value in names.items()}, "updates": 9, "warmups": 2000},
        "args": {"lr": np.float64(1e-4), "steps": np.int64(3)},
    }  # fmt: skip
    loaded = load_any(save_torch(content))
    assert same(loaded.state(), state)
    assert (loaded.report.branch, loaded.config.head.points) == ("EMA", 4)


def test_a_folder_in_shards(state: dict[str, Tensor], dialects: SimpleNamespace, tmp_path: Path) -> None:
    folder = to_transformers(state, dialects.small, CLASSES, tmp_path / "folder")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    table = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file(
            {name: tensors[name] for name in names[number::3]}, folder / file, metadata={"format": "pt"}
        )
        table |= dict.fromkeys(names[number::3], file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    for path in (folder, index):
        loaded = load_any(path)
        assert same(loaded.state(), state)
        assert loaded.classes == CLASSES
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors does not exist"):
        load_any(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(WeightsError, match=r"folder/passwd does not exist"):
        load_any(folder)
    index.write_text("{]")
    with pytest.raises(WeightsError, match="index of shards"):
        load_any(folder)


def test_a_folder_with_a_pickle(state: dict[str, Tensor], dialects: SimpleNamespace, tmp_path: Path) -> None:
    """What transformers saved before safetensors: pytorch_model.bin, alone or in shards."""
    folder = to_transformers(state, dialects.small, CLASSES, tmp_path / "folder")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert same(load_any(folder).state(), state)
    assert same(load_any(folder / "pytorch_model.bin").state(), state)
    (folder / "pytorch_model.bin").unlink()
    table = {name: f"pytorch_model-{len(name) % 2}.bin" for name in tensors}
    for file in set(table.values()):
        torch.save({name: tensors[name] for name in tensors if table[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    assert same(load_any(folder).state(), state)


def test_a_file_inside_a_folder_of_transformers(
    state: dict[str, Tensor], dialects: SimpleNamespace, tmp_path: Path
) -> None:
    config = build(merge(dialects.small.model_dump(), {"head": {"queries": 33, "sampling": "discrete"}}))
    folder = to_transformers(state, config, CLASSES, tmp_path / "folder")
    loaded = load_any(folder / "model.safetensors")
    assert (loaded.config.head.queries, loaded.config.head.sampling) == (33, "discrete")
    assert loaded.classes == CLASSES


@pytest.mark.parametrize("points", [1, 2, 3, 8])
@pytest.mark.parametrize("method", ["default", "discrete"])
def test_other_sampling_points_of_transformers_v2(
    points: int, method: str, dialects: SimpleNamespace, tmp_path: Path
) -> None:
    """As its own save_pretrained writes it: no entry of ours in config.json."""
    sampling = "discrete" if method == "discrete" else "bilinear"
    change = {"model": "rtdetrv2_s", "head": {"points": points, "sampling": sampling}}
    config = build(merge(dialects.small.model_dump(), change))
    state = dict(dialects.make_model(config).state_dict())
    folder = to_transformers(state, config, CLASSES, tmp_path / "folder")
    described = json.loads((folder / "config.json").read_text())
    del described["flexdetr"]
    (folder / "config.json").write_text(json.dumps(described))
    loaded = load_any(folder)
    assert same(loaded.state(), state)
    assert (loaded.config.head.points, loaded.config.head.sampling) == (points, sampling)
    (folder / "config.json").unlink()
    assert load_any(folder).config.head.points == points


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_paddle_files_of_every_protocol(
    protocol: int, state: dict[str, Tensor], dialects: SimpleNamespace, tmp_path: Path
) -> None:
    arrays = {name: value.numpy() for name, value in dialects.paddle(state).items()}
    named = {name: (f"parameter_{index}.w_0", value) for index, (name, value) in enumerate(arrays.items())}
    turned = {name: np.asfortranarray(value) for name, value in arrays.items()}
    table = {name: f"parameter_{index}.w_0" for index, name in enumerate(arrays)}
    file = tmp_path / "model.pdparams"
    for content in ({**arrays, "StructuredToParameterName@@": table}, named, turned, {"model": arrays}):
        file.write_bytes(pickle.dumps(content, protocol=protocol))
        loaded = load_any(file)
        assert loaded.kind == "paddle"
        assert same(loaded.state(), state)


def test_other_byte_orders_are_refused(
    state: dict[str, Tensor], dialects: SimpleNamespace, save_torch: Save, tmp_path: Path
) -> None:
    file = save_torch(dialects.lyuwenyu(state))
    swapped = tmp_path / "big.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(swapped, "w") as new:
        for record in old.infolist():
            content = b"big" if record.filename.endswith("/byteorder") else old.read(record)
            new.writestr(record.filename, content)
    with pytest.raises(WeightsError, match="big-endian"):
        load_any(swapped)
    array = np.ones((3, 3, 3, 3), ">f4")
    (tmp_path / "big.pdparams").write_bytes(pickle.dumps({"backbone.a": array}, protocol=4))
    with pytest.raises(WeightsError, match="numpy type >f4"):
        load_any(tmp_path / "big.pdparams")


def test_files_of_before_heads_were_parts_still_load(dialects: SimpleNamespace, tmp_path: Path) -> None:
    """Their section, their tensors and their norms' paths are called ``decoder``."""
    model = dialects.make_model(num_classes=80)
    config = dialects.small.model_dump(mode="json")
    config["decoder"] = {key: value for key, value in config.pop("head").items() if key != "name"}
    state = {re.sub(r"^head\.", "decoder.", name): value for name, value in model.state_dict().items()}
    assert any(name.startswith("decoder.") for name in state)
    metadata = store.Metadata(config=config, classes=coco_classes.COCO.to_json(), norm_eps={"decoder": 2e-3})
    loaded = load_any(store.save(tmp_path / "former.safetensors", state, metadata))
    assert loaded.config == dialects.small
    built = loaded.build()
    assert built.head.input_proj[0].norm.eps == 2e-3
    for name, value in built.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
