"""The section ``data`` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated

from pydantic import Field, field_validator

from flexdetr.config_part import Part
from flexdetr.frozen import Frozen
from flexdetr.pixel_form import PixelForm


class DataConfig(Part):
    """Reading the data and what is done to a training image.

    Attributes:
        channels: of the pictures: 3 is RGB, 1 grey, any other number as stored in TIFF or .npy.
        value_range: stored values [low, high] that become 0 and 255; None takes 16 bits by their high byte.
        skip_bad: go on without images and boxes that cannot be read.
        workers: loader processes; None takes what the machine has.
        val_fraction: share of the training images cut off where a data set has no validation split.
        photometric: probability of the photometric distortion; of other channels than RGB's there is none.
        zoom_out: probability of pasting the image on a larger canvas.
        iou_crop: probability of a crop that keeps some object above a drawn IoU.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        quarter_turn: probability of a turn by 90, 180 or 270 degrees.
        rotate: probability of a rotation by up to ``rotate_degrees`` either way.
        rotate_degrees: the largest angle of a rotation.
        blur: probability of a Gaussian blur, with a deviation of up to two pixels of the network's input.
        noise: probability of Gaussian noise, with a deviation of up to 15 of 255.
        transforms: code of yours that changes each image and its boxes first, as ``my_pkg.my_mod:factory``.
        mosaic: probability of a mosaic of four images, in the mosaic phase; None derives it.
        mixup: probability of blending two images, in the mosaic phase; None derives it.
        copy_blend: probability of blending objects of another image in, in the mosaic phase, where there was no mixup.
        multi_scale: draw the size of each batch around ``image_size``.
        cache: keep decoded images in memory; None decides by size.
        tiles: train, and be evaluated, on tiles of this side in pixels of images that are larger, like
            ``predict --slice``; None on whole images.
        tile_overlap: share of a tile that the next one repeats.
        tile_visible: least share of a cut object's area in a tile for it to be one of the tile's.
        tile_empty: share of the tiles without an object that is kept.
        tile_whole: train on the whole images too.
        repeat_threshold: show images with classes that a smaller share of the images has more often (repeat-factor
            sampling of LVIS, which takes 0.001); None shows every image once an epoch.
        class_weights: what the class loss of a class is multiplied by, by its name; 1 if none is given.
    """

    channels: int = Field(default=3, ge=1, le=1024)
    value_range: tuple[float, float] | None = None
    skip_bad: bool = False
    workers: int | None = Field(default=None, ge=0, le=1024)
    val_fraction: float = Field(default=0.15, gt=0, lt=1)
    photometric: float = Field(default=0.5, ge=0, le=1)
    zoom_out: float = Field(default=0.25, ge=0, le=1)
    iou_crop: float = Field(default=0.5, ge=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    vertical_flip: float = Field(default=0.0, ge=0, le=1)
    quarter_turn: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=1)
    rotate_degrees: float = Field(default=10.0, gt=0, le=45)
    blur: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, le=1)
    transforms: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    mosaic: float | None = Field(default=None, ge=0, le=1)
    mixup: float | None = Field(default=None, ge=0, le=1)
    copy_blend: float = Field(default=0.0, ge=0, le=1)
    multi_scale: bool = True
    cache: bool | None = None
    tiles: int | None = Field(default=None, ge=32, le=8192)
    tile_overlap: float = Field(default=0.2, ge=0, le=0.9)
    tile_visible: float = Field(default=0.3, ge=0, le=1)
    tile_empty: float = Field(default=0.2, ge=0, le=1)
    tile_whole: bool = True
    repeat_threshold: float | None = Field(default=None, gt=0, le=1)
    class_weights: Frozen[Mapping[str, Annotated[float, Field(gt=0, le=1e4)]]] = Field(default_factory=dict)

    @field_validator("value_range")
    @classmethod
    def _range_rises(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and not (isfinite(ends[0]) and isfinite(ends[1]) and ends[0] < ends[1]):
            raise ValueError("value_range is two numbers that rise, like [0, 4095]")
        return ends

    @property
    def colours(self) -> float:
        """The probability of the photometric distortion, which only RGB has."""
        return self.photometric if self.channels == 3 else 0.0

    @property
    def form(self) -> PixelForm:
        """What a picture's pixels become."""
        return PixelForm(self.channels, self.value_range)
