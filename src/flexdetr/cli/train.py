"""The verb ``train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, ConfigFile, Model, Set
from flexdetr.cli.evaluate import given, one_of
from flexdetr.tasks import TASKS

if TYPE_CHECKING:
    from flexdetr.config import Config
    from flexdetr.data.dataset import Dataset
    from flexdetr.engine.overfit import Overfit

Data = Annotated[
    Path | None,
    typer.Argument(
        metavar="DATA",
        help="Folder in COCO, Pascal VOC or YOLO format, or a file in it; for a classifier, a folder for each class.",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="DIR",
        help="Continue this run exactly; only --device goes with it, and DATA's new place where it was moved.",
    ),
]


def train(
    data: Data = None,
    model: Model = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    image_size: Annotated[str | None, typer.Option(metavar="S|HxW", help="What the network sees.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N|auto", help="Images per step.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="auto|coco|backbone|none|FILE", help="What the training starts from."),
    ] = None,
    weights_part: Annotated[
        str | None,
        typer.Option(
            metavar="backbone,encoder", help="Which parts of a detector's weights are taken [default: all]."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|cuda:0,1|mps", help="Device to compute on.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|fp32|bf16|fp16", help="Precision of the computation.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder [default: runs/MODEL].")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(TASKS),
            help="What is learned [default: what the model is for].",
            callback=one_of("task", [*TASKS]),
        ),
    ] = None,
    crops_of: Annotated[
        Path | None,
        typer.Option(
            "--crops-of",
            metavar="DATA",
            help="Cut the objects of a detection data set out into OUT/crops, and train a classifier on them.",
        ),
    ] = None,
    config_file: ConfigFile = None,
    changes: Set = None,
    resume: Resume = None,
    overfit_one_batch: Annotated[
        bool,
        typer.Option(
            "--overfit-one-batch",
            help="Only test whether one batch can be overfitted, 300 steps at most; writes nothing.",
        ),
    ] = False,
    _allowed: AllowCode = None,
) -> None:
    """Train a detector or a classifier (a model NAME_cls) on a data set, or continue a run."""
    schedule = given(epochs=epochs, batch_size=batch_size, device=device, precision=precision)
    options = given(
        image_size=image_size, weights=weights, weights_part=weights_part, seed=seed, train=schedule or None
    )
    try:
        if resume is not None:
            others = options != ({"train": {"device": device}} if device else {})
            if model or others or out or config_file or changes or overfit_one_batch or task or crops_of:
                raise answers.UsageError(
                    "--resume continues a run exactly as it was: it takes no other option than --device; DATA is named "
                    "only where it was moved"
                )
            from flexdetr.engine import fit

            run = fit.resume(resume, data=data, device=device)
        else:
            if (data is None) == (crops_of is None):
                raise answers.UsageError(
                    "say which data to train on: flexdetr train DATA --model NAME, or --crops-of DATA"
                )
            from flexdetr.presets import for_orientation, resolve

            if out is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
                raise answers.UsageError(
                    "torchrun --max-restarts begins a run again in the folder that --out names: give --out"
                )
            config = resolve(model, config_file, changes or (), **options)
            if task == "orientation":
                config = for_orientation(config)
            _check_task(config, "classify" if crops_of else task)
            folder = out or free_folder(Path("runs"), config.model)
            if data is None:
                data = folder / "crops"
                _cut_out(crops_of, data, config)
            dataset = None if overfit_one_batch else _read(data, config)
            from flexdetr.engine import fit

            if overfit_one_batch:
                _show_overfit(fit.overfit_one_batch(data, config))
                return
            run = fit.train(data, config, out=folder, dataset=dataset)
    except KeyboardInterrupt as stop:
        answers.note(str(stop) or "interrupted")
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") != "0":  # beside others under torchrun: the first one answers
        return
    answers.show_metrics(run.metrics)
    answers.show(f"best checkpoint: {run.best}")
    answers.show(f"the run:         {run.folder}")


def _read(data: Path, config: Config) -> Dataset | None:
    """The data, before torch is loaded: what cannot be trained on is answered in a second; None beside other ranks."""
    from flexdetr.data.check import read_for_training

    return read_for_training(data, config) if os.environ.get("RANK", "0") == "0" else None


def _check_task(config: Config, task: str | None) -> None:
    """Refuse a model of another task than the one that was named."""
    if task in (None, config.task):
        return
    from flexdetr.presets import MODELS

    fitting = [name for name, row in MODELS.items() if row.task == task]
    near = [name for name in fitting if MODELS[name].backbone.name == config.backbone.name]
    raise answers.UsageError(
        f"{config.model} is a {TASKS[config.task].noun}, not a {TASKS[str(task)].noun}; take --model "
        f"{' or '.join(near or fitting[:3])}"
    )


def _cut_out(source: Path | None, out: Path, config: Config) -> None:
    from flexdetr.data.crops import cut_out

    if source is not None and not out.exists():
        counts = cut_out(source, out, val_fraction=config.data.val_fraction, seed=config.seed)
        each = ", ".join(f"{count} of {split}" for split, count in counts.items())
        answers.note(f"objects of {source} cut out into {out}: {each}")


def _show_overfit(result: Overfit) -> None:
    """What came of it, and with status 1 what to look at where it failed."""
    answers.show(
        f"{result.images} images with {result.objects} objects, {result.steps} steps: loss {result.first_loss:.3f} "
        f"to {result.last_loss:.3f}, AP50 {result.ap50:.3f} on the same images"
    )
    if result.passed:
        answers.show("passed: the detector can learn these labels")
        return
    what = "the objects are not found" if result.collapsed else "the loss did not collapse"
    answers.note(f"Error: one batch could not be overfitted: {what}. Look at:")
    for hint in result.hints:
        answers.note(f"  {hint}")
    raise typer.Exit(1)


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or the first of ``parent/name-2``, ``-3`` ... that is new: no run is overwritten."""
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder
