"""Whole files of every kind that a person can hand over, small ones, for the mutations to begin with."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import openvino
import torch
import yaml
from onnx import TensorProto, helper
from openvino import opset13 as ops
from PIL import Image

from flexdetr.ablate import budget, cost, runs
from flexdetr.ablate.plan import budgeted, configurations, read_plan
from flexdetr.ablate.run_records import EPOCHS, CostsFile, Epochs, VariantCost
from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.deployed import ArtifactDetector
from flexdetr.engine import fit, trainer
from flexdetr.export.formats import writer_of
from flexdetr.export.prepare import Options, prepare
from flexdetr.presets import resolve
from flexdetr.runtime.artifact import (
    ArtifactMetadata,
    Input,
    Outputs,
    ReferencePictures,
    describe_files,
    write_metadata,
)
from flexdetr.runtime.formats import FORMATS
from flexdetr.runtime.parity import Drift, Parity, Proven, Tolerance
from flexdetr.runtime.trial import REFERENCE, write_reference
from flexdetr.weights.transformers_export import to_transformers

from ..weights.conftest import SMALL as FOREIGN
from ..weights.conftest import lyuwenyu_names, make_model, paddle_names

NAMES = ("bolt", "nut")
SIDE = 64
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "backbone": "hgnetv2_atto",
    "encoder": {"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 4},
}


@dataclass(frozen=True)
class Material:
    """Folders and files, all below one folder; nothing of it is ever changed.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """A detector."""
        return self.folder / "detector.safetensors"

    @property
    def run(self) -> Path:
        """A run that was stopped after the first of two epochs."""
        return self.folder / "run"

    def data(self, form: str) -> Path:
        """A data set of four pictures: "coco", "voc" or "yolo"."""
        return self.folder / form

    def artifact(self, form: str) -> Path:
        """An exported detector: "openvino" and "onnx" are graphs made by hand, "int8" is such a one with proofs.

        The others are ``checkpoint`` without a proof: "torch" and "board", and what ``write`` has written.
        """
        return self.folder / form

    def foreign(self, name: str) -> Path:
        """Another project's checkpoint: "zip.pth", "legacy.pth", "paddle.pdparams", or the folder "transformers"."""
        return self.folder / "foreign" / name

    def picture(self, suffix: str) -> Path:
        """A picture or a film: "png", "jpg", "gif", "tiff", "webp", "bmp", "avi"."""
        return self.folder / "pictures" / f"picture.{suffix}"


def make(folder: Path) -> Material:
    """Write all of it."""
    material = Material(folder)
    torch.manual_seed(0)
    Detector("flexdetr_pico", classes=NAMES, **SMALL).save(material.checkpoint)
    _pictures(folder / "pictures")
    _coco(material.data("coco"))
    _voc(material.data("voc"))
    _yolo(material.data("yolo"))
    _openvino(material.artifact("openvino"))
    _onnx(material.artifact("onnx"))
    for name in ("torch", "board"):
        write(material, name)
    shutil.copytree(material.artifact("openvino"), material.artifact("int8"))
    prove(material.artifact("int8"))
    _foreign(folder / "foreign")
    _run(material)
    _texts(material)
    _ablation(material)
    return material


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8)


def _pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    frames = [Image.fromarray(_pixels(seed)) for seed in range(3)]
    for suffix in ("png", "jpg", "webp", "bmp"):
        frames[0].save(folder / f"picture.{suffix}")
    frames[0].save(folder / "picture.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "picture.tiff", save_all=True, append_images=frames[1:])
    film = cv2.VideoWriter(str(folder / "picture.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for frame in frames:
        film.write(np.asarray(frame))
    film.release()


def _coco(folder: Path) -> None:
    for split, numbers in (("train", (1, 2, 3)), ("val", (4,))):
        images, boxes = [], []
        for number in numbers:
            name = f"{number:04d}.png"
            (folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(_pixels(number)).save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": 96, "height": 64})
            bbox = [20.0, 16.0, 40.0, 32.0]
            polygon = [[20, 16, 60, 16, 60, 48, 20, 48]]
            boxes.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1 + number % 2,
                    "bbox": bbox,
                    "area": 1280.0,
                    "iscrowd": 0,
                    "segmentation": polygon,
                }
            )
        categories = [{"id": i, "name": name, "supercategory": "part"} for i, name in enumerate(NAMES, 1)]
        document = {
            "info": {"year": 2026},
            "images": images,
            "annotations": boxes,
            "categories": categories,
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document, indent=1))


def _voc(folder: Path) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(_pixels(number)).save(folder / "JPEGImages" / f"{number}.jpg")
        (folder / "Annotations" / f"{number}.xml").write_text(
            f"""<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <folder>JPEGImages</folder>
  <filename>{number}.jpg</filename>
  <size><width>96</width><height>64</height><depth>3</depth></size>
  <object>
    <name>{NAMES[number % 2]}</name>
    <difficult>0</difficult>
    <bndbox><xmin>20</xmin><ymin>16</ymin><xmax>60</xmax><ymax>48</ymax></bndbox>
  </object>
</annotation>
"""
        )
    (folder / "ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    (folder / "ImageSets/Main/val.txt").write_text("3\n")


def _yolo(folder: Path) -> None:
    for number in range(4):
        split = "val" if number == 3 else "train"
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(_pixels(number)).save(folder / "images" / split / f"{number}.jpg")
        (folder / "labels" / split / f"{number}.txt").write_text(
            f"{number % 2} 0.42 0.5 0.41 0.5\n0 0.1 0.1 0.4 0.1 0.4 0.4\n"
        )
    (folder / "train.txt").write_text("".join(f"./images/train/{number}.jpg\n" for number in range(3)))
    (folder / "data.yaml").write_text(
        "path: .\ntrain: train.txt\nval: images/val\nnc: 2\nnames:\n  0: bolt\n  1: nut\n"
    )


def describe(folder: Path, form: Any, files: list[str]) -> None:
    """Write the ``metadata.json`` that fits an artifact's files, as whoever means harm can too."""
    write_metadata(
        folder,
        ArtifactMetadata(
            format=form,
            classes=[dict(row) for row in Classes.of(NAMES).to_json()],
            input=Input(size=(SIDE, SIDE), resize="outside", sizes=None),
            outputs=Outputs(names=("logits", "boxes"), box_format="cxcywh fractions", top=5),
            raw=True,
            thresholds={"default": 0.3},
            files=describe_files(folder, files),
        ),
    )


def _openvino(folder: Path) -> None:
    """A graph that answers five boxes, whatever is in the picture."""
    folder.mkdir()
    images = ops.parameter([-1, -1, -1, 3], np.uint8, name="images")
    images.output(0).set_names({"images"})
    mean = ops.reduce_mean(ops.convert(images, "f32"), np.array([1, 2, 3]), keep_dims=False)
    one = ops.unsqueeze(ops.unsqueeze(ops.multiply(mean, ops.constant(np.array(0.01, np.float32))), 1), 1)
    outputs = []
    for name, values in _values().items():
        value = ops.multiply(one, ops.constant(values))
        value.output(0).set_names({name})
        outputs.append(ops.result(value))
    openvino.save_model(openvino.Model(outputs, [images]), folder / "model.xml", compress_to_fp16=False)
    describe(folder, "openvino", ["model.xml", "model.bin"])


def _onnx(folder: Path) -> None:
    folder.mkdir()
    values = _values()
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axes"], ["one"]),
        *(helper.make_node("Mul", ["one", f"{name}_values"], [name]) for name in values),
    ]
    tensors = [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])]
    tensors += [
        helper.make_tensor(f"{name}_values", TensorProto.FLOAT, value.shape, value.tobytes(), raw=True)
        for name, value in values.items()
    ]
    picture = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", 3])
    answers = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", *value.shape[1:]])
        for name, value in values.items()
    ]
    graph = helper.make_graph(nodes, "detector", [picture], answers, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    describe(folder, "onnx", ["model.onnx"])


def write(material: Material, name: str) -> bool:
    """Another format as its writer makes it, once; whether it is there: its writer's package may be missing."""
    row, there = FORMATS[name], material.artifact(name)
    if there.exists() or any(find_spec(package) is None for package in row.packages):
        return there.exists()
    model = Detector.from_checkpoint(material.checkpoint).model
    options = Options((SIDE, SIDE), raw=True, target="generic" if row.for_target else None)
    there.mkdir()
    describe(there, name, writer_of(row).write(prepare(model, options), there, "fp32", ()))
    return True


def prove(folder: Path) -> None:
    """Let an artifact say that it is int8, that bf16 was proven, and hold the pictures to try that with."""
    found = ArtifactDetector(folder, precision="fp32", cache=False, verify=False)
    pictures = [np.ascontiguousarray(_pixels(seed)[:, :SIDE]) for seed in range(2)]
    write_reference(folder / REFERENCE, pictures, lambda picture: found.predict(picture, 0.0))
    metadata = found.metadata
    drift, loose = Drift(case="one by one", pictures=2, compared=2, floor=0.3), Tolerance(score=0.1)
    parity = Parity(passed=True, pictures="2 pictures", runtime="OpenVINO", tolerance=loose, drifts=(drift,))
    proven = Proven(passed=True, runtime="OpenVINO", features=("AVX2",), tolerance=loose, drifts=(drift,))
    rounds = [{"float": [], "ap": 0.5, "drop": 0.001}]
    int8 = {
        "layers": {"int8": 5, "all": 9}, "calibration": "3 pictures", "drop": 0.001, "max_drop": 0.003,
        "rounds": rounds,
        "sensitivity": [{"part": "head", "layers": 4, "distance": 0.1, "precision": "fp32"}],
    }  # fmt: skip
    names = [*metadata.files, REFERENCE]
    changes = {
        "precision": "int8",
        "made": {"int8": int8, "by": {"torch": "2"}, "half": ""},
        "parity": parity,
        "precisions": {"fp32": proven, "bf16": proven},
        "reference": ReferencePictures(file=REFERENCE, tolerance=loose),
        "files": describe_files(folder, names),
    }
    write_metadata(folder, metadata.model_copy(update=changes))


def _values() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "logits": draw.normal(size=(1, 5, 2)).astype(np.float32),
        "boxes": draw.uniform(0.2, 0.8, (1, 5, 4)).astype(np.float32),
    }


def _foreign(folder: Path) -> None:
    folder.mkdir()
    model = make_model(num_classes=2)
    state = dict(model.state_dict())
    names = lyuwenyu_names(state)
    content = {"ema": {"module": names}, "model": names, "last_epoch": 3, "date": "2026-01-01"}
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in paddle_names(state).items()}
    (folder / "paddle.pdparams").write_bytes(pickle.dumps(arrays, protocol=4))
    to_transformers(state, FOREIGN, Classes.of(NAMES), folder / "transformers")


def _run(material: Material) -> None:
    config = resolve("flexdetr_pico", **SMALL, train={"epochs": 2, "batch_size": 2}, data={"workers": 0})
    train_epoch = trainer.Trainer._train_epoch

    def first_only(run: trainer.Trainer) -> bool:
        if run.epoch:
            raise trainer.Interrupted("stopped")
        return train_epoch(run)

    trainer.Trainer._train_epoch = first_only  # type: ignore[method-assign]
    try:
        fit.train(material.data("coco"), config, out=material.run, quiet=True)
    except trainer.Interrupted:
        pass
    finally:
        trainer.Trainer._train_epoch = train_epoch  # type: ignore[method-assign]


def _texts(material: Material) -> None:
    config: dict[str, Any] = {
        "model": "flexdetr_pico",
        **SMALL,
        "train": {"epochs": 1, "batch_size": 2, "lr": 1e-4, "precision": "fp32"},
        "data": {"workers": 0, "mosaic": 0.5},
        "loss": {"box": "inner_shape_iou", "box_options": {"ratio": 0.7}},
        "attention": {"encoder.8": "ese"},
        "seed": 3,
    }
    plain = json.loads(json.dumps(config))
    (material.folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    plan = {
        "title": "Two losses",
        "data": str(material.data("coco")),
        "split": "val",
        "base": {key: value for key, value in plain.items() if key not in ("seed", "train", "loss")},
        "variants": {"siou": {"loss.box": "siou"}, "wide": {"head": {"ffn": 64}}},
        "seeds": [0, 1],
        "budget": {"epochs": 1},
    }
    (material.folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))


def _ablation(material: Material) -> None:
    """All that an ablation keeps, as if its runs had been made."""
    plan = read_plan(material.folder / "plan.yaml")
    folder = material.folder / "ablation"
    epochs, costs = {}, {}
    for name, config in configurations(plan).items():
        for seed in plan.seeds:
            there = folder / name / f"seed-{seed}"
            job = runs.Job(name, budgeted(config, seed, 1), there, plan.data, "val")
            there.mkdir(parents=True)
            runs._write(job, runs.Result(0.3, 0.5, 9.0, 1, 1, 2))
            (there / "metrics.csv").write_text("epoch,seconds,loss,ap\n1,9.0,3.2,0.3\n")
        trial = budgeted(config, plan.seeds[0], None).model_dump(mode="json")
        epochs[name] = Epochs(config=trial, minutes=1, epoch_seconds=9, evaluation_seconds=1, epochs=1)
        sizes = {"params": 10, "gflops": 1, "params_training": 12, "gflops_training": 1.1}
        costs[name] = VariantCost(config=cost._architecture(job), latency_ms=3, **sizes)
    (folder / cost.FILE).write_text(CostsFile(machine="here", variants=costs).model_dump_json(indent=1))
    (folder / budget.FILE).write_bytes(EPOCHS.dump_json(epochs, indent=1))
