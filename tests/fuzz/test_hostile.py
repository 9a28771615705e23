"""Files that somebody made to do harm are refused in a sentence, and nothing in them is executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .answering import Product
from .hostile_files import HOSTILE, Place
from .kinds import join, split
from .material import Material

CASES = [pytest.param(make, says, id=make.__name__) for make, says in HOSTILE.items()]


@pytest.mark.parametrize(("make", "says"), CASES)
def test_a_hostile_file_is_refused(
    make: Callable[[Place], list[list[str]]],
    says: str,
    material: Material,
    product: Product,
    tmp_path: Path,
) -> None:
    folder, canary = tmp_path / "hostile", tmp_path / "canary"
    folder.mkdir()
    for arguments in make(Place(material, folder, canary)):
        answer = product.ask(arguments, folder)
        shown = f"flexdetr {' '.join(arguments)}\n{answer.out[-2000:]}\n{answer.err[-3000:]}"
        assert not answer.fault(), f"{shown}\n{answer.fault()}"
        assert not canary.exists(), f"executed by: {shown}"
        assert answer.status in (1, 2), shown
        assert says in answer.out + answer.err, shown
        assert "hunter2" not in answer.out + answer.err


def test_code_that_is_typed_is_called(material: Material, product: Product, tmp_path: Path) -> None:
    """The canary would appear: what is typed is the person's own."""
    canary = tmp_path / "canary"
    options = ["--set", "backbone=subprocess:getoutput", "--set", f"backbone.options.cmd=touch {canary}"]
    command = ["train", str(material.data("coco")), "--model", "flexdetr_pico", "--out", "new", *options]
    answer = product.ask(command, tmp_path)
    assert answer.status in (1, 2), answer
    assert canary.exists(), answer


def test_names_are_shown_and_not_run(material: Material, product: Product, tmp_path: Path) -> None:
    """Class and file names with HTML, escapes and paths in them: pages show them, nothing is written elsewhere."""
    script = "<script>alert(1)</script>"
    names = [f'"><img src=x onerror=alert(2)>{script}', "../../../../nut\x1b]0;root\x07"]
    data = Path(shutil.copytree(material.data("coco"), tmp_path / "data"))
    for file in (data / "annotations").iterdir():
        document = json.loads(file.read_text())
        for category, name in zip(document["categories"], names, strict=True):
            category["name"] = name
        for image in document["images"]:
            odd = f"<b onclick=alert(3)>{image['file_name']}"
            (file.parents[1] / file.stem.removeprefix("instances_") / image["file_name"]).rename(
                file.parents[1] / file.stem.removeprefix("instances_") / odd
            )
            image["file_name"] = odd
        file.write_text(json.dumps(document))
    before = {path for path in tmp_path.rglob("*") if path != tmp_path / "work"}
    (tmp_path / "work").mkdir()
    header, body = split(material.checkpoint)
    metadata = json.loads(header["__metadata__"]["flexdetr"])
    metadata["classes"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    metadata["model"] = metadata["licence"] = script
    header["__metadata__"]["flexdetr"] = json.dumps(metadata)
    model = tmp_path / "work" / "model.safetensors"
    join(model, header, body)
    page = tmp_path / "work" / "page.html"
    for command in (
        ["check", str(data)],
        ["info", str(model)],
        ["eval", str(model), str(data), "--split", "val", "--out", str(page)],
        ["predict", str(model), str(data), "--out", str(tmp_path / "work" / "out"), "--threshold", "0"],
    ):
        answer = product.ask(command, tmp_path / "work")
        assert answer.status == 0, answer
        assert not answer.fault()
        assert "\x1b" not in answer.out + answer.err
    seen: list[tuple[str, str]] = []  # tags with their attributes' names
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: seen.extend(
        (tag, name) for name, _ in attributes or [("", "")]
    )
    reader.feed(page.read_text("utf-8"))
    assert ("img", "src") in seen
    assert not [(tag, name) for tag, name in seen if tag == "script" or name.startswith("on")]
    assert "&lt;script&gt;" in page.read_text("utf-8")
    assert {path for path in tmp_path.rglob("*") if tmp_path / "work" not in (path, *path.parents)} == before
