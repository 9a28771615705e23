"""Post-training quantisation to int8 with NNCF, and what stays in float by rule."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from torch import nn

from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm

_INSIDE = "detector."
# Norms, and attention's products with its softmax, compute in float in any case: eight bits in front of them would cost
# accuracy and save nothing.
_FLOAT = re.compile(r".*\.(([a-z]+_)*norm\d*|attention)")


def stays_float(form: DeployForm, path: str, kept: Collection[str] = ()) -> bool:
    """Whether a module's operations stay in float.

    The path is one in the deploy form, like "detector.head.boxes.2"; ``kept`` parts stay in float beyond the
    rule, like "backbone.stages.0".
    """
    inside = path.removeprefix(_INSIDE)
    return (
        form.is_sensitive(path)
        or _FLOAT.fullmatch(path) is not None
        or any(inside == part or inside.startswith(part + ".") for part in kept)
    )


def int8_layers(form: DeployForm, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Paths, in the detector, of the convolutions and linear layers that compute in int8."""
    return tuple(
        path
        for path, layer in form.detector.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and not stays_float(form, _INSIDE + path, kept)
    )


def quantise(
    graph: Any,  # noqa: ANN401 - openvino.Model or onnx.ModelProto
    form: DeployForm,
    owners: Mapping[str, str],
    calibration: CalibrationPictures,
    kept: Collection[str] = (),
    *,
    for_ranking: bool = False,
) -> Any:  # noqa: ANN401 - of the same type
    """An int8 copy of a float graph.

    Args:
        graph: the graph.
        form: the float32 form that it was written from.
        owners: name of an operation -> path of the module that it came from.
        calibration: pictures to measure ranges on.
        kept: parts of the detector that stay in float beyond the rule.
        for_ranking: leave weights and biases as they are, so that single quantisers can be taken out again.

    Raises:
        ExportError: if NNCF cannot quantise the graph.
    """
    with _quiet():
        import nncf  # takes seconds, and only int8 needs it
    names = [name for name, path in owners.items() if stays_float(form, path, kept)]
    # CPUs without VNNI add pairs of products in 16 bits, which overflow at 8 bits a weight: half of the range is used,
    # so that a file answers the same on all of them.
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    if for_ranking:
        advanced.disable_bias_correction = True
        advanced.backend_params = {"compress_weights": False}
    try:
        with _quiet():
            return nncf.quantize(
                graph,
                nncf.Dataset(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(calibration),
                ignored_scope=nncf.IgnoredScope(names=names, validate=False),
                advanced_parameters=advanced,
            )
    except (RuntimeError, ValueError, TypeError, nncf.ValidationError) as error:
        raise ExportError(f"NNCF cannot bring this graph to int8: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws progress bars on stdout, which belongs to the answer, and its import complains about missing GPUs."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def parts_of(layers: Collection[str], count: int) -> dict[str, tuple[str, ...]]:
    """Layers grouped by where they are: the largest group is divided by its next name until there are enough.

    The groups may become a few more than ``count``.

    Returns:
        The path that a group's layers share -> the layers, in their order.
    """
    groups: dict[str, tuple[str, ...]] = {"": tuple(layers)} if layers else {}
    while groups and len(groups) < count:
        widest = max((path for path, members in groups.items()), key=lambda path: len(groups[path]))
        if len(groups[widest]) == 1:
            break
        members = groups.pop(widest)
        depth = widest.count(".") + 2 if widest else 1
        for member in members:
            path = ".".join(member.split(".")[:depth])
            groups[path] = (*groups.get(path, ()), member)
    order = {layer: place for place, layer in enumerate(layers)}
    return dict(sorted(groups.items(), key=lambda item: order[item[1][0]]))
