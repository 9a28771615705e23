"""What a person gets who types a command: the answer on stdout, errors in a sentence, and the exit status."""

from __future__ import annotations

import errno
import io
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from flexdetr.cli import GROUPS, VERBS, answers, describe, main
from flexdetr.config import ConfigError


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def flexdetr(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str | Path) -> Answer:
        status = main([str(argument) for argument in arguments])
        return Answer(status, *capsys.readouterr())

    return run


def test_help_names_every_verb(flexdetr) -> None:
    answer = flexdetr("--help")
    assert answer.status == 0
    assert all(f"  {verb} " in answer.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(flexdetr, verb: str) -> None:
    answer = flexdetr(verb, "--help")
    assert answer.status == 0
    assert f"Usage: flexdetr {verb}" in answer.out


@pytest.mark.parametrize(
    ("group", "verb"), [(name, verb) for name, (_, verbs) in GROUPS.items() for verb in verbs]
)
def test_verbs_of_two_words_explain_themselves(flexdetr, group: str, verb: str) -> None:
    assert f"  {group} " in flexdetr("--help").out
    assert f"  {verb} " in flexdetr(group, "--help").out
    answer = flexdetr(group, verb, "--help")
    assert answer.status == 0
    assert f"Usage: flexdetr {group} {verb}" in answer.out


def test_info_of_a_preset_tells_the_numbers_of_the_list_without_torch() -> None:
    program = """
import sys
from flexdetr.cli import main
assert main(["info", "rtdetr_r18", "--json"]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["backbone"] == "resnet18_vd"
    assert (facts["params"], facts["gflops"]) == (20_184_464, 59.348)


def test_models_as_table_and_as_json(flexdetr) -> None:
    rows = json.loads(flexdetr("models", "--json").out)
    table = flexdetr("models").out
    assert {"rtdetr_r18", "rtdetr_hgnetv2_l", "flexdetr_nano"} <= {row["model"] for row in rows}
    for row in rows:
        assert row["model"] in table
        assert row["params"], "run `make sizes`"


def test_models_tell_where_weights_come_from(flexdetr) -> None:
    rows = {row["model"]: row["weights"] for row in json.loads(flexdetr("models", "--json").out)}
    coco = rows["rtdetr_hgnetv2_l"]["coco"]
    assert (coco["ap"], coco["licence"]) == (53.0, "Apache-2.0")
    assert coco["address"].endswith("rtdetr_hgnetv2_l_6x_coco.pdparams")
    assert "huggingface" in rows["flexdetr_nano"]["backbone"]["address"]
    assert "coco" not in rows["flexdetr_nano"]
    table = {line.split()[0]: line for line in flexdetr("models").out.splitlines()}
    assert "coco, backbone" in table["rtdetr_hgnetv2_l"]
    assert all(text in table["rtdetr_hgnetv2_l"] for text in (" 53.0 ", "Apache-2.0", "PaddleDetection"))


def test_config_prints_what_it_can_read_back(flexdetr, tmp_path: Path) -> None:
    first = flexdetr(
        "config", "--model", "flexdetr_nano", "--set", "train.lr=2e-4", "--set", "image_size=320"
    )
    file = tmp_path / "run.yaml"
    file.write_text(first.out, encoding="utf-8")
    again = flexdetr("config", "--config", file)
    assert first.status == again.status == 0
    assert first.out == again.out
    assert "lr: 0.0002" in first.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "Did you mean 'train'"),
        (["models", "--jsno"], "--json"),
        (["info", "rtdetr_r81"], "did you mean 'rtdetr_r18'"),
        (["config", "--model", "rtdetr_r18", "--set", "train.epoches=3"], "'train.epochs'"),
        (["config", "--model", "rtdetr_r18", "--set", "train.precision=bf61"], "'bf16'"),
        (["config", "--model", "rtdetr_r18", "--set", "train.lr"], "key.sub=value"),
        (["config", "--model", "rtdetr_r18", "--set", "image_size=333"], "divisible by 32"),
        (["config", "--config", "missing.yaml"], "missing.yaml"),
        (["config"], "no model was named"),
        (["train"], "flexdetr train DATA"),
        (["train", "data", "--model", "flexdetr_nan"], "did you mean 'flexdetr_nano'"),
        (["train", "--resume", "run", "--model", "flexdetr_pico"], "takes no other option"),
        (
            ["train", "data", "--model", "flexdetr_nano", "--batch-size", "0"],
            "batch_size: Input should be greater",
        ),
        (
            ["train", "data", "--model", "flexdetr_nano", "--batch-size", "-8"],
            "batch_size: Input should be greater",
        ),
        (["train", "data", "--model", "flexdetr_nano", "--batch-size", "²"], "(got '²'); or auto"),
        (
            ["train", "data", "--model", "flexdetr_nano", "--epochs", "0"],
            "train.epochs: Input should be greater",
        ),
        (["train", "data", "--model", "flexdetr_nano", "--seed", "-1"], "seed: Input should be greater"),
        (["train", "data", "--model", "flexdetr_nano", "--seed", str(2**64)], "seed: Input should be less"),
        (["train", "data", "--model", "flexdetr_nano", "--seed", "9" * 400], "a number of 1329 bits"),
        (
            ["train", "data", "--model", "flexdetr_nano", "--image-size", "1048576"],
            "less than or equal to 8192",
        ),
        (
            ["train", "data", "--model", "flexdetr_nano", "--set", "train.lr=.inf"],
            "lr: Input should be a finite",
        ),
        (["eval", "model.safetensors", "data", "--split", "tset"], "did you mean 'test'"),
    ],
)
def test_wrong_usage_is_answered_with_what_was_meant(flexdetr, arguments: list[str], hint: str) -> None:
    answer = flexdetr(*arguments)
    assert answer.status == 2
    assert answer.out == ""
    assert hint in answer.err
    assert "Traceback" not in answer.err


def test_a_missing_file_fails_in_one_sentence(flexdetr) -> None:
    answer = flexdetr("info", "missing.safetensors")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == "Error: missing.safetensors does not exist\n"


def test_explain_tells_the_packages_errors_from_defects() -> None:
    assert answers.explain(ConfigError("no")) == (2, "Error: no")
    assert answers.explain(ValueError("a defect")) is None
    assert answers.explain(ModuleNotFoundError("x", name="flexdetr.modle")) is None


def test_what_the_system_refuses_is_a_sentence() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/report.html")
    assert answers.explain(full) == (1, "Error: runs/report.html: No space left on device")
    assert answers.explain(PermissionError(errno.EACCES, "Permission denied")) == (
        1,
        "Error: Permission denied",
    )
    assert answers.explain(OSError("of a library, which says no more")) is None


def test_a_defect_says_where_its_traceback_is(
    flexdetr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_: str) -> None:
        raise KeyError("widht")

    monkeypatch.setattr(describe, "describe", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = flexdetr("info", "flexdetr_pico")
    (log,) = tmp_path.iterdir()
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == (
        f"Error: this is a bug in FlexDETR (KeyError: 'widht'); please report it: the traceback is in {log}\n"
    )
    assert "flexdetr info flexdetr_pico" in log.read_text("utf-8")
    assert "in broken\n" in log.read_text("utf-8")


def test_a_defect_on_a_full_disk_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    text = answers.bug_report(ValueError("odd"), ["info", "x y"])
    assert "flexdetr info 'x y'" in text
    assert text.endswith("ValueError: odd\n")


def test_what_stdout_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["--version"]) == 0
    answers.show("größe 猫 \udcff.png")  # a file's name can be any bytes
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"gr\xf6\xdfe \\u732b \\udcff.png\n")


def test_what_files_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    answers.show("class \x1b]0;root\x07:\tbolt\n")
    answers.note("\x9b2J")
    answers.show_table(["class"], [("\x1b[31mnut",)])
    shown = capsys.readouterr()
    assert shown.out == "class \\x1b]0;root\\x07:\tbolt\n\nclass\n\\x1b[31mnut\n"
    assert shown.err == "\\x9b2J\n"


def test_explain_names_the_extra_that_is_missing() -> None:
    answer = answers.explain(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert answer == (1, "Error: this needs torch: install it with pip install 'flexdetr[train]'")


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    answers.show_json({"ap": float("nan"), "rows": [(1, float("inf"))]})
    assert json.loads(capsys.readouterr().out) == {"ap": None, "rows": [[1, None]]}


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    answers.show_table(["name", "n"], [("a", 1000), ("bcdef", None)])
    assert capsys.readouterr().out == "name       n\na      1,000\nbcdef      -\n"


def test_a_reader_that_stops_early_is_no_error() -> None:
    code = "from flexdetr.cli import main; import sys; sys.exit(main(['models', '--json']))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[", "")
