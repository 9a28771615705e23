"""What this machine's CPU computes with: its name, its features, and whether bf16 is among them."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Final

from flexdetr.config import ConfigError

SWITCH: Final = "FLEXDETR_BF16"
"""Environment variable; "off" has everything compute as if this CPU had no bf16."""

# What tells how fast a network runs, or in which arithmetic: as Linux spells it on x86, then on ARM.
_TELLING: Final = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16",
    "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_BF16: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_features() -> tuple[str, ...]:
    """Features of this CPU that decide how networks are computed, as Linux names them; none where nobody knows them.

    Without those for bf16 where the environment says ``FLEXDETR_BF16=off``.

    Raises:
        ConfigError: for another value of that variable.
    """
    known = _known_features()
    return known if _bf16_wanted() else tuple(name for name in known if name not in _BF16)


def bf16_supported() -> bool:
    """Whether this CPU multiplies bf16 in hardware, and the environment does not say ``FLEXDETR_BF16=off``.

    Raises:
        ConfigError: for another value of that variable.
    """
    return not _BF16.isdisjoint(cpu_features())


def processor() -> str:
    """The name of this machine's CPU."""
    return _cpu_information("model name") or platform.processor() or platform.machine()


def _bf16_wanted() -> bool:
    said = os.environ.get(SWITCH, "")
    if said not in ("", "off"):
        raise ConfigError(f"the environment says {SWITCH}={said}; it takes off, or is not set")
    return said == ""


@functools.cache
def _known_features() -> tuple[str, ...]:
    system = platform.system()
    if system == "Linux":
        flags = set((_cpu_information("flags") or _cpu_information("Features")).split())
        return tuple(name for name in _TELLING if name in flags)
    if system == "Darwin":
        return _apple_features()
    return _openvino_features()


def _apple_features() -> tuple[str, ...]:
    """ARM features by the names that Linux gives them; Macs on Intel have none that matters here."""
    names = {
        "asimddp": "hw.optional.arm.FEAT_DotProd",
        "i8mm": "hw.optional.arm.FEAT_I8MM",
        "bf16": "hw.optional.arm.FEAT_BF16",
        "sme": "hw.optional.arm.FEAT_SME",
    }
    return tuple(name for name, key in names.items() if _sysctl(key) == "1")


def _sysctl(key: str) -> str:
    done = subprocess.run(  # noqa: S603 - a key of ours
        ["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()  # nothing for a key that this Mac does not know


def _openvino_features() -> tuple[str, ...]:
    """Windows names no feature beyond AVX-512; OpenVINO looks at the CPU itself and knows whether it has bf16."""
    from flexdetr.runtime.openvino import shared_core

    return ("bf16",) if "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ()


def _cpu_information(wanted: str) -> str:
    """What Linux says of the first core under a key; nothing elsewhere."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == wanted:
                return value.strip()
    return ""
