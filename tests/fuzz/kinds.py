"""Every kind of file that a person can hand over: what is changed of it, and which commands are given the result."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flexdetr.files import sha256
from flexdetr.runtime import artifact
from flexdetr.runtime.trial import REFERENCE

from .material import Material, describe, write
from .mutations import ODD, Draw, odd, raw, text, tree

# (originals, an empty folder, the draw) -> the arguments of a command that meets the changed file.
Kind = Callable[[Material, Path, Draw], list[str]]


def _checkpoint_command(file: Path, material: Material, draw: Draw) -> list[str]:
    picture, data = str(material.picture("jpg")), str(material.data("coco"))
    commands = (
        ["info", str(file)],
        ["info", str(file), "--json"],
        ["predict", str(file), picture, "--out", "out"],
        ["predict", str(file), picture, "--out", "out", "--threshold", "auto"],
        ["eval", str(file), data, "--split", "val"],
        ["convert", str(file), "--out", "converted.safetensors"],
        ["convert", str(file), "--out", "converted", "--to", "transformers"],
        ["export", str(file), "--format", "nothing", "--out", "exported"],
        ["train", data, "--model", "flexdetr_pico", "--weights", str(file), "--out", "new", *QUICK],
    )
    return [*draw.choice(commands)]


QUICK = ("--epochs", "1", "--batch-size", "2", "--set", "data.workers=0", "--image-size", "64")


def checkpoint_bytes(material: Material, folder: Path, draw: Draw) -> list[str]:
    """A .safetensors file."""
    file = folder / "detector.safetensors"
    file.write_bytes(raw(material.checkpoint.read_bytes(), draw))
    return _checkpoint_command(file, material, draw)


def checkpoint_header(material: Material, folder: Path, draw: Draw) -> list[str]:
    """What the header of a .safetensors file says of its tensors."""
    header, body = split(material.checkpoint)
    few = {name: header.pop(name) for name in draw.sample([*header], 3)}
    changed = tree(few, draw)
    file = folder / "detector.safetensors"
    join(file, {**header, **changed} if isinstance(changed, dict) else changed, body)
    return _checkpoint_command(file, material, draw)


def checkpoint_metadata(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Configuration, classes, thresholds and provenance, which travel in the header."""
    header, body = split(material.checkpoint)
    document = json.loads(header["__metadata__"]["flexdetr"])
    document["thresholds"] = {"bolt": 0.3, "default": 0.4}
    document["provenance"] = [{"source": "x", "file": "y", "licence": "MIT"}]
    document["training"] = {"epochs": 3, "validation": {"ap": 0.5, "epoch": 2}}
    header["__metadata__"]["flexdetr"] = json.dumps(tree(document, draw))
    file = folder / "detector.safetensors"
    join(file, header, body)
    return _checkpoint_command(file, material, draw)


def checkpoint_numbers(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Weights that are no numbers, or enormous, in some tensors or in all."""
    header, body = split(material.checkpoint)
    content = bytearray(body)
    value = draw.choice((math.nan, math.inf, -math.inf, 1e38, 0.0, -1.0))
    number = torch.tensor(value).numpy().tobytes()
    floats = [name for name, entry in header.items() if entry.get("dtype") == "F32"]
    for name in floats if draw.random() < 0.3 else draw.sample(floats, draw.choice((1, 5))):
        begin, end = header[name]["data_offsets"]
        content[begin:end] = number * ((end - begin) // 4)
    file = folder / "detector.safetensors"
    join(file, header, bytes(content))
    return _checkpoint_command(file, material, draw)


def split(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(file: Path, header: Any, body: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def foreign_bytes(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Another project's checkpoint: zip, legacy pickle, Paddle's."""
    name = draw.choice(("zip.pth", "legacy.pth", "paddle.pdparams"))
    content = material.foreign(name).read_bytes()
    begin = draw.choice((len(content), 60_000))  # the structure stands at the beginning
    (folder / name).write_bytes(raw(content[:begin], draw) + content[begin:])
    return _foreign_command(folder / name, draw)


def foreign_pickle(material: Material, folder: Path, draw: Draw) -> list[str]:
    """The pickle inside of torch's archive."""
    file = folder / "zip.pth"
    with zipfile.ZipFile(material.foreign("zip.pth")) as archive, zipfile.ZipFile(file, "w") as written:
        for record in archive.infolist():
            content = archive.read(record)
            written.writestr(record, raw(content, draw) if record.filename.endswith("data.pkl") else content)
    return _foreign_command(file, draw)


def foreign_tree(material: Material, folder: Path, draw: Draw) -> list[str]:
    """State dicts with other things in them than tensors, and other shapes."""
    content = torch.load(material.foreign("zip.pth"), weights_only=True)
    changed = tree(_few(content, draw), draw) if draw.random() < 0.5 else _other_shapes(content, draw)
    if draw.random() < 0.3:
        file = folder / "x.pdparams"
        file.write_bytes(pickle.dumps(_arrays(changed), protocol=draw.choice((2, 3, 4, 5))))
    else:
        file = folder / "x.pth"
        torch.save(changed, file, _use_new_zipfile_serialization=draw.random() < 0.5)
    return _foreign_command(file, draw)


def foreign_folder(material: Material, folder: Path, draw: Draw) -> list[str]:
    """A folder that transformers saved: its config.json."""
    there = folder / "saved"
    shutil.copytree(material.foreign("transformers"), there)
    config = there / "config.json"
    if draw.random() < 0.3:
        config.write_bytes(text(config.read_bytes(), draw))
    else:
        config.write_text(json.dumps(tree(json.loads(config.read_text()), draw)))
    return _foreign_command(there, draw)


def _foreign_command(file: Path, draw: Draw) -> list[str]:
    commands = (
        ["info", str(file)],
        ["convert", str(file), "--out", "converted.safetensors"],
        ["convert", str(file), "--out", "converted.safetensors", "--partial"],
        ["convert", str(file), "--out", "converted.safetensors", "--raw"],
    )
    return [*draw.choice(commands)]


def _few(content: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """The same with fewer tensors, so that a change meets something else now and then."""
    names = draw.sample([*content["model"]], 5)
    return {**content, "model": {name: content["model"][name] for name in names}, "ema": {"module": {}}}


def _other_shapes(content: dict[str, Any], draw: Draw) -> dict[str, Any]:
    state = dict(content["model"])
    for name in draw.sample([*state], draw.choice((1, 3))):
        state[name] = draw.choice(_SHAPES)(state[name])
    return {"model": state}


_SHAPES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda _: torch.zeros(()),
    lambda _: torch.zeros(0),
    lambda _: torch.zeros(1, 1, 1, 1, 1, 1),
    lambda _: torch.zeros(1).expand(2**20, 2**15),
    torch.flatten,
    torch.Tensor.double,
    lambda old: old[None],
    lambda old: old.to(torch.complex64),
    lambda old: old.flatten()[:1],
    lambda old: old > 0,
)


def _arrays(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy() if value.numel() < 2**24 else None
    if isinstance(value, dict):
        return {key: _arrays(below) for key, below in value.items()}
    return [_arrays(below) for below in value] if isinstance(value, list) else value


def _sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with the seal that fits it, as it will be read: its keys are texts."""
    kept: dict[str, Any] = json.loads(json.dumps(document))
    return {**kept, "seal": artifact._seal(kept)}


def artifact_metadata(material: Material, folder: Path, draw: Draw) -> list[str]:
    """``metadata.json``; sealed again in half of the cases, as whoever means harm can."""
    there = _artifact(material, folder, draw)
    file = there / artifact.METADATA
    if draw.random() < 0.3:
        file.write_bytes(text(file.read_bytes(), draw))
        return _artifact_command(there, material, draw)
    document = tree(json.loads(file.read_text()), draw)
    if isinstance(document, dict) and draw.random() < 0.7:
        document = _sealed(document)
    file.write_text(json.dumps(document))
    return _artifact_command(there, material, draw)


def artifact_files(material: Material, folder: Path, draw: Draw) -> list[str]:
    """The graph and its weights; described again in half of the cases."""
    there = _artifact(material, folder, draw)
    names = [file.name for file in sorted(there.iterdir()) if file.name != artifact.METADATA]
    file = there / draw.choice(names)
    change = text if file.suffix == ".xml" and draw.random() < 0.7 else raw
    file.write_bytes(change(file.read_bytes(), draw))
    if draw.random() < 0.7:
        names.sort(reverse=True)  # the .xml before the .bin
        describe(there, "onnx" if "model.onnx" in names else "openvino", names)
    return _artifact_command(there, material, draw)


def _artifact(material: Material, folder: Path, draw: Draw) -> Path:
    form = draw.choice(("openvino", "onnx"))
    shutil.copytree(material.artifact(form), folder / form)
    return folder / form


def _artifact_command(there: Path, material: Material, draw: Draw) -> list[str]:
    commands = [
        ["info", str(there)],
        ["predict", str(there), str(material.picture("jpg")), "--out", "out"],
        ["predict", str(there), str(material.picture("jpg")), "--out", "out", "--threshold", "auto"],
        ["eval", str(there), str(material.data("coco")), "--split", "val"],
        ["export", str(there), "--format", "onnx"],
    ]
    if (graph := there / "model.onnx").exists():
        commands.append(["check", str(graph), "--target", draw.choice(("generic", "npu"))])
        commands.append(["predict", str(graph), str(material.picture("jpg")), "--runtime", "onnxruntime"])
    return [*draw.choice(commands)]


def written_files(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Programs of torch.export, and two graphs for boards; described again in most cases."""
    return _written_files(draw.choice(("torch", "board")), material, folder, draw)


def compiled_files(material: Material, folder: Path, draw: Draw) -> list[str]:
    """ExecuTorch's and LiteRT's files, which take the longest to write."""
    forms = [name for name in ("executorch", "litert") if write(material, name)]
    if not forms:
        pytest.skip("pip install 'flexdetr[executorch]' or 'flexdetr[litert]'")
    return _written_files(draw.choice(forms), material, folder, draw)


def _written_files(form: str, material: Material, folder: Path, draw: Draw) -> list[str]:
    there = folder / form
    shutil.copytree(material.artifact(form), there)
    document = json.loads((there / artifact.METADATA).read_text())
    names = [*document["files"]]
    file = there / draw.choice(names)
    if draw.random() < 0.3:
        document = tree(document, draw)
        if isinstance(document, dict):
            document = _sealed(document)
        (there / artifact.METADATA).write_text(json.dumps(document))
    else:
        change = _inside_zip if file.suffix == ".pt2" and draw.random() < 0.6 else raw
        file.write_bytes(change(file.read_bytes(), draw))
        if draw.random() < 0.8:
            describe(there, form, names)
    # A program is code: what is tried is what becomes of one that the person trusts.
    trust = ["--allow-code", sha256(file)] if file.suffix == ".pt2" and draw.random() < 0.8 else []
    commands = (
        ["info", str(there)],
        ["predict", str(there), str(material.picture("jpg")), "--out", "out", *trust],
        ["predict", str(there), str(material.picture("jpg")), "--out", "out", "--device", "cuda", *trust],
        ["eval", str(there), str(material.data("coco")), "--split", "val", *trust],
    )
    return [*draw.choice(commands)]


def _inside_zip(content: bytes, draw: Draw) -> bytes:
    """One of an archive's files, changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as written:
        chosen = draw.choice(archive.namelist())
        for record in archive.infolist():
            one = archive.read(record)
            if record.filename == chosen:
                one = text(one, draw) if chosen.endswith(".json") else raw(one, draw)
            written.writestr(record, one)
    return stream.getvalue()


def proven_artifact(material: Material, folder: Path, draw: Draw) -> list[str]:
    """What an int8 artifact says of its proofs, sealed again, and the pictures that other precisions are tried with."""
    there = folder / "int8"
    shutil.copytree(material.artifact("int8"), there)
    document = json.loads((there / artifact.METADATA).read_text())
    if draw.random() < 0.4:
        file = there / REFERENCE
        file.write_bytes((_inside_zip if draw.random() < 0.5 else raw)(file.read_bytes(), draw))
        entry = document["files"][REFERENCE]
        entry["sha256"], entry["bytes"] = sha256(file), file.stat().st_size
    else:
        part = draw.choice(("made", "parity", "precisions", "reference"))
        document[part] = tree(document[part], draw)
    document = _sealed(document)
    (there / artifact.METADATA).write_text(json.dumps(document))
    command = _artifact_command(there, material, draw)
    precision = draw.choice(("auto", "fp32", "bf16", "fp16"))
    return [*command, "--precision", precision] if command[0] in ("predict", "eval") else command


def exported_checkpoint(material: Material, folder: Path, draw: Draw) -> list[str]:
    """A damaged checkpoint, written for every runtime."""
    kinds = (checkpoint_bytes, checkpoint_header, checkpoint_metadata, checkpoint_numbers, checkpoint_numbers)
    draw.choice(kinds)(material, folder, draw)
    command = ["export", str(folder / "detector.safetensors"), "--out", str(folder / "out")]
    forms = ("onnx", "openvino", "openvino", "torch", "nothing")
    precisions = (
        ["--precision", "fp16"],
        ["--precision", "int8", "--data", str(material.data("coco"))],
        [],
        [],
    )
    if draw.random() < 0.2:
        return [*command, "--format", "onnx", "--target", "generic"]
    return [*command, "--format", draw.choice(forms), *draw.choice(precisions)]


_NUMBERS = (
    "-1", "0", "1", "2147483648", "9223372036854775808", "1" * 400, "1e308", "1e999", "nan", "-inf", "0.5", "x", "",
)  # fmt: skip


def numbers(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Numbers that are typed: out of range, huge, or none, for every option that takes one."""
    value = draw.choice(_NUMBERS)
    checkpoint, picture, data = (
        str(one) for one in (material.checkpoint, material.picture("jpg"), material.data("coco"))
    )
    film, graph = str(material.picture("avi")), str(material.artifact("openvino"))
    predict = ["predict", checkpoint, picture, "--out", "out"]
    export = ["export", checkpoint, "--format", "nothing"]
    train = ["train", data, "--model", "flexdetr_pico", "--out", "new", *QUICK]
    commands = (
        *([*predict, option, value] for option in ("--threshold", "--queries", "--decoder-layers", "--slice", "--iou")),
        *([*predict, "--slice", "64", option, value] for option in ("--overlap", "--merge", "--score")),
        ["predict", graph, picture, "--slice", value, "--out", "out"],
        ["predict", graph, film, "--out", "out", "--threshold", value],
        *(
            [*export, option, value]
            for option in ("--decoder-layers", "--queries", "--image-size", "--calibration", "--max-drop", "--qat")
        ),
        *(["bench", graph, "--rounds", "1", option, value] for option in ("--threads", "--rounds", "--precision")),
        *(["track", graph, film, "--out", "out", option, value] for option in ("--threshold", "--line", "--zone")),
        *(["serve", graph, "--port", value, "--max-bytes", "0"], ["serve", graph, "--timeout", value, "--port", "-1"]),
        ["data", "split", data, "there", "--shares", f"{value}/0.1/0"],
        ["data", "preview", data, "--count", value, "--out", "page.html"],
        *([*train, "--set", f"{key}={value}"] for key in KEYS),
    )  # fmt: skip
    return [*draw.choice(commands)]


KEYS = (
    "train.epochs", "train.weight_decay", "train.ema", "train.clip", "train.batch_size", "data.val_fraction",
    "data.mosaic", "data.workers", "head.queries", "head.layers", "head.width", "head.heads", "head.denoising",
    "encoder.width", "encoder.depth", "encoder.expansion", "loss.box_options.ratio", "loss.weights", "image_size",
)  # fmt: skip


def coco_json(material: Material, folder: Path, draw: Draw) -> list[str]:
    """COCO's annotations."""
    there = folder / "coco"
    shutil.copytree(material.data("coco"), there)
    _change_json(there / "annotations" / f"instances_{draw.choice(('train', 'train', 'val'))}.json", draw)
    return _data_command(there, material, draw)


def voc_xml(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Pascal VOC's annotations."""
    there = folder / "voc"
    shutil.copytree(material.data("voc"), there)
    _change_text(there / "Annotations" / f"{draw.randrange(4)}.xml", draw)
    return _data_command(there, material, draw)


def yolo_labels(material: Material, folder: Path, draw: Draw) -> list[str]:
    """YOLO's label files."""
    there = folder / "yolo"
    shutil.copytree(material.data("yolo"), there)
    _change_text(there / "labels" / "train" / f"{draw.randrange(3)}.txt", draw)
    return _data_command(there, material, draw)


def data_yaml(material: Material, folder: Path, draw: Draw) -> list[str]:
    """YOLO's data.yaml."""
    there = folder / "yolo"
    shutil.copytree(material.data("yolo"), there)
    _change_yaml(there / "data.yaml", draw)
    return _data_command(there, material, draw)


def lists(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Files that list a split's images, of YOLO and VOC."""
    form, name = draw.choice((("yolo", "train.txt"), ("voc", "ImageSets/Main/train.txt")))
    there = folder / form
    shutil.copytree(material.data(form), there)
    _change_text(there / name, draw)
    return _data_command(there, material, draw)


def _data_command(there: Path, material: Material, draw: Draw) -> list[str]:
    commands = (
        ["check", str(there)],
        ["check", str(there), "--json"],
        ["eval", str(material.checkpoint), str(there), "--split", "val"],
        ["eval", str(material.artifact("onnx")), str(there), "--split", "val"],
        ["train", str(there), "--model", "flexdetr_pico", "--out", "new", *QUICK],
    )
    return [*draw.choice(commands)]


def pictures(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Pictures and films."""
    file = folder / f"picture.{draw.choice(('png', 'jpg', 'gif', 'tiff', 'webp', 'bmp', 'avi'))}"
    file.write_bytes(raw(material.picture(file.suffix[1:]).read_bytes(), draw))
    if draw.random() < 0.2:
        file = file.rename(file.with_suffix(draw.choice((".png", ".jpg", ".mp4", ".tiff"))))
    if draw.random() < 0.3 and file.suffix != ".avi":
        shutil.copytree(material.data("yolo"), folder / "yolo")
        file.rename(folder / "yolo" / "images" / "train" / f"9{file.suffix}")
        return _data_command(folder / "yolo", material, draw)
    model = draw.choice((material.checkpoint, material.artifact("onnx"), material.artifact("openvino")))
    return ["predict", str(model), str(draw.choice((file, folder))), "--out", str(folder / "out")]


def config_yaml(material: Material, folder: Path, draw: Draw) -> list[str]:
    """A run's configuration, as ``--config`` takes it."""
    file = folder / "config.yaml"
    shutil.copy(material.folder / "config.yaml", file)
    _change_yaml(file, draw)
    commands = (
        ["config", "--config", str(file)],
        ["train", str(material.data("coco")), "--config", str(file), "--out", "new"],
    )
    return [*draw.choice(commands)]


def options(material: Material, folder: Path, draw: Draw) -> list[str]:
    """Values that are typed: no file, but from the same people."""
    value = draw.choice([*ODD, 64, 96, "64x96", 1e-3])
    shown = "".join(one for one in str(value) if one.isprintable())
    data, checkpoint, picture = material.data("coco"), material.checkpoint, material.picture("jpg")
    train = ["train", str(data), "--model", "flexdetr_pico", "--out", "new", *QUICK]
    keys = (
        "train.lr",
        "train.warmup",
        "seed",
        "head.points",
        "backbone",
        "encoder.strides",
        "attention",
        "log",
    )
    commands = (
        [*train, "--image-size", shown],
        [*train, "--batch-size", shown],
        [*train, "--seed", shown],
        [*train, "--weights", shown],
        [*train, "--device", shown],
        [*train, "--set", f"{draw.choice(keys)}={shown}"],
        ["config", "--model", "flexdetr_pico", "--set", f"{draw.choice(keys)}={shown}"],
        ["predict", str(checkpoint), str(picture), "--threshold", shown],
        ["predict", str(checkpoint), str(picture), "--device", shown],
        ["predict", str(checkpoint), shown, "--out", "out"],
        ["predict", str(checkpoint), str(picture), "--out", shown],
        ["predict", str(checkpoint), str(picture), "--queries", shown],
        ["eval", str(checkpoint), str(data), "--split", "val", "--batch-size", shown],
        ["eval", str(checkpoint), shown],
        ["info", shown],
        ["check", shown],
        ["convert", shown, "--out", "x.safetensors"],
        ["export", str(checkpoint), "--format", shown],
        ["export", str(checkpoint), "--format", "onnx", "--image-size", shown, "--sampling", "nothing"],
        ["ablate", str(material.folder / "plan.yaml"), "--report", "--seeds", shown],
    )  # fmt: skip
    return [*draw.choice(commands)]


def plan_yaml(material: Material, folder: Path, draw: Draw) -> list[str]:
    """An ablation's plan."""
    file = folder / "plan.yaml"
    shutil.copy(material.folder / "plan.yaml", file)
    _change_yaml(file, draw)
    return ["ablate", str(file), "--report", "--out", "ablation"]


def ablation_folder(material: Material, folder: Path, draw: Draw) -> list[str]:
    """What an ablation keeps: results, costs, epochs that fit, metrics of its runs."""
    there = folder / "ablation"
    shutil.copytree(material.folder / "ablation", there)
    file = there / draw.choice(
        ("siou/seed-0/ablation.json", "costs.json", "budget.json", "base/seed-1/metrics.csv")
    )
    change = _change_json if file.suffix == ".json" else _change_text
    change(file, draw)
    command = ["ablate", str(material.folder / "plan.yaml"), "--report", "--out", str(there)]
    return [*command, "--minutes", "1"] if file.name == "budget.json" else command


def run_config(material: Material, folder: Path, draw: Draw) -> list[str]:
    """The config.yaml of a run folder."""
    there = folder / "run"
    shutil.copytree(material.run, there)
    _change_yaml(there / "config.yaml", draw)
    return ["train", "--resume", str(there)]


def run_state(material: Material, folder: Path, draw: Draw) -> list[str]:
    """The resumable state of a run."""
    there = folder / "run"
    shutil.copytree(material.run, there)
    for former in there.glob("state.former.*"):
        former.unlink()
    file = there / "state.pt"
    if draw.random() < 0.25:
        file.write_bytes(raw(file.read_bytes(), draw))
    else:
        state = torch.load(file, weights_only=True)
        key = draw.choice([*state])
        changes: tuple[Callable[[], Any], ...] = (
            lambda: state.pop(key),
            lambda: state.update({key: odd(None, draw)}),
            lambda: state.update({key: tree(state[key], draw)}),
            lambda: state.update({key: _other_tensor(state[key], draw)}),
        )
        draw.choice(changes)()
        torch.save(state, file)
    return ["train", "--resume", str(there)]


def _other_tensor(value: Any, draw: Draw) -> Any:
    """The same nest with one of its tensors in another shape, or not a number."""
    places: list[tuple[Any, Any]] = []
    holder = {"": value}
    waiting: list[Any] = [holder]
    while waiting:
        container = waiting.pop()
        for key in range(len(container)) if isinstance(container, list) else [*container]:
            if isinstance(container[key], torch.Tensor):
                places.append((container, key))
            elif isinstance(container[key], dict | list):
                waiting.append(container[key])
    if places:
        container, key = draw.choice(places)
        old = container[key]
        container[key] = draw.choice(
            (torch.zeros(3), old.flatten()[:-1], old[None], old * math.nan, old.double())
        )
    return holder[""]


def run_metrics(material: Material, folder: Path, draw: Draw) -> list[str]:
    """The metrics.csv of a run folder."""
    there = folder / "run"
    shutil.copytree(material.run, there)
    _change_text(there / "metrics.csv", draw)
    return ["train", "--resume", str(there)]


def _change_json(file: Path, draw: Draw) -> None:
    if draw.random() < 0.3:
        file.write_bytes(text(file.read_bytes(), draw))
    else:
        file.write_text(json.dumps(tree(json.loads(file.read_text()), draw)))


def _change_yaml(file: Path, draw: Draw) -> None:
    if draw.random() < 0.4:
        file.write_bytes(text(file.read_bytes(), draw))
        return
    stream = io.StringIO()
    yaml.safe_dump(tree(yaml.safe_load(file.read_text()), draw), stream, sort_keys=False)
    file.write_bytes(stream.getvalue().encode("utf-8", "surrogatepass"))


def _change_text(file: Path, draw: Draw) -> None:
    change = raw if draw.random() < 0.2 else text
    file.write_bytes(change(file.read_bytes(), draw))


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        checkpoint_bytes, checkpoint_header, checkpoint_metadata, checkpoint_numbers, foreign_bytes, foreign_pickle,
        foreign_tree, foreign_folder, artifact_metadata, artifact_files, written_files, compiled_files,
        proven_artifact, exported_checkpoint, coco_json, voc_xml, yolo_labels, data_yaml, lists, pictures, config_yaml,
        options, numbers, plan_yaml, ablation_folder, run_config, run_state, run_metrics,
    )
}  # fmt: skip
