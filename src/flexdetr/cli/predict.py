"""The verb ``predict``: annotated pictures, lines as they are found, a COCO document, a result list and a CSV file."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers, refusals
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.evaluate import (
    Device,
    File,
    Iou,
    Layers,
    MaxDetections,
    Precision,
    Queries,
    Runtime,
    Score,
    given,
    of_head,
)
from flexdetr.cli.frames import Draw, End, Every, Reconnect, Show, Start, Window, check_drawn, part_of
from flexdetr.cli.rayed import Actors, Address, Engine, PartitionSize, RayRun, check_local, find_with_ray
from flexdetr.cli.shards import Share, shard_of
from flexdetr.cli.tiles import Merge, Overlap, Side, in_tiles

if TYPE_CHECKING:
    from flexdetr.cli.results import Results
    from flexdetr.engine.explain import Explanation
    from flexdetr.runtime.detections import Detections
    from flexdetr.runtime.films import Part
    from flexdetr.runtime.sources import Item, Picture, Unreadable
    from flexdetr.runtime.thresholds import Threshold

# Pictures whose gain of a part of a second each is more than the seconds that a conversion takes.
_WORTH_CONVERTING = 100
# Rows of the table that is shown; of more pictures, and of films and cameras, the classes are counted.
_SHOWN = 1000


def predict(
    context: typer.Context,
    file: File,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, globs, videos, http(s) and rtsp addresses, a camera's number, or - (stdin).",
        ),
    ],
    threshold: Annotated[
        str,
        typer.Option(metavar="T|auto", help="Lowest score to keep; auto: each class's best one, from FILE."),
    ] = "0.4",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("runs/predict"),
    device: Device = "auto",
    precision: Precision = None,
    runtime: Runtime = "auto",
    decoder_layers: Layers = None,
    queries: Queries = None,
    score: Score = None,
    iou: Iou = None,
    max_detections: MaxDetections = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="The data set of the pictures, whose ids the COCO files then have."
        ),
    ] = None,
    every: Every = 1,
    start: Start = "0",
    end: End = None,
    reconnect: Reconnect = 5,
    draw: Draw = "auto",
    show: Show = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="coco|yolo|csv|jsonl|parquet|label-studio|cvat",
            help="Write this too; may be repeated. coco, csv and jsonl are always written; yolo, label-studio and "
            "cvat are labels to correct.",
        ),
    ] = None,
    explained: Annotated[
        bool,
        typer.Option(
            "--explain", help="Also show where each object's query looked, in the folder explained."
        ),
    ] = False,
    share: Share = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    partition: PartitionSize = 1000,
    tile: Side = None,
    overlap: Overlap = 0.2,
    merge: Merge = "nms",
    upright: Annotated[
        Path | None,
        typer.Option(
            "--upright",
            metavar="DIR",
            help="Write the pages of documents turned upright to DIR (a model of --task orientation).",
        ),
    ] = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Find objects: annotated pictures and detections.jsonl as it goes, then COCO files and a CSV file.

    A classifier tells what each picture shows: classes.jsonl and classes.csv.
    """
    from flexdetr.classifier import Classifier
    from flexdetr.cli.classified import predict_classes
    from flexdetr.cli.pre_annotations import chosen
    from flexdetr.cli.results import Results, known_images, make_folder
    from flexdetr.cli.uprighted import set_upright
    from flexdetr.loading import load

    # What can be refused is, before a model is loaded.
    _refuse_unused(context, upright, tile)
    limit = _limit(threshold)
    part = part_of(every, start, end, reconnect)
    check_drawn(draw)
    asked = chosen(formats or [])
    _check_explaining(file, tile, draw, explained=explained)
    shard = None if share is None else shard_of(share)
    window = Window() if show else None
    _check_artifact(file)
    options = given(device=device, precision=precision)
    if upright is not None:
        set_upright(file, runtime, sources, upright, limit, options, as_json=as_json)
        return
    if engine == "ray":
        find_with_ray(
            RayRun(file, sources, out, limit, address, actors, partition),
            device=device != "auto",
            precision=precision is not None,
            runtime=runtime != "auto",
            data=data is not None,
            slice=tile is not None,
            shard=shard is not None,
            explain=explained,
            show=show,
            format=bool({*asked} - {"parquet"}),
            as_json=as_json,
        )
        return
    check_local(address, actors)
    items, missing = _listed(sources, out, part)
    _refuse_of_frames(context, items)
    if shard is not None:
        listed, items = len(items), items[shard.number :: shard.total]
        missing, out = missing if shard.number == 0 else [], out / shard.name
        answers.note(f"share {shard.number} of {shard.total}: {len(items)} of {listed} sources, into {out}")
    new = make_folder(out)
    try:
        head = of_head(
            eval_layers=decoder_layers, queries=queries, score=score, iou=iou, max_detections=max_detections
        )
        loaded = load(file, runtime=runtime, **head)
        if isinstance(loaded, Classifier):
            _refuse_of_classifier(context, file, asked)
            predict_classes(loaded, items, missing, out, options, as_json=as_json)
            return
        known = None if data is None else known_images(data)
        detector = in_tiles(loaded, tile, overlap, merge)
        explain = _explaining(detector, limit, options, explained=explained)
        how = detector.computation(items=items, **options)
        answers.note(f"computing with {how.describe()}")
        if how.runtime.startswith("PyTorch") and how.device == "cpu" and _many(items):
            answers.note(
                "for so many pictures --runtime openvino is faster: it converts the checkpoint first"
            )
        answered = detector.predict_many(items, limit, **options)
        results = Results(out, detector.classes, how, known)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # something is in it
                out.rmdir()
        raise
    for name, reason in missing:
        results.fail(name, reason)
    try:
        rows, interrupted = _write_all(results, answered, items, draw, window, explain)
    finally:
        if window is not None:
            window.close()
    results.finish(asked)
    if results.unknown:
        answers.note(
            f"{results.unknown} pictures do not belong to {data}, and are left out of the COCO files"
        )
    _show(results, rows, as_json=as_json)
    if results.failed or interrupted:
        raise typer.Exit(130 if interrupted else 1)


def _check_artifact(file: str) -> None:
    """Refuse a damaged artifact at once; anything else is no matter of this."""
    from flexdetr.runtime.artifact import is_artifact, open_artifact

    if is_artifact(file):
        open_artifact(file, verify=False)


def _listed(sources: list[str], out: Path, part: Part) -> tuple[list[Item], list[tuple[str, str]]]:
    """What is to be read, and what leads nowhere, with the reasons.

    Raises:
        UsageError: if results would take the places of pictures.
        Exit: if nothing is left to read.
    """
    from flexdetr.runtime.sources import Missing, find

    found = find(sources, leave_out=out, part=part)
    place = out.resolve()
    if any(isinstance(one.content, Path) and one.content.parent.resolve() == place for one in found):
        raise answers.UsageError(f"--out {out} holds the pictures themselves, which would be overwritten")
    items = [item for item in found if not isinstance(item.content, Missing)]
    missing = [(item.name, item.content.reason) for item in found if isinstance(item.content, Missing)]
    if not items:
        for _, reason in missing:
            answers.note(f"Error: {reason}")
        raise typer.Exit(1)
    return items, missing


def _write_all(
    results: Results,
    answered: Iterator[tuple[Picture, Detections] | Unreadable],
    items: Sequence[Item],
    draw: str,
    window: Window | None,
    explain: Callable[[Any], Explanation] | None,
) -> tuple[list[tuple[str, int, str]], bool]:
    """Write answers as they come: rows of the table, one more than is shown at most, and whether it was interrupted."""
    from flexdetr.draw import draw_detections
    from flexdetr.runtime.sources import Unreadable, is_live

    live = tuple(f"{item.name}#" for item in items if is_live(item))
    rows: list[tuple[str, int, str]] = []
    try:
        with answers.counting("predicting") as show_count:
            for number, answer in enumerate(answered, start=1):
                if isinstance(answer, Unreadable):
                    results.fail(answer.name, answer.reason)
                else:
                    picture, found = answer
                    of_film = draw == "film" or (draw == "auto" and not picture.name.startswith(live))
                    of_film = of_film and explain is None  # each frame has a map of its own
                    line = results.add(picture, found, draw=draw != "none", film=of_film)
                    if explain is not None and line["picture"] is not None:
                        results.add_explained(line["picture"], explain(picture.image).plot())
                    if len(rows) <= _SHOWN:
                        rows.append((picture.name, len(found), _summary(Counter(found.names))))
                    if window is not None and not window.show(draw_detections(picture.image, found)):
                        break
                show_count(number, len(items))
    except KeyboardInterrupt:  # the only end that a camera has
        return rows, True
    return rows, False


def _show(results: Results, rows: Sequence[tuple[str, int, str]], *, as_json: bool) -> None:
    if as_json:
        from flexdetr.cli.results import write_json

        answered = ({**line} for line in results.lines() if "objects" in line)
        failed = (line for line in results.lines() if "error" in line)
        document = {
            "computation": results.how.to_json(),
            "images": answered,
            "failed": failed,
            "out": str(results.out),
        }
        write_json(lambda text: typer.echo(text, nl=False), document)
        return
    if not results.pictures:
        answers.show(f"no picture could be read; {results.out / 'detections.jsonl'} has the reasons")
        return
    if len(rows) <= _SHOWN:
        answers.show_table(["file", "objects", "found"], rows)
    else:
        total = sum(results.counts.values())
        answers.show(f"{results.pictures:,} pictures, {total:,} objects: {_summary(results.counts)}")
    files = "detections.jsonl, detections.json, results.json and detections.csv"
    answers.show(f"pictures, {files}: {results.out}")


def _check_explaining(file: str, tile: int | None, draw: str, *, explained: bool) -> None:
    """Refuse ``--explain`` of what does not show where it looks, before any work."""
    from flexdetr.runtime.artifact import is_artifact

    if not explained:
        return
    if is_artifact(file):
        raise answers.UsageError(
            "--explain is for checkpoints: an exported file does not show where it looks"
        )
    if tile is not None:
        raise answers.UsageError("--explain goes without --slice: it looks at whole pictures")
    if draw in ("film", "none"):
        raise answers.UsageError(f"--explain needs annotated pictures; got --draw {draw}")


def _refuse_unused(context: typer.Context, upright: Path | None, tile: int | None) -> None:
    """Refuse options whose want of effect other options tell."""
    if upright is not None:
        refusals.refuse_others(
            context, refusals.OF_UPRIGHT, "not with --upright, which writes documents alone"
        )
    refusals.refuse_of_tiles(context, tile)


def _refuse_of_frames(context: typer.Context, items: Sequence[Item]) -> None:
    """Refuse options of films and streams where there is none among the sources."""
    from flexdetr.runtime.addresses import Address
    from flexdetr.runtime.sources import may_give_many

    given = refusals.typed(context)
    if any(name in given for name in refusals.OF_FRAMES) and not any(map(may_give_many, items)):
        refusals.refuse(
            context, refusals.OF_FRAMES, "only of films and streams, and the sources are pictures"
        )
    if not any(isinstance(item.content, Address) for item in items):
        refusals.refuse(context, refusals.OF_STREAMS, "only of addresses, and no source is one")


def _refuse_of_classifier(context: typer.Context, file: str, formats: Sequence[str]) -> None:
    """Refuse what a classifier does not do, and what its answers cannot be written as."""
    wrong = [f"--format {one}" for one in formats if one not in ("csv", "jsonl")]
    refusals.refuse(context, refusals.OF_DETECTORS, f"only of detectors; {file} is a classifier", wrong)


def _explaining(
    detector: Any,  # noqa: ANN401 - a detector
    limit: Threshold,
    options: Mapping[str, Any],
    *,
    explained: bool,
) -> Callable[[Any], Explanation] | None:
    """What shows where the queries look in a picture; None if it is not asked for."""
    if not explained:
        return None
    from flexdetr.engine.explain import looking_layers

    looking_layers(detector.model)
    return functools.partial(detector.explain, threshold=limit, **options)


def _many(items: Sequence[Item]) -> bool:
    """Whether there are so many pictures that converting a checkpoint for OpenVINO repays."""
    from flexdetr.runtime.sources import expects_many

    return len(items) >= _WORTH_CONVERTING or any(expects_many(item) for item in items)


def _limit(text: str) -> Threshold:
    """A score, or "auto"."""
    if text == "auto":
        return "auto"
    try:
        limit = float(text)
    except ValueError:
        limit = -1
    if not 0 <= limit <= 1:
        raise answers.UsageError(f"--threshold takes a score between 0 and 1, or auto; got {text!r}")
    return limit


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
