"""Before the first step: what will be done, the data's defects and labels, a look at samples, the disk's space."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from flexdetr.config_values import some_of
from flexdetr.data.check import LabelCount, count_labels, crowd_warnings, shared_images
from flexdetr.draw import annotate, contact_sheet
from flexdetr.engine import state as run_state
from flexdetr.engine.device import precision_name
from flexdetr.engine.recipe import phase
from flexdetr.files import replacing
from flexdetr.runtime.arrays import shown
from flexdetr.runtime.detections import Detections

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.config import Config
    from flexdetr.data.batches import Batch, Phase
    from flexdetr.engine.trainer import Trainer

_log = logging.getLogger(__name__)

LABELS, SAMPLES = "labels.csv", "samples.png"
_PICTURES = 16
_SIDE = 320  # of a picture in the sheet
_SHOWN = 5  # defects or classes in a message
_ROWS = 20  # of the printed table of labels
_IMBALANCE = 50  # times as many objects as a class that is warned about
# What lies in a run's folder besides weights and states: the report with its pictures, samples, log and curves.
_BESIDE = 32 * 2**20


class DiskSpaceError(RuntimeError):
    """The disk has less space than a run will need; the message says how much, and what to do."""


def introduce(run: Trainer) -> None:
    """Say what will be done and why, and what the data holds; a new run keeps the latter in its folder."""
    objects = sum(len(record.labels) for record in run.train_records)
    resumed = bool(run.epoch or run.batch_index)
    lines = [
        f"data: {len(run.train_records)} training images with {objects} objects of {len(run.classes)} classes, "
        f"{len(run.val_records)} validation images",
        *run.dataset.notes,
        *run.starting.notes,
        *run.recipe.reasons,
        *run.companions.notes,
        *_without_colours(run.config),
        f"{run.steps} steps on {run.device} in {precision_name(run.dtype)}, evaluations too, into {run.folder}",
    ]
    if resumed:
        lines.append(f"resumed at epoch {run.epoch + 1}, step {run.batch_index}")
    elif run.ranks.first:
        lines += _labels(run)
        if count := write_samples(run):
            lines.append(f"{count} training samples as the network will see them: {run.folder / SAMPLES}")
    for line in lines:
        run.announce(line)
    if run.ranks.first and not resumed:
        _warn(run)


def _without_colours(config: Config) -> list[str]:
    """What is left out where pictures are no RGB."""
    data = config.data
    if data.colours == data.photometric:
        return []
    return [
        f"data.photometric={data.photometric:g} is left out: it distorts RGB, and data.channels={data.channels}"
    ]


def _warn(run: Trainer) -> None:
    """Warnings about the data; errors have been refused, or left out by the user's wish."""
    defects = [one for one in run.dataset.defects if one.severity == "warning"]
    defects += [*crowd_warnings(run.dataset), *shared_images(run.dataset)]
    if defects:
        shown = "".join(f"\n  {one}" for one in defects[:_SHOWN])
        more = "\n  flexdetr check lists all of them, with what is wrong" if len(defects) > _SHOWN else ""
        _log.warning("%d warnings about the data:%s%s", len(defects), shown, more)
    counts = count_labels(run.train_records, len(run.classes))
    for warning in label_warnings(run.classes, counts):
        _log.warning(warning)


def label_warnings(classes: Classes, counts: Sequence[LabelCount]) -> list[str]:
    """What the numbers of training objects say against a run.

    Args:
        classes: of the detector.
        counts: of the training images, in the head's order.

    Returns:
        A sentence each for classes without an object, and for those with far fewer than the most frequent one.
    """
    objects = np.array([count.objects for count in counts])
    if not objects.any():
        return ["no training image has an object: the detector can only learn that there is nothing"]
    found = []
    absent = [name for name, number in zip(classes.names, objects, strict=True) if not number]
    if absent:
        found.append(
            f"no training object of {some_of(absent, _SHOWN)}: a class that is never shown is never found"
        )
    most = int(objects.argmax())
    rare = [
        f"{classes.names[index]} ({objects[index]})"
        for index in np.argsort(objects, kind="stable")
        if 0 < objects[index] * _IMBALANCE < objects[most]
    ]
    if rare:
        found.append(
            f"strong imbalance: {classes.names[most]} has {objects[most]} training objects, and less than "
            f"1/{_IMBALANCE} of that have {some_of(rare, _SHOWN)}; label more images that show these, show them more "
            "often (data.repeat_threshold), or expect a low AP of them"
        )
    return found


class _Row(NamedTuple):
    name: str
    number: int
    train: LabelCount
    val: LabelCount


def _labels(run: Trainer) -> Iterator[str]:
    """Write ``labels.csv``, and give the lines of the same table for reading."""
    training, validation = (
        count_labels(records, len(run.classes)) for records in (run.train_records, run.val_records)
    )
    classes = run.classes
    rows = [_Row(*row) for row in zip(classes.names, classes.ids, training, validation, strict=True)]
    path = run.folder / LABELS
    with (
        run_state.trying_to_write(path, "the training goes on without it"),
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["class", "id", "train_objects", "train_images", "val_objects", "val_images"])
        for row in rows:
            writer.writerow([row.name, row.number, *row.train[:2], *row.val[:2]])
    rows.sort(key=lambda row: -row.train.objects)
    half = _ROWS // 2
    shown = rows if len(rows) <= _ROWS else [*rows[:half], *rows[-half:]]
    width = max(len("class"), *(len(row.name) for row in shown))
    yield f"{'class':{width}}  objects  images  validation objects"
    for place, row in enumerate(shown):
        if place == half and len(rows) > _ROWS:
            yield f"... {len(rows) - _ROWS} classes more in {run.folder / LABELS}"
        yield f"{row.name:{width}}  {row.train.objects:7}  {row.train.images:6}  {row.val.objects:18}"


def write_samples(run: Trainer) -> int:
    """Draw training samples with their boxes and names, as the loader yields them, into ``samples.png``.

    They come from the run's augmented phases, half from each, or from the plain one if there is no other; each
    sample is one that the run will train on.

    Returns:
        How many: 16, or as many as the run has; 0 if the file cannot be written.
    """
    epochs = range(run.config.train.epochs or 1)
    by_phase: dict[Phase, list[int]] = {}
    for epoch in epochs:
        by_phase.setdefault(phase(run.config, epoch), []).append(epoch)
    augmented: list[Phase] = [kind for kind in by_phase if kind != "plain"] or ["plain"]
    pictures, captions = [], []
    for kind in augmented:
        share = _PICTURES // len(augmented)
        for epoch in by_phase[kind]:
            for batch in run.loader.preview(epoch, kind, share):
                share -= len(batch)
                for place, image_id in enumerate(batch.image_ids):
                    pictures.append(draw_sample(batch, place, run.classes))
                    captions.append(f"epoch {epoch + 1}, {kind}: {image_id}")
            if not share:
                break
    sheet = contact_sheet(pictures, cell=_SIDE, captions=captions)
    path = run.folder / SAMPLES
    with run_state.trying_to_write(path, "the training goes on without it"), replacing(path) as temporary:
        sheet.save(temporary, format="PNG", compress_level=1)  # twice as fast
        return len(pictures)
    return 0


def draw_sample(batch: Batch, place: int, classes: Classes) -> Image.Image:
    """An image of a batch with its targets drawn; larger or smaller than it is, so that names can be read."""
    picture = Image.fromarray(shown(batch.images[place].permute(1, 2, 0).contiguous().numpy()))
    factor = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    centres, sides = batch.targets.boxes[place].numpy().reshape(-1, 2, 2).swapaxes(0, 1)
    boxes_xyxy = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1) * np.array([*size, *size])
    indices = batch.targets.labels[place].numpy()
    found = Detections(
        boxes_xyxy.astype(np.float32),
        np.ones(len(indices), np.float32),
        np.array([classes.ids[index] for index in indices], np.int64),
        [classes.names[index] for index in indices],
        indices,
    )
    return annotate(picture.resize(size, Image.Resampling.BICUBIC), found, scores=False)


def check_space(run: Trainer) -> None:
    """Refuse a run that the disk cannot hold.

    Raises:
        DiskSpaceError: with the bytes that are needed and those that are free.
    """
    place = run.folder.absolute()
    while not place.exists():
        place = place.parent
    files = ("best.safetensors", "last.safetensors", run_state.FILE, run_state.FORMER)
    there = sum((run.folder / name).stat().st_size for name in files if (run.folder / name).exists())
    needed, free = needed_bytes(run) - there, shutil.disk_usage(place).free
    if needed > free:
        raise DiskSpaceError(
            f"the run needs {_megabytes(needed)} for its checkpoints and its resumable state, and the disk of "
            f"{run.folder} has {_megabytes(free)} free; free some space, or choose another disk with --out"
        )


def needed_bytes(run: Trainer) -> int:
    """The most that a run's folder takes at any moment: two checkpoints, and three states while one is replaced."""
    weights = sum(value.nbytes for value in run.model.state_dict().values())
    beside = [*run.criterion.state_dict().values(), *run.companions.state_dict().values()]
    learned = [one for group in run.optimizer.param_groups for one in group["params"] if one.requires_grad]
    moments = 2 * sum(one.nbytes for one in learned)  # AdamW's two
    state = 2 * weights + sum(value.nbytes for value in beside) + moments  # with the averaged weights
    return 2 * weights + 3 * state + _BESIDE


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.0f} MB ({number} bytes)"
