"""Large training images as the tiles that a detector will look at, so that small objects keep their pixels.

After the slicing aided fine-tuning of Akyon, Altinuc and Temizel (2022); the tiles are those of ``predict --slice``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from flexdetr.config import DataConfig
from flexdetr.data.dataset import Record
from flexdetr.runtime.slicing import Slicing, Tile, tiles

# Of a cut object, smaller pieces are no targets: their class could not be told.
_LEAST_SIDE = 2.0


def tiled(records: Sequence[Record], config: DataConfig, seed: int) -> tuple[Record, ...]:
    """The records of a training, each image that is larger than a tile as its tiles.

    Without ``config.tiles`` the records stay as they are; ``seed`` decides which tiles without an object are
    kept.

    Returns:
        Records with a ``window`` for the tiles, and images that are one tile as they were. A cut object belongs to each
        tile that shows at least ``tile_visible`` of its area; crowd regions to each that they reach into.
    """
    if config.tiles is None:
        return tuple(records)
    cut = [list(_tiles(record, config)) for record in records]
    every = [one for own in cut for one in own]
    empty = [place for place, one in enumerate(every) if one.window is not None and one.iscrowd.all()]
    order = np.random.default_rng(seed).permutation(len(empty))
    dropped = {empty[place] for place in order[round(config.tile_empty * len(empty)) :]}
    kept = tuple(one for place, one in enumerate(every) if place not in dropped)
    return kept or tuple(every)


def all_tiles(records: Sequence[Record], config: DataConfig) -> tuple[Record, ...]:
    """The records that a training is evaluated on: as ``tiled``, with every tile that has no object."""
    return tiled(records, config.model_copy(update={"tile_empty": 1.0}), 0)


def _tiles(record: Record, config: DataConfig) -> Iterator[Record]:
    slicing = Slicing(config.tiles or 0, config.tile_overlap)
    places = tiles(record.height, record.width, slicing)
    if len(places) == 1:
        yield record
        return
    for place in places:
        yield part(record, place, config.tile_visible)
    if config.tile_whole:
        yield record


def part(record: Record, tile: Tile, least_visible: float) -> Record:
    """What of a record lies in a tile.

    An object is the tile's from the share ``least_visible`` of its area on.
    """
    corner = np.array([tile.left, tile.top] * 2, np.float32)
    limits = np.array([tile.right - tile.left, tile.bottom - tile.top] * 2, np.float32)
    moved = record.boxes_xyxy - corner
    clipped = np.clip(moved, 0, limits)
    sides, whole = clipped[:, 2:] - clipped[:, :2], (moved[:, 2:] - moved[:, :2]).prod(axis=1)
    share = sides.prod(axis=1) / np.maximum(whole, 1e-9)
    # An object that is smaller than that as a whole is a target where it is whole.
    large = (sides >= np.minimum(_LEAST_SIDE, moved[:, 2:] - moved[:, :2])).all(axis=1)
    keep = np.where(record.iscrowd, share > 0, (share >= least_visible) & large & (share > 0))
    return replace(
        record,
        image_id=f"{record.image_id}@{tile.left},{tile.top}",
        width=int(limits[0]),
        height=int(limits[1]),
        boxes_xyxy=clipped[keep],
        labels=record.labels[keep],
        iscrowd=record.iscrowd[keep],
        areas=record.areas[keep] * share[keep].astype(np.float32),
        window=(tile.left, tile.top, tile.right, tile.bottom),
    )
