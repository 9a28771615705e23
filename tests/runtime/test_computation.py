"""What computed an answer, in a line and as JSON."""

from __future__ import annotations

import pytest

from flexdetr.runtime.computation import Computation
from flexdetr.runtime.cpu import SWITCH, cpu_features, processor


def test_names_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Computation.here("PyTorch 2.15", "cpu", "bf16")
    assert (how.cpu, how.cpu_features) == (processor(), cpu_features())
    monkeypatch.setenv(SWITCH, "off")
    assert not {"avx512_bf16", "amx_bf16", "bf16"} & set(Computation.here("x", "cpu", "fp32").cpu_features)


def test_in_a_line_and_as_json() -> None:
    how = Computation("OpenVINO 2026.4", "CPU", "bf16", "int8", "some CPU", ("avx2", "amx_bf16"))
    assert how.describe() == "OpenVINO 2026.4 on CPU in int8 and bf16 (some CPU: avx2 amx_bf16)"
    assert how._replace(weights="fp32", cpu_features=()).describe() == (
        "OpenVINO 2026.4 on CPU in bf16 (some CPU: no features known)"
    )
    assert how.to_json() == {
        "runtime": "OpenVINO 2026.4",
        "device": "CPU",
        "precision": "bf16",
        "weights": "int8",
        "cpu": "some CPU",
        "cpu_features": ["avx2", "amx_bf16"],
    }
