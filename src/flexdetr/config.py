"""The whole configuration of a run as frozen, checked values; no torch is imported here.

A configuration is a preset's architecture (see ``presets.py``), changed by a YAML file, changed by ``key.sub=value``
overrides, in this order. Unknown keys are refused, and the answer names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from flexdetr.config_data import DataConfig
from flexdetr.config_part import Part, shown
from flexdetr.config_values import (
    ConfigError,
    current_sections,
    merge,
    nearest,
    one_of,
    parse_names,
    parse_overrides,
    parse_size,
    read_yaml,
)
from flexdetr.engine.tracker_table import TRACKERS
from flexdetr.frozen import Frozen
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.model.fusion import FUSIONS
from flexdetr.model.heads import DEFAULT, HEADS, owners_of
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.model.inserts import INSERTS
from flexdetr.model.intra import INTRA

__all__ = [
    "BackboneConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "EncoderConfig",
    "LossConfig",
    "Part",
    "TrainConfig",
    "build",
    "known_keys",
    "merge",
    "nearest",
    "parse_overrides",
    "parse_size",
    "read_yaml",
    "to_yaml",
]


class BackboneConfig(Part):
    """Which backbone, and how it is trained. ``backbone=NAME`` is short for ``backbone.name=NAME``.

    Attributes:
        name: a row of the backbone table, ``timm/NAME``, or ``my_pkg.my_mod:factory``.
        options: keyword arguments of the backbone's factory.
        lr_mult: learning rate relative to the detector's; None takes the part's own (1 without pretrained weights).
        freeze_stem: keep the stem as it is.
        freeze_stages: keep this many of the first stages as they are.
        lr_decay: layer-wise rates: each stage learns at this share of the rate of the stage after it.
        freeze_norms: keep the batch-norm statistics and affine parameters as they are.
        weights: "auto" (what the run's ``weights`` says), or a backbone checkpoint file.
    """

    name: str = "hgnetv2_b4"
    options: Frozen[Mapping[str, Any]] = Field(default_factory=dict)
    lr_mult: float | None = Field(default=None, ge=0, le=100)
    lr_decay: float = Field(default=1.0, gt=0, le=1)
    freeze_stem: bool = False
    freeze_stages: int = Field(default=0, ge=0, le=100)
    freeze_norms: bool = False
    weights: str = "auto"


class EncoderConfig(Part):
    """The hybrid encoder: one intra-scale block on the coarsest level, then cross-scale fusion.

    Attributes:
        strides: of the levels, finest first; taken from the backbone, but by "lite", which makes all after the first.
        width: channels of every level.
        project: bring every level to ``width`` by a 1x1 convolution; without, levels keep the backbone's channels, as
            in YOLOv8.
        intra: intra-scale block: "aifi" (attention), "sppf", "gap" (DEIMv2's smallest) or "none".
        intra_layers: how many of them.
        ffn: hidden width of the intra-scale feed-forward network.
        heads: attention heads.
        fusion: cross-scale block: "csprep" (RT-DETR), "gelan" (D-FINE), "gelan_sum", "gelan_lean" and "lite" (DEIMv2's
            small, large and smallest models), "ghost" (light), or "pan_c2f" (YOLOv8).
        expansion: hidden width of the fusion blocks relative to ``width``.
        depth: number of bottlenecks in a fusion block relative to the published three.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    width: int = Field(default=256, gt=0, le=4096)
    project: bool = True
    intra: Annotated[str, one_of(INTRA)] = "aifi"
    intra_layers: int = Field(default=1, ge=0, le=32)
    ffn: int = Field(default=1024, gt=0, le=32_768)
    heads: int = Field(default=8, gt=0, le=1024)
    fusion: Annotated[str, one_of(FUSIONS)] = "csprep"
    expansion: float = Field(default=1.0, gt=0, le=8)
    depth: float = Field(default=1.0, gt=0, le=8)

    @field_validator("strides")
    @classmethod
    def _strides_double(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        doubling = all(fine * 2 == coarse for fine, coarse in pairwise(strides))
        if not strides or not doubling or strides[0] < 1 or strides[-1] > 128:
            raise ValueError(
                f"strides must double from level to level, like [8, 16, 32], up to 128; got {shown(list(strides))}"
            )
        return strides

    @model_validator(mode="after")
    def _widths_fit(self) -> EncoderConfig:
        if int(self.width * self.expansion) < FUSIONS[self.fusion].least:
            raise ValueError(
                f"expansion {self.expansion} of width {self.width} leaves no channels; make either larger"
            )
        if not self.project and not FUSIONS[self.fusion].own_widths:
            able = ", ".join(name for name, row in FUSIONS.items() if row.own_widths)
            raise ValueError(
                f"fusion={self.fusion} needs levels of one width; set encoder.project=true, or encoder.fusion to one "
                f"of {able}"
            )
        check = INTRA[self.intra].check
        if check is not None:
            check(self)
        return self

    @property
    def backbone_strides(self) -> tuple[int, ...]:
        """Strides of the levels that the backbone gives."""
        return self.strides[: FUSIONS[self.fusion].takes]


class LossConfig(Part):
    """Matching costs and loss terms with their weights.

    Attributes:
        classification: "varifocal", "focal" or "mal".
        box: a name of the box-loss family, like "giou", "shape_iou", "inner_shape_iou", "wiou_v3".
        classification_weight: weight of the class loss.
        l1_weight: weight of the L1 loss on cxcywh fractions.
        box_weight: weight of the box loss.
        class_cost: the matcher's weight of the focal class cost.
        l1_cost: the matcher's weight of the L1 cost.
        box_cost: the matcher's weight of the box cost.
        matcher_box: the box loss whose value is the matcher's cost.
        encoder_copies: encoder tokens that answer for each object where queries are selected. One, as published,
            finds each object once; more give a detector from random weights more positives to learn from. None
            derives it in a run, and is one elsewhere.
        late_matcher: share of the run after which queries are matched by score and overlap alone (DEIMv2); None never.
        dense_auxiliary: train a dense head on the encoder's levels beside a head with queries (RT-DETRv3), whose
            supervision of every cell teaches the encoder; no checkpoint and no exported file holds it.
        dense_weight: weight of all that head's losses.
        box_options: keyword arguments of the box loss (ratio, scale, ...).
    """

    classification: Annotated[str, one_of(CLASS_LOSSES)] = "varifocal"
    box: str = "giou"
    classification_weight: float = Field(default=1.0, ge=0, le=1e4)
    l1_weight: float = Field(default=5.0, ge=0, le=1e4)
    box_weight: float = Field(default=2.0, ge=0, le=1e4)
    class_cost: float = Field(default=2.0, ge=0, le=1e4)
    l1_cost: float = Field(default=5.0, ge=0, le=1e4)
    box_cost: float = Field(default=2.0, ge=0, le=1e4)
    matcher_box: str = "giou"
    encoder_copies: int | None = Field(default=None, gt=0, le=1000)
    late_matcher: float | None = Field(default=None, ge=0, le=1)
    dense_auxiliary: bool = False
    dense_weight: float = Field(default=1.0, ge=0, le=1e4)
    box_options: Frozen[Mapping[str, float]] = Field(default_factory=dict)


class DistillConfig(Part):
    """A trained network that teaches the one that trains. ``distill=NAME`` is short for ``distill.teacher=NAME``.

    Attributes:
        teacher: a backbone with trained weights (a row of the backbone table, ``timm/NAME``, or its checkpoint file),
            which teaches its features; or a model of the same task, classes and image size (a preset with published
            weights, or a checkpoint file), which teaches its answers. None: nothing teaches.
        weight: of what it teaches; None finds it for features, see ``share``, and is 1 for answers.
        share: part of the gradient's norm at the encoder's deepest level that comes from a teacher of features.
        temperature: a classifier's logits are divided by it (arXiv 1503.02531).
    """

    teacher: str | None = None
    weight: float | None = Field(default=None, gt=0, le=1e4)
    share: float = Field(default=0.1, gt=0, lt=1)
    temperature: float = Field(default=1.0, gt=0, le=100)


class TrainConfig(Part):
    """The schedule and the machine. None means: derived from the data, and printed with the reason.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step, over all processes and micro-batches; "auto" finds the largest that fits.
        accumulate: micro-batches a step.
        lr: peak learning rate of the detector.
        weight_decay: AdamW's weight decay, off for norms, biases and affine blocks.
        warmup: share of the run during which the learning rate rises.
        warmup_power: the rate rises with this power of the step: 1 is linear, DEIM's 2 quadratic.
        flat: share of the run after which the learning rate falls (flat-cosine).
        fall_until: share of the run after which it stays at its lowest.
        final_lr: learning rate at the end relative to the peak.
        augment_from: share of the run before which there is no strong augmentation.
        augment_until: share of the run after which all strong augmentation stops.
        mosaic_until: share of the run after which mosaic, mixup and copy-blend stop.
        clip: largest gradient norm (0: none).
        ema: decay of the exponential moving average; None derives it from the number of steps.
        ema_horizon: updates over which the decay rises to ``ema``; None takes those that it averages over.
        eval_every: epochs between evaluations.
        patience: stop after this share of the run without a better AP; None never stops early.
        precision: "auto" takes bf16 wherever the device computes in it.
        device: "auto", "cpu", "cuda", "cuda:0", several GPUs like "cuda:0,1" with one process each, or "mps".
        processes: processes that share each batch; None takes one, or one for each GPU that ``device`` names.
        sync_norms: batch norms take their statistics over the images of all processes; without, each normalises by its
            own images, and only the running statistics are averaged.
        save_every: minutes between saves of the resumable state within an epoch; every epoch ends with one.
        report: write ``report.html`` at the end, and the best thresholds into the best checkpoint.
        stall: seconds without a step after which the run says where it hangs; 0 never does.
        channels_last: memory format of images and weights.
        compile: backbone and encoder with torch.compile; docs/how-to/long-runs.md says when that pays.
        tf32: on CUDA, multiply what is float32 with 10 bits of mantissa (TF32).
        cudnn_benchmark: on CUDA, let cuDNN try its algorithms on each shape and keep the fastest, instead of taking
            only those that give the same numbers in every run.
    """

    epochs: int | None = Field(default=None, gt=0, le=1_000_000)
    batch_size: Annotated[int, Field(gt=0, le=65_536)] | Literal["auto"] | None = None
    accumulate: int = Field(default=1, gt=0, le=65_536)
    lr: float | None = Field(default=None, gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    warmup: float | None = Field(default=None, ge=0, lt=1)
    warmup_power: float = Field(default=1.0, gt=0, le=10)
    flat: float = Field(default=0.5, ge=0, le=1)
    fall_until: float = Field(default=1.0, ge=0, le=1)
    final_lr: float = Field(default=0.05, ge=0, le=1)
    augment_from: float | None = Field(default=None, ge=0, le=1)
    augment_until: float = Field(default=0.85, ge=0, le=1)
    mosaic_until: float = Field(default=0.5, ge=0, le=1)
    clip: float = Field(default=0.1, ge=0, le=1e6)
    ema: float | None = Field(default=None, ge=0, lt=1)
    ema_horizon: float | None = Field(default=None, gt=0, le=1e9)
    eval_every: int | None = Field(default=None, gt=0, le=1_000_000)
    patience: float | None = Field(default=None, gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    processes: int | None = Field(default=None, gt=0, le=1024)
    sync_norms: bool = True
    save_every: float = Field(default=15.0, gt=0, le=1e6)
    report: bool = True
    stall: float = Field(default=900.0, ge=0, le=1e8)
    channels_last: bool = True
    compile: bool = False
    tf32: bool = False
    cudnn_benchmark: bool = False


# One section per head: ``name`` says which.
if TYPE_CHECKING:
    from flexdetr.model.heads import HeadOptions as HeadOptions
else:
    _SECTIONS = Union[tuple(row.options for row in HEADS.values())]  # noqa: UP007 - made from the table
    HeadOptions = Annotated[_SECTIONS, Field(discriminator="name")] if len(HEADS) > 1 else _SECTIONS

Side = Annotated[int, Field(ge=0, le=8192)]
Insert = Annotated[str, one_of(INSERTS)]


class Config(Part):
    """Everything that makes a run.

    Attributes:
        model: the preset that the run starts from.
        image_size: (height, width) that the network sees, both divisible by 32, at most 8192.
        backbone: see BackboneConfig; a plain string is its name.
        encoder: see EncoderConfig.
        head: a section of ``flexdetr.model.heads``; a plain string is its name.
        attention: inserts by place: ``backbone.16``, after its stride-16 stage, or ``encoder.8``, after that level.
        pruned: channels of the layers that ``flexdetr prune`` has narrowed, by path; see ``flexdetr.model.pruned``.
        loss: see LossConfig.
        distill: see DistillConfig; a plain string is the teacher.
        data: see DataConfig.
        train: see TrainConfig.
        recipe: "auto" derives the schedule from the data; "coco", "dfine" and "deim": see ``flexdetr.recipes``.
        weights: "auto" (the published detector where the preset has one, else its trained backbone, else random; the
            run says which), "coco", "backbone", "none", or a checkpoint file.
        weights_part: which parts of a detector's weights are taken, like "backbone,encoder" where its head is another
            one; left out, all of them.
        seed: of everything random in the run.
        log: where a run's numbers go besides ``metrics.csv``: any of "tensorboard", "mlflow" and "wandb".
    """

    model: str = "custom"
    image_size: tuple[Side, Side] = (640, 640)
    backbone: BackboneConfig = BackboneConfig()
    encoder: EncoderConfig = EncoderConfig()
    head: HeadOptions = RTDETROptions()
    attention: Frozen[Mapping[str, Insert]] = Field(default_factory=dict)
    pruned: Frozen[Mapping[str, tuple[int, ...]]] = Field(default_factory=dict)
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    recipe: Literal["auto", "coco", "dfine", "deim"] = "auto"
    weights: str = "auto"
    weights_part: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**63)
    log: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """What the model does with a picture, a key of ``flexdetr.tasks.TASKS``: the head says it."""
        return HEADS[self.head.name].task

    def having(self, **sections: Mapping[str, object]) -> Self:
        """A copy with other values in its sections, like ``having(train={"epochs": 3})``; they are not checked."""
        changed = {name: getattr(self, name).model_copy(update=values) for name, values in sections.items()}
        return self.model_copy(update=changed)

    @field_validator("log", mode="before")
    @classmethod
    def _known_log(cls, value: object) -> object:
        return parse_names(value, TRACKERS, "log")

    @field_validator("weights_part", mode="before")
    @classmethod
    def _known_parts(cls, value: object) -> object:
        return parse_names(value, ("backbone", "encoder", "head"), "part")

    @field_validator("backbone", mode="before")
    @classmethod
    def _short_backbone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("distill", mode="before")
    @classmethod
    def _short_distill(cls, value: object) -> object:
        return {"teacher": value} if isinstance(value, str) else value

    @field_validator("head", mode="before")
    @classmethod
    def _short_head(cls, value: object) -> object:
        section = {"name": value} if isinstance(value, str) else value
        if not isinstance(section, Mapping):
            return section
        name = section.get("name", DEFAULT)
        if not isinstance(name, str) or name not in HEADS:
            raise ValueError(nearest(str(name), HEADS, "head"))
        return {**section, "name": name}

    @field_validator("image_size", mode="before")
    @classmethod
    def _short_size(cls, value: object) -> object:
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError("image_size is one number, or height and width")
        return parse_size(value) if isinstance(value, int | str) else value

    @field_validator("image_size")
    @classmethod
    def _divisible(cls, size: tuple[int, int]) -> tuple[int, int]:
        if any(side <= 0 or side % 32 for side in size):
            raise ValueError(f"image_size must be divisible by 32 on both sides; got {size[0]}x{size[1]}")
        return size

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        self.head.check_levels(self.encoder.strides)
        return self


def build(values: Mapping[str, Any]) -> Config:
    """A checked configuration from nested values.

    Raises:
        ConfigError: naming each wrong key with the nearest right one, and each wrong value.
    """
    try:
        return Config.model_validate(current_sections(values))
    except ValidationError as error:
        # Where a key takes several kinds of values, there is a problem for each kind: one line for all.
        reasons: dict[str, list[str]] = {}
        for problem in error.errors():
            unknown = problem["type"] == "extra_forbidden"  # then the sentence says the key
            reasons.setdefault("" if unknown else _key(problem["loc"]), []).append(_explain(problem))
        lines = (
            f"{key}: {'; or '.join(dict.fromkeys(each))}" if key else "\n".join(each)
            for key, each in reasons.items()
        )
        raise ConfigError("\n".join(lines)) from None


# Sections whose keys are not ours to list.
_OPEN = ("attention", "pruned", "backbone.options", "loss.box_options", "data.class_weights")


def _key(location: Sequence[int | str]) -> str:
    """The dotted key of a problem, without the names that pydantic gives to alternatives."""
    key = ""
    known = {*known_keys()}
    for part in _without_tag(location):
        longer = f"{key}.{part}" if key else str(part)
        if longer not in known and key not in ("", *_OPEN):
            break
        key = longer
    return key


def _without_tag(location: Sequence[int | str]) -> Sequence[int | str]:
    """A problem's place without the head's name that pydantic puts behind ``head``."""
    tagged = len(location) > 1 and location[0] == "head" and location[1] in HEADS
    return (location[0], *location[2:]) if tagged else location


def _explain(problem: Any) -> str:  # noqa: ANN401 - pydantic's own error dictionary
    if problem["type"] == "extra_forbidden":
        place = _without_tag(problem["loc"])
        if len(place) == 2 and place[0] == "head" and (owners := owners_of(str(place[1]))):
            return (
                f"head.{place[1]}: this head has no such option; {' and '.join(map(repr, owners))} "
                f"{'has' if len(owners) == 1 else 'have'} it"
            )
        return nearest(".".join(map(str, place)), [*known_keys()], "key")
    if problem["type"] == "unknown_name":
        return str(problem["msg"])
    if problem["type"] == "literal_error":
        expected = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        if (
            len(expected) == 1 and not shown(problem["input"]).strip("'").isalpha()
        ):  # beside numbers, like "auto"
            return expected[0]
        return nearest(shown(problem["input"]).strip("'"), expected, "value")
    message = problem["msg"].removeprefix("Value error, ")
    whole_section = isinstance(problem["input"], Mapping) and problem["type"] == "value_error"
    return message if whole_section or not problem["loc"] else f"{message} (got {shown(problem['input'])})"


def known_keys(section: type[Part] = Config, prefix: str = "") -> Iterable[str]:
    """Every dotted key that a configuration may hold."""
    for name, info in section.model_fields.items():
        yield prefix + name
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Part):
            yield from known_keys(annotation, f"{prefix}{name}.")
        elif name == "head" and section is Config:
            yield from dict.fromkeys(
                key for row in HEADS.values() for key in known_keys(row.options, "head.")
            )


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``read_yaml`` and ``build`` take back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
