"""Files that somebody made to do harm: run code, fill memory, never end, or read what lies elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from onnx import TensorProto, external_data_helper

from flexdetr.runtime import artifact

from .kinds import QUICK, join, split
from .material import Material, describe


class Place(NamedTuple):
    """Where a hostile file is made.

    Attributes:
        material: whole files to begin with.
        folder: an empty folder.
        canary: a file that only executed code could make.
    """

    material: Material
    folder: Path
    canary: Path

    @property
    def touch(self) -> str:
        """A shell's command that makes the canary."""
        return f"touch {self.canary}"

    def copy(self, name: str) -> Path:
        """A folder of the material, to be changed."""
        return Path(shutil.copytree(self.material.folder / name, self.folder / name))

    def predict(self, model: Path) -> list[str]:
        """The command that predicts with a model."""
        return ["predict", str(model), str(self.material.picture("jpg")), "--out", str(self.folder / "out")]

    def train(self, *options: str) -> list[str]:
        """The command that trains on data in order."""
        return ["train", str(self.material.data("coco")), "--out", str(self.folder / "new"), *options]


class Attack:
    """An object whose pickle calls something when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(place: Place) -> list[Attack]:
    """The same end by several functions, some of which look harmless."""
    code = f"open({str(place.canary)!r}, 'w')"
    return [
        Attack(os.system, place.touch),
        Attack(eval, code),
        Attack(exec, code),
        Attack(__import__("subprocess").getoutput, place.touch),
        Attack(__import__("runpy")._run_code, code, {}),
        Attack(__import__("timeit").timeit, code),
        Attack(torch.hub.load, str(place.folder), "x"),
        Attack(Path.touch, place.canary),
    ]


def _checkpoint_commands(place: Place, file: Path) -> list[list[str]]:
    return [
        ["info", str(file)],
        ["convert", str(file), "--out", str(place.folder / "out.safetensors")],
        place.predict(file),
        place.train("--model", "flexdetr_pico", "--weights", str(file), *QUICK),
    ]


def pickle_in_torch_zip(place: Place) -> list[list[str]]:
    commands = []
    for number, attack in enumerate(attacks(place)):
        file = place.folder / f"{number}.pth"
        torch.save({"model": {"a": torch.zeros(2), "b": attack}}, file)
        commands += _checkpoint_commands(place, file) if not number else [["info", str(file)]]
    return commands


def pickle_in_legacy_torch(place: Place) -> list[list[str]]:
    file = place.folder / "old.pth"
    torch.save({"model": attacks(place)[0]}, file, _use_new_zipfile_serialization=False)
    return _checkpoint_commands(place, file)


def pickle_alone(place: Place) -> list[list[str]]:
    commands = []
    for number, attack in enumerate(attacks(place)):
        file = place.folder / f"{number}.pdparams"
        file.write_bytes(pickle.dumps({"a": attack}, protocol=number % 4 + 2))
        commands.append(["convert", str(file), "--from", "paddle", "--out", "out.safetensors"])
    return commands


def pickle_of_old_protocol(place: Place) -> list[list[str]]:
    file = place.folder / "x.pt"
    file.write_bytes(f"cos\nsystem\n(S'{place.touch}'\ntR.".encode())
    return [["info", str(file)]]


def pickle_that_imports_by_attribute(place: Place) -> list[list[str]]:
    """A name with dots in it (protocol 4 follows them) from a module that is allowed."""
    touch = place.touch.encode()
    name = b"_utils.os.system"
    code = (
        b"\x80\x04\x8c\x05torch\x8c"
        + bytes([len(name)])
        + name
        + b"\x93\x8c"
        + bytes([len(touch)])
        + touch
        + b"\x85R."
    )
    file = place.folder / "x.pdparams"
    file.write_bytes(code)
    return [["info", str(file)]]


def pickle_in_a_saved_folder(place: Place) -> list[list[str]]:
    there = place.folder / "saved"
    there.mkdir()
    (there / "config.json").write_text(
        json.dumps({"model_type": "rt_detr", "auto_map": {"AutoModel": "evil.Model"}})
    )
    (there / "evil.py").write_text(f"open({str(place.canary)!r}, 'w')")
    torch.save({"a": attacks(place)[0]}, there / "pytorch_model.bin")
    return [["info", str(there)], ["convert", str(there), "--out", "out.safetensors"]]


def pickle_in_a_runs_state(place: Place) -> list[list[str]]:
    run = place.copy("run")
    for number, former in enumerate(run.glob("state*.pt")):
        torch.save({"version": 3, "sums": attacks(place)[number]}, former)
    return [["train", "--resume", str(run)]]


def program_of_torch_export(place: Place) -> list[list[str]]:
    """A .pt2 file, which torch reads with pickle where it says so; the seal is right."""
    there = place.copy("onnx")
    (there / "model.onnx").unlink()
    with zipfile.ZipFile(there / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/archive_version", "0")
        archive.writestr("model/models/model.json", "{}")
        buffer = io.BytesIO()
        torch.save(({"a": attacks(place)[0]},), buffer)
        archive.writestr("model/data/sample_inputs/model.pt", buffer.getvalue())
        config = {
            "config": {
                "a": {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
            }
        }
        archive.writestr("model/data/weights/model_weights_config.json", json.dumps(config))
        archive.writestr("model/data/weights/weight_0", buffer.getvalue())
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/.data/version", "3")
    describe(there, "torch", ["model.pt2"])
    return [place.predict(there)]


def code_named_in_a_checkpoint(place: Place) -> list[list[str]]:
    header, body = split(place.material.checkpoint)
    document = json.loads(header["__metadata__"]["flexdetr"])
    document["config"]["backbone"] |= {"name": "subprocess:getoutput", "options": {"cmd": place.touch}}
    header["__metadata__"]["flexdetr"] = json.dumps(document)
    file = place.folder / "x.safetensors"
    join(file, header, body)
    return [*_checkpoint_commands(place, file)[:3], ["export", str(file), "--format", "onnx"]]


def python_tags(place: Place) -> list[list[str]]:
    texts = (
        f"!!python/object/apply:os.system ['{place.touch}']",
        f"model: !!python/object/new:os.system ['{place.touch}']",
        "model: !!python/name:os.system",
        "model: !!python/module:os",
        f"!!python/object/apply:eval [\"open('{place.canary}', 'w')\"]",
    )
    commands = []
    for number, text in enumerate(texts):
        file = place.folder / f"{number}.yaml"
        file.write_text(text)
        commands += [["config", "--config", str(file)], ["ablate", str(file), "--report"]]
    data = place.copy("yolo")
    (data / "data.yaml").write_text(f"train: train.txt\nnames: {texts[0]}\n")
    return [*commands, ["check", str(data / "data.yaml")]]


def _bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


def alias_bombs(place: Place) -> list[list[str]]:
    file = place.folder / "config.yaml"
    file.write_text(_bomb() + "model: flexdetr_pico\n")
    data, run = place.copy("yolo"), place.copy("run")
    (data / "data.yaml").write_text(_bomb() + "train: train.txt\nval: images/val\nnames: *a11\n")
    (run / "config.yaml").write_text(_bomb() + (run / "config.yaml").read_text())
    return [
        ["config", "--config", str(file)],
        place.train("--config", str(file), *QUICK),
        ["ablate", str(file), "--report"],
        ["check", str(data / "data.yaml")],
        ["train", "--resume", str(run)],
    ]


def entity_bombs(place: Place) -> list[list[str]]:
    data = place.copy("voc")
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    for number in range(4):
        file = data / "Annotations" / f"{number}.xml"
        text = file.read_text().partition("?>")[2].replace("bolt", "&a11;").replace("nut", "&a11;")
        file.write_text(f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a0 "x">{entities}]>{text}')
    return [["check", str(data)]]


def outer_entities(place: Place) -> list[list[str]]:
    data = place.copy("voc")
    secret = place.folder / "secret.txt"
    secret.write_text("hunter2")
    for number in range(4):
        file = data / "Annotations" / f"{number}.xml"
        text = file.read_text().partition("?>")[2].replace("bolt", "&s;").replace("nut", "&s;")
        file.write_text(
            f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY s SYSTEM "file://{secret}">]>{text}'
        )
    return [["check", str(data)]]


def zip_bomb(place: Place) -> list[list[str]]:
    """Ten gigabytes of zeros in a pickle's place."""
    file = place.folder / "x.pth"
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x/data.pkl", "w") as record,
    ):
        for _ in range(256):
            record.write(b"\0" * 2**20)
    content = bytearray(file.read_bytes())
    place_of_size = content.rfind(b"PK\x01\x02") + 24
    content[place_of_size : place_of_size + 4] = struct.pack("<I", 2**32 - 2)
    file.write_bytes(content)
    return [["info", str(file)]]


def gzip_bomb(place: Place) -> list[list[str]]:
    file = place.folder / "x.pth"
    with gzip.open(file, "wb") as stream:
        for _ in range(64):
            stream.write(b"\0" * 2**20)
    return [["info", str(file)]]


def header_of_a_petabyte(place: Place) -> list[list[str]]:
    commands = []
    for number, length in enumerate((2**50, 2**63, 2**64 - 1, 99_999_999)):
        file = place.folder / f"{number}.safetensors"
        file.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 100)
        commands.append(["info", str(file)])
    return commands


def tensors_that_overlap(place: Place) -> list[list[str]]:
    header, body = split(place.material.checkpoint)
    names = [name for name in header if name != "__metadata__"]
    largest = max(names, key=lambda name: header[name]["data_offsets"][1])
    header[largest]["data_offsets"] = header[names[0]]["data_offsets"]
    header[largest]["shape"], header[largest]["dtype"] = header[names[0]]["shape"], header[names[0]]["dtype"]
    file = place.folder / "x.safetensors"
    join(file, header, body)
    return _checkpoint_commands(place, file)[:3]


def shapes_without_end(place: Place) -> list[list[str]]:
    commands = []
    for number, shape in enumerate(([2**62, 2**62, 0], [0, 2**63], [2**31] * 8, [0] * 10_000)):
        header, body = split(place.material.checkpoint)
        name = next(name for name in header if name.endswith("conv.weight"))
        header[name] |= {"shape": shape, "data_offsets": [0, 0]}
        file = place.folder / f"{number}.safetensors"
        join(file, header, body)
        commands.append(place.predict(file))
    return commands


def nested_without_end(place: Place) -> list[list[str]]:
    deep = "[" * 100_000
    checkpoint, data = place.folder / "x.safetensors", place.copy("coco")
    text = ('{"a":' + deep).encode()
    checkpoint.write_bytes(len(text).to_bytes(8, "little") + text)
    (data / "annotations" / "instances_train.json").write_text(deep)
    there = place.copy("openvino")
    (there / artifact.METADATA).write_text(deep)
    file = place.folder / "x.yaml"
    file.write_text(deep)
    return [
        ["info", str(checkpoint)],
        ["check", str(data)],
        ["info", str(there)],
        ["config", "--config", str(file)],
        ["ablate", str(file), "--report"],
    ]


def names_that_lead_out(place: Place) -> list[list[str]]:
    """Files of an artifact that lie elsewhere; sealed as if they were meant."""
    commands = []
    for number, name in enumerate(
        ("../detector.safetensors", str(place.material.checkpoint), "a/../../x", "..\\x", "")
    ):
        there = Path(shutil.copytree(place.material.artifact("openvino"), place.folder / f"{number}"))
        document = json.loads((there / artifact.METADATA).read_text())
        document["files"] = {name: next(iter(document["files"].values())), **document["files"]}
        document["seal"] = artifact._seal(document)
        (there / artifact.METADATA).write_text(json.dumps(document))
        commands += [["info", str(there)], place.predict(there)]
    return commands


def weights_that_lie_elsewhere(place: Place) -> list[list[str]]:
    """An ONNX graph whose tensors are "external data" outside of its folder."""
    secret = place.folder / "secret.bin"
    secret.write_bytes(b"\0" * 4096)
    (place.folder / "deep").mkdir()
    commands = []
    for number, location in enumerate(
        ("../secret.bin", str(secret), "../../secret.bin", "deep/../../secret.bin")
    ):
        there = Path(shutil.copytree(place.material.artifact("onnx"), place.folder / f"{number}"))
        model = onnx.load(there / "model.onnx")
        for tensor in model.graph.initializer:
            if tensor.name.endswith("_values"):
                tensor.data_location = TensorProto.EXTERNAL
                external_data_helper.set_external_data(tensor, location, 0, 4 * 20)
                tensor.ClearField("raw_data")
        (there / "model.onnx").write_bytes(model.SerializeToString())
        describe(there, "onnx", ["model.onnx"])
        commands += [[*place.predict(there), "--runtime", runtime] for runtime in ("onnxruntime", "openvino")]
    return commands


def links_to_devices(place: Place) -> list[list[str]]:
    """A file that is a link to what never ends, or to what never answers."""
    pipe = place.folder / "pipe"
    os.mkfifo(pipe)
    there = place.copy("openvino")
    document = json.loads((there / artifact.METADATA).read_text())
    document["files"]["model.bin"] |= {"bytes": 0}
    document["seal"] = artifact._seal(document)
    (there / artifact.METADATA).write_text(json.dumps(document))
    (there / "model.bin").unlink()
    (there / "model.bin").symlink_to("/dev/zero")
    commands = [["info", str(there)], place.predict(there)]
    for target in (Path("/dev/zero"), pipe):
        commands += [["info", str(target)], ["convert", str(target), "--out", "out.safetensors"]]
    folder = place.folder / "pictures"
    folder.mkdir()
    (folder / "a.png").symlink_to("/dev/zero")
    (folder / "b.jpg").symlink_to(pipe)
    endless = place.folder / "endless.yaml"
    endless.symlink_to("/dev/zero")
    commands += [
        ["config", "--config", str(endless)],
        ["ablate", str(endless), "--report"],
        ["check", str(folder)],
    ]
    commands.append([*place.predict(place.material.checkpoint)[:2], str(folder), "--out", "out"])
    return commands


def pictures_of_a_terapixel(place: Place) -> list[list[str]]:
    folder = place.folder / "pictures"
    folder.mkdir()

    def png(side: int, name: str) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return (
                struct.pack(">I", len(content))
                + kind
                + content
                + struct.pack(">I", zlib.crc32(kind + content))
            )

        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        rows = zlib.compress(b"\0" * 50_000_000)
        content = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    png(60_000, "60000.png")
    png(2**31 - 1, "most.png")
    for suffix, place_of_size, size in (("gif", 6, "<HH"), ("bmp", 18, "<ii")):
        content = bytearray(place.material.picture(suffix).read_bytes())
        struct.pack_into(
            size, content, place_of_size, *((65_535,) * 2 if suffix == "gif" else (2**31 - 1,) * 2)
        )
        (folder / f"large.{suffix}").write_bytes(content)
    content = bytearray(place.material.picture("jpg").read_bytes())
    struct.pack_into(">HH", content, content.find(b"\xff\xc0") + 5, 65_500, 65_500)
    (folder / "large.jpg").write_bytes(content)
    data = place.copy("yolo")
    shutil.copytree(folder, data / "images" / "train", dirs_exist_ok=True)
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [bolt, nut]\n")
    return [
        [*place.predict(place.material.checkpoint)[:2], str(folder), "--out", str(place.folder / "out")],
        [
            *place.predict(place.material.artifact("onnx"))[:2],
            str(folder),
            "--out",
            str(place.folder / "out2"),
        ],
        ["check", str(data)],
    ]


def postscript_as_a_picture(place: Place) -> list[list[str]]:
    """Pillow hands PostScript to Ghostscript, which is a programming language's interpreter."""
    text = (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
        f"({place.canary}) (w) file closefile showpage\n%%EOF\n"
    )
    for name in ("x.png", "x.jpg", "x.eps"):
        (place.folder / name).write_text(text)
    return [
        [
            *place.predict(place.material.checkpoint)[:2],
            str(place.folder / name),
            "--out",
            str(place.folder / "out"),
        ]
        for name in ("x.png", "x.jpg", "x.eps")
    ]


def playlists_as_films(place: Place) -> list[list[str]]:
    """FFmpeg follows what a playlist names: other files, and addresses."""
    secret = place.material.picture("avi")
    texts = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "concat.avi": f"ffconcat version 1.0\nfile {secret}\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret.name}'\n",
    }
    shutil.copy(secret, place.folder / secret.name)
    commands = []
    for name, text in texts.items():
        (place.folder / name).write_text(text)
        commands.append(
            [*place.predict(place.material.artifact("onnx"))[:2], str(place.folder / name), "--out", "out"]
        )
    return commands


# What is said of each; all of them are refused, and nothing of them is executed.
HOSTILE: dict[Callable[[Place], list[list[str]]], str] = {
    pickle_in_torch_zip: "asks for",
    pickle_in_legacy_torch: "asks for",
    pickle_alone: "asks for",
    pickle_of_old_protocol: "",
    pickle_that_imports_by_attribute: "asks for",
    pickle_in_a_saved_folder: "asks for",
    pickle_in_a_runs_state: "cannot be read",
    program_of_torch_export: "program",
    code_named_in_a_checkpoint: "subprocess:getoutput",
    python_tags: "tag",
    alias_bombs: "aliases",
    entity_bombs: "",
    outer_entities: "",
    zip_bomb: "compressed",
    gzip_bomb: "gzip",
    header_of_a_petabyte: "header",
    tensors_that_overlap: "overlap",
    shapes_without_end: "",
    nested_without_end: "",
    names_that_lead_out: "plain name",
    weights_that_lie_elsewhere: "cannot be used by",
    links_to_devices: "",
    pictures_of_a_terapixel: "",
    postscript_as_a_picture: "is not an image that can be read",
    playlists_as_films: "is a text",
}
