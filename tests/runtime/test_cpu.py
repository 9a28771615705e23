"""What the CPU computes with, and the switch that hides its bf16."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flexdetr.config import ConfigError
from flexdetr.runtime import cpu
from flexdetr.runtime.cpu import bf16_supported, cpu_features, processor


@pytest.fixture(autouse=True)
def _without_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cpu.SWITCH, raising=False)


def _has(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(cpu, "_known_features", lambda: features)


def test_this_cpu_has_a_name_and_known_features() -> None:
    assert processor()
    assert set(cpu_features()) <= set(cpu._TELLING)


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_is_there_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch, feature: str) -> None:
    _has(monkeypatch, "avx2", feature)
    assert bf16_supported()


def test_other_features_are_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    _has(monkeypatch, "avx512f", "avx512_vnni", "amx_int8", "avx512_fp16")
    assert not bf16_supported()


def test_the_switch_hides_bf16_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    _has(monkeypatch, "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    monkeypatch.setenv(cpu.SWITCH, "off")
    assert cpu_features() == ("avx512_vnni", "amx_int8")
    assert not bf16_supported()


def test_another_value_of_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.SWITCH, "no")
    with pytest.raises(ConfigError, match="FLEXDETR_BF16=no; it takes off"):
        bf16_supported()


@pytest.mark.parametrize(
    ("key", "flags", "known"),
    [
        (
            "flags",
            "fpu avx2 avx512f avx512_bf16 amx_bf16 hle",
            ("avx2", "avx512f", "avx512_bf16", "amx_bf16"),
        ),
        ("Features", "fp asimd asimddp i8mm bf16", ("asimddp", "i8mm", "bf16")),
    ],
)
def test_linux_names_them_for_x86_and_arm(
    monkeypatch: pytest.MonkeyPatch, key: str, flags: str, known: tuple[str, ...]
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(cpu, "_cpu_information", lambda wanted: flags if wanted == key else "")
    assert cpu._known_features.__wrapped__() == known


def test_a_mac_names_them_by_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(cpu, "_sysctl", lambda key: "1" if key.endswith(("BF16", "DotProd")) else "")
    assert cpu._known_features.__wrapped__() == ("asimddp", "bf16")


def test_elsewhere_openvino_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from flexdetr.runtime.openvino import shared_core

    monkeypatch.setattr("platform.system", lambda: "Windows")
    has = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert cpu._known_features.__wrapped__() == (("bf16",) if has else ())


def test_asking_loads_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; from flexdetr.runtime.cpu import cpu_features; cpu_features(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'openvino', 'onnxruntime')))"
    )
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("only Linux and macOS name the CPU's features themselves")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
