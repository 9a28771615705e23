"""The report is an extra: what stops it does not stop the run, which is whole before it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fakes.tiny import SMALL
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit, preflight, reporting
from flexdetr.engine import state as run_state
from flexdetr.presets import resolve
from flexdetr.report import make
from flexdetr.weights import store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("reporting"), train=4, val=2, test=0, size=(96, 96))


def settings(**train):
    train = {"epochs": 1, "batch_size": 2, **train}
    return resolve("flexdetr_pico", **SMALL, image_size=64, data={"workers": 0}, train=train)


def test_a_full_disk_at_the_report_leaves_a_whole_run(data, tmp_path, monkeypatch, caplog, full_disk):
    write = make.write_report

    def on_a_full_disk(*arguments):
        with full_disk(1000):
            return write(*arguments)

    monkeypatch.setattr(make, "write_report", on_a_full_disk)
    run = fit.train(data, settings(), out=tmp_path / "run", quiet=True)
    assert "report.html: " in caplog.text
    assert f"flexdetr eval {run.best} {data} --split val --report" in caplog.text
    assert "This page reloads" in (run.folder / reporting.FILE).read_text(encoding="utf-8")
    assert not list(run.folder.glob(".*.part"))
    assert store.read_metadata(run.best).training["validation"]["ap"] == pytest.approx(run.metrics.ap)
    assert run_state.load(run.folder)["epoch"] == 1
    monkeypatch.undo()
    fit.resume(run.folder, quiet=True)  # nothing is left to train; the report is made after all
    assert "Right detections" in (run.folder / reporting.FILE).read_text(encoding="utf-8")
    assert store.read_metadata(run.best).thresholds is not None


def test_a_page_shows_the_run_while_it_goes_on_and_others_at_its_end(data, tmp_path):
    pages = []

    class Reader:
        def on_epoch(self, moment):
            pages.append((moment.folder / reporting.FILE).read_text(encoding="utf-8"))

    for name in ("first", "second"):
        run = fit.train(data, settings(), out=tmp_path / name, quiet=True, callbacks=[Reader()])
    for text in pages:
        assert 'http-equiv="refresh"' in text
        assert "Epoch 1 of 1" in text
        assert "<polyline" in text
    text = (run.folder / reporting.FILE).read_text(encoding="utf-8")
    assert "refresh" not in text
    others = text[text.index('id="other-runs"') :]
    assert "<td>first</td>" in others
    assert "<td>second</td>" in others
    assert 'id="other-runs"' not in (tmp_path / "first" / reporting.FILE).read_text(encoding="utf-8")


def test_a_full_disk_at_the_samples_is_said_and_the_run_begins(
    data, tmp_path, monkeypatch, caplog, full_disk
):
    sheet = preflight.contact_sheet

    class Unwritable:
        def __init__(self, *arguments, **options):
            self.sheet = sheet(*arguments, **options)

        def save(self, *arguments, **options):
            with full_disk(1000):
                self.sheet.save(*arguments, **options)

    monkeypatch.setattr(preflight, "contact_sheet", Unwritable)
    run = fit.train(data, settings(report=False), out=tmp_path / "run", quiet=True)
    assert "samples.png: " in caplog.text
    assert "training samples as the network will see them" not in caplog.text
    assert not (run.folder / preflight.SAMPLES).exists()
    assert run.best.exists()


def test_facts_name_the_memory_where_there_is_no_resource_module(monkeypatch):
    class Process:
        def memory_info(self):
            return type("Memory", (), {"peak_wset": 512 * 2**20})

    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows, where importing it fails
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(reporting.psutil, "Process", Process)
    assert reporting.machine_facts(CPU)["peak memory"] == "512 MiB"


def test_training_can_be_imported_where_there_is_no_resource_module():
    # psutil's part for Linux needs it.
    code = "import sys, psutil; sys.modules['resource'] = None; import flexdetr.engine.fit"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
