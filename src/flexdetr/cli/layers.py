"""What ``bench --layers`` shows: the time of each kind of layer, the floors, and the layers furthest from theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from flexdetr.cli import answers

if TYPE_CHECKING:
    from flexdetr.runtime.layers import Arithmetic, Layer, Profile, Rates
    from flexdetr.runtime.openvino import OpenVINORuntime
    from flexdetr.runtime.parity import Asked

_WORST = 10


def bench_layers(
    files: Sequence[str], *, threads: int | None, precision: Asked, rounds: int, as_json: bool
) -> None:
    """Profile artifacts on OpenVINO, and measure the machine's rates beside them.

    The least time of each layer in ``rounds`` calls counts.

    Raises:
        UsageError: for something else than artifacts.
        ArtifactError: if OpenVINO does not run one.
    """
    from flexdetr.deployed import ArtifactDetector
    from flexdetr.runtime.artifact import is_artifact
    from flexdetr.runtime.layers import measure_rates, profile

    for file in files:
        if not is_artifact(file):
            raise answers.UsageError(
                f"--layers is for artifacts, and {file} is not one: flexdetr export {file} --format openvino makes one"
            )
    runtimes = [
        ArtifactDetector(file, threads=threads, runtime="openvino").runtime(precision=precision)
        for file in files
    ]
    answers.note("measuring what this machine reaches")
    rates = measure_rates(threads)
    found = []
    for file, runtime in zip(files, runtimes, strict=True):
        answers.note(f"measuring the layers of {file}")
        found.append((file, runtime.description, profile(cast("OpenVINORuntime", runtime), rounds=rounds)))
    if as_json:
        from flexdetr.metrics.latency import machine

        answers.show_json(
            {
                "machine": machine(),
                "threads": threads,
                "rates": rates._asdict() | {"gflops": dict(rates.gflops)},
                "files": [describe(*one, rates) for one in found],
            }
        )
        return
    show_rates(rates)
    for file, what, profile_of in found:
        show_profile(file, what, profile_of, rates)


def show_rates(rates: Rates) -> None:
    """What the machine reaches, in a line."""
    reached = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.gflops.items())
    answers.show(
        f"this machine: GFLOP/s {reached}; GB/s {rates.cache:.1f} in the cache, {rates.memory:.1f} in memory"
    )


def show_profile(name: str, what: str, profile: Profile, rates: Rates) -> None:
    """The tables of one graph."""
    total = _spent(profile.layers)
    gflops = sum(layer.gflops for layer in profile.layers)
    answers.show(f"{name}, {what}: {profile.milliseconds:.2f} ms a call, {gflops:.3f} GFLOPs")
    floors = floors_of(profile, rates)
    answers.show_table(
        ["all in", "floor ms", "share of it reached"],
        [(precision, f"{floor:.2f}", f"{floor / total:.0%}") for precision, floor in floors.items()],
    )
    answers.show_table(
        ["kind", "precision", "layers", "ms", "share", "GFLOPs", "MiB"],
        [
            (
                kind,
                precision,
                len(layers),
                f"{_spent(layers):.2f}",
                f"{_spent(layers) / total:.0%}",
                f"{sum(layer.gflops for layer in layers):.3f}",
                f"{sum(layer.mebibytes for layer in layers):.1f}",
            )
            for (kind, precision), layers in _by_kind(profile.layers)
        ],
    )
    answers.show_table(
        ["loses most", "kind", "ms", "floor ms", "GFLOPs", "MiB"],
        [
            (
                short(layer.name),
                f"{layer.kind} {layer.precision}",
                f"{layer.milliseconds:.2f}",
                f"{own_floor(layer, rates):.2f}",
                f"{layer.gflops:.3f}",
                f"{layer.mebibytes:.2f}",
            )
            for layer in worst(profile.layers, rates)
        ],
    )


def describe(name: str, what: str, profile: Profile, rates: Rates) -> dict[str, Any]:
    """The same as a document, with every layer."""
    total = _spent(profile.layers)
    return {
        "name": name,
        "what": what,
        "milliseconds": profile.milliseconds,
        "floors": {
            precision: {"milliseconds": floor, "share": floor / total}
            for precision, floor in floors_of(profile, rates).items()
        },
        "worst": [layer.name for layer in worst(profile.layers, rates)],
        "layers": [layer._asdict() | {"floor": own_floor(layer, rates)} for layer in profile.layers],
    }


def floors_of(profile: Profile, rates: Rates) -> dict[Arithmetic, float]:
    """Milliseconds that the whole graph takes at least, by precision."""
    return {one: sum(rates.floor(layer, one) for layer in profile.layers) for one in rates.gflops}


def worst(layers: Sequence[Layer], rates: Rates) -> list[Layer]:
    """The layers that are furthest above their floor in the precision that they compute in."""
    return sorted(layers, key=lambda one: own_floor(one, rates) - one.milliseconds)[:_WORST]


def own_floor(layer: Layer, rates: Rates) -> float:
    """Milliseconds that a layer takes at least in the precision that it computes in."""
    own: Mapping[str, Arithmetic] = {"bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}
    precision = own.get(layer.precision, "fp32")
    return rates.floor(layer, precision if precision in rates.gflops else "fp32")


def short(name: str) -> str:
    """A layer's name without what all names have, as ``backbone.stem.stem1.conv Convolution``."""
    path, _, operation = name.removeprefix("__module.").removeprefix("detector.").partition("/")
    return f"{path} {operation.rpartition('/')[2]}".strip()


def _spent(layers: Sequence[Layer]) -> float:
    return sum(layer.milliseconds for layer in layers)


def _by_kind(layers: Sequence[Layer]) -> Iterator[tuple[tuple[str, str], list[Layer]]]:
    """Kind and precision with their layers, the costliest first."""
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.kind, layer.precision), []).append(layer)
    yield from sorted(groups.items(), key=lambda group: -_spent(group[1]))
