"""benchmarks/gpu.py: its arithmetic, and that it says so where there is no GPU. What it measures needs one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("gpu", FOLDER / "gpu.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, which would be measured")
def test_without_a_gpu_it_says_so_in_one_sentence(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(FOLDER / "gpu.py")])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert capsys.readouterr() == ("", "")
    said = ended.value.code  # a text is written to standard error, and the status is 1
    assert said.startswith("this measures a CUDA GPU, and PyTorch finds none here")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("kernels", "share"),
    [
        ([], 0.0),
        ([(0.0, 10.0)], 1.0),
        ([(6.0, 8.0), (1.0, 3.0)], 0.4),
        ([(1.0, 5.0), (2.0, 3.0), (4.0, 6.0)], 0.5),  # side by side counts once
        ([(-5.0, 1.0), (9.0, 20.0)], 0.2),
    ],
)
def test_busy_is_the_time_in_which_a_kernel_runs(gpu, kernels, share):
    assert gpu.busy_share(kernels, 0.0, 10.0) == pytest.approx(share)


def test_the_table_sets_our_steps_against_transformers(gpu):
    rows = [
        gpu.Row("rtdetr_r18", "flexdetr bf16", 0.05, 0.9, 2**30),
        gpu.Row("rtdetr_r18", "transformers bf16", 0.1, 0.5, 2**31),
        gpu.Row("flexdetr_nano", "flexdetr bf16", 0.02, 0.7, 2**29),
    ]
    lines = gpu.table(rows, 16)
    assert lines[2] == "| rtdetr_r18 | flexdetr bf16 | 50.0 | 320.0 | 2.00 x | 90% | 1,024 MiB |"
    assert lines[3] == "| rtdetr_r18 | transformers bf16 | 100.0 | 160.0 |  | 50% | 2,048 MiB |"
    assert lines[4] == "| flexdetr_nano | flexdetr bf16 | 20.0 | 800.0 |  | 70% | 512 MiB |"


def test_each_subject_makes_a_whole_step(gpu):
    chosen = gpu.subjects(["flexdetr_pico"], 64, 2, 3, torch.device("cpu"), rivals=False)
    assert [one.by for one in chosen] == ["flexdetr bf16", "flexdetr fp32"]
    step = chosen[1].make()
    step()
