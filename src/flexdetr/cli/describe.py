"""Verbs that describe: ``models``, ``info`` and ``config``."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers

if TYPE_CHECKING:
    from flexdetr.config import Config


def _allow_code(context: typer.Context, names: list[str] | None) -> None:
    """Trust the names as long as the command runs."""
    from flexdetr.foreign_code import allowed

    if names:
        context.with_resource(allowed(names))


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="RUN.YAML", help="YAML with any keys.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Change one key; may be repeated.")
]
AllowCode = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-code",
        metavar="PKG.MOD:NAME",
        help="Let a file name this code as its backbone or transforms; may be repeated.",
        callback=_allow_code,
        expose_value=False,
    ),
]
_APART = ("training",)  # shown below the table of ``info``
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="The preset to start from.")]


def models(as_json: Json = False) -> None:
    """List every preset: backbone, parameters, GFLOPs, image size, and which published weights it can start from."""
    from flexdetr.presets import MODELS

    sizes = _stored_sizes()
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "backbone": preset.backbone.name,
            "params": sizes.get(name, {}).get("params"),
            "gflops": sizes.get(name, {}).get("gflops"),
            "image_size": list(preset.image_size),
            "weights": _published(name, preset.backbone.name),
        }
        for name, preset in MODELS.items()
    ]
    if as_json:
        answers.show_json(rows)
        return
    answers.show_table(
        ["model", "backbone", "params", "GFLOPs", "image size", "weights", "AP", "licence", "source"],
        [
            (
                *(row[key] for key in ("model", "backbone", "params", "gflops")),
                _size(row["image_size"]),
                *_weights_cells(row["weights"]),
            )
            for row in rows
        ],
    )


def _stored_sizes() -> dict[str, dict[str, Any]]:
    """Parameters and GFLOPs of every preset, as ``make sizes`` measured them."""
    sizes: dict[str, dict[str, Any]] = json.loads(
        resources.files("flexdetr").joinpath("model_sizes.json").read_text("utf-8")
    )
    return sizes


def _published(model: str, backbone: str) -> dict[str, dict[str, Any]]:
    """The manifest's entries for ``--weights coco`` and ``--weights backbone``, those that there are."""
    from flexdetr.weights.manifest import PUBLISHED

    return {
        word: {
            "address": entry.address,
            "licence": entry.licence,
            "ap": entry.ap,
            "sha256": entry.sha256,
            "source": entry.source,
        }
        for word, name in (("coco", model), ("backbone", backbone))
        if (entry := PUBLISHED.get(name)) is not None
    }


def _weights_cells(weights: dict[str, dict[str, Any]]) -> tuple[object, ...]:
    """What ``--weights`` takes, and the best of it: AP in percent as published, licence, where it is from."""
    if not weights:
        return None, None, None, None
    best = next(iter(weights.values()))
    ap = None if best["ap"] is None else str(best["ap"])
    return ", ".join(weights), ap, best["licence"], best["source"].partition(",")[0]


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FILE", help="A preset, a checkpoint or an artifact.")
    ],
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Show a model's parts, shapes, size and classes, and where it came from."""
    facts = describe(model)
    if as_json:
        answers.show_json(facts)
        return
    rows = [(name.replace("_", " "), _text(value)) for name, value in facts.items() if name not in _APART]
    answers.show_table(["", ""], rows)
    _show_training(facts.get("training") or {})


def _show_training(training: dict[str, Any]) -> None:
    """A run's summary, its score, and each class's own as tables."""
    score = training.get("validation") or {}
    per_class = score.get("per_class") or {}
    plain = {**training, **{f"validation {key}": value for key, value in score.items()}}
    rows = [
        (name.replace("_", " "), _number(value))
        for name, value in plain.items()
        if not isinstance(value, dict | list)
    ]
    if rows:
        answers.show("\ntraining")
        answers.show_table(["", ""], rows)
    if per_class:
        columns = list(next(iter(per_class.values())))
        answers.show("")
        answers.show_table(
            ["class", *(column.replace("_", " ") for column in columns)],
            [(name, *(one.get(column) for column in columns)) for name, one in per_class.items()],
        )


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else _text(value)


def config(config_file: ConfigFile = None, changes: Set = None, model: Model = None) -> None:
    """Print the whole resolved configuration as YAML."""
    from flexdetr.config import to_yaml
    from flexdetr.presets import resolve

    answers.show(to_yaml(resolve(model, config_file, changes or (), calls_code=False)).rstrip())


def describe(model: str) -> dict[str, Any]:
    """What ``info`` tells about a preset, a checkpoint file or an artifact.

    Raises:
        ConfigError: if it is neither a preset nor an existing file.
        WeightsError: if the file cannot be read.
        ArtifactError: if the artifact cannot be used.
    """
    from flexdetr.presets import MODELS, preset
    from flexdetr.runtime.artifact import is_artifact

    path = Path(model)
    if model not in MODELS and is_artifact(path):
        return _of_artifact(path)
    if model in MODELS or not (path.exists() or path.suffix or path.parent != Path()):
        config = preset(model)
        published = _published(model, config.backbone.name)
        return {
            **_parts(config, 1000 if config.task == "classify" else 80),  # as measured
            **_stored_sizes()[model],
            "weights": {word: row["address"] for word, row in published.items()},
        }
    return _of_file(path)


def _of_artifact(path: Path) -> dict[str, Any]:
    """An artifact in short; read from its description, so that neither torch nor a runtime is needed."""
    from flexdetr.runtime.artifact import open_artifact

    artifact = open_artifact(path)
    metadata, parity = artifact.metadata, artifact.parity
    made: dict[str, Any] = {
        key: metadata.made[key] for key in ("decoder_layers", "queries", "target") if key in metadata.made
    }
    return {
        "artifact": str(artifact.path),
        "format": metadata.format,
        "precision": metadata.precision,
        "model": metadata.model,
        "image_size": list(metadata.input.size),
        "outputs": list(metadata.outputs.names),
        **made,
        "num_classes": len(artifact.classes),
        "classes": dict(zip(artifact.classes.names, artifact.classes.ids, strict=True)),
        "thresholds": metadata.thresholds,
        "files": {name: file.bytes for name, file in metadata.files.items()},
        "proof": None
        if parity is None
        else {"runtime": parity.runtime, "score_drift": parity.score, "box_drift_px": parity.box},
        "licence": metadata.licence,
        "provenance": metadata.provenance,
    }


def _of_file(path: Path) -> dict[str, Any]:
    from flexdetr.classes import ClassError, Classes
    from flexdetr.config import ConfigError, build
    from flexdetr.foreign_code import objection
    from flexdetr.weights.container import WeightsError, sniff
    from flexdetr.weights.header import read_header
    from flexdetr.weights.store import is_ours, read_metadata

    if sniff(path) == "safetensors" and is_ours(read_header(path)):
        metadata = read_metadata(path)
    else:
        from flexdetr.weights.loading import load_any

        metadata = load_any(path).metadata
    try:
        config, classes = build(metadata.config), Classes.from_json(metadata.classes)
    except (ConfigError, ClassError) as error:
        raise WeightsError(f"{path} holds a configuration that this FlexDETR cannot use: {error}") from error
    if (reason := objection(config.backbone.name, path)) is not None:
        raise WeightsError(reason)
    facts = _parts(config, len(classes)) | _sizes(config, len(classes))
    return {
        "file": str(path),
        **facts,
        "classes": dict(zip(classes.names, classes.ids, strict=True)),
        "training": metadata.training,
        "licence": metadata.licence,
        "provenance": metadata.provenance,
    }


def _parts(config: Config, num_classes: int) -> dict[str, Any]:
    """A configuration in short."""
    encoder = config.encoder
    height, width = config.image_size
    channels = f"{encoder.width}x" if encoder.project else ""
    facts: dict[str, Any] = {
        "model": config.model,
        "image_size": [height, width],
        "backbone": config.backbone.name,
        "encoder": f"{encoder.intra} x{encoder.intra_layers}, {encoder.fusion}, "
        + (f"width {encoder.width}" if encoder.project else "the backbone's widths"),
        "levels": {
            f"stride {stride}": f"{channels}{height // stride}x{width // stride}"
            for stride in encoder.strides
        },
        "head": f"{config.head.name}, {config.head.summary()}",
        "attention": dict(config.attention),
        "num_classes": num_classes,
    }
    if config.pruned:
        facts["pruned_layers"] = len(config.pruned)
    return facts


def _sizes(config: Config, num_classes: int) -> dict[str, Any]:
    """Parameters and GFLOPs, counted on the model itself; nothing where torch is not installed."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        answers.note("parameters and GFLOPs are counted with torch: pip install 'flexdetr[train]'")
        return {}
    from flexdetr.model.size import measure_both, rounded

    return rounded(measure_both(config, num_classes))


def _size(sides: list[int]) -> str:
    return "x".join(str(side) for side in sides)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {below}" for key, below in value.items()) or "-"
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return _size(value)
        return "; ".join(_text(item) for item in value) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
