"""How graphs spell the suppression of a dense head's boxes: ONNX's and OpenVINO's own operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from flexdetr.model.suppression import multiclass_nms  # noqa: F401 - registers the operation that is translated

_NAME = "flexdetr::multiclass_nms"


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operation in ONNX, for the table of ``torch.onnx.export``."""
    from onnxscript import opset18

    op: Any = opset18

    def spelled(boxes_xyxy: Any, scores: Any, top: int, iou: float, score: float) -> Any:  # noqa: ANN401 - values of a graph
        return op.NonMaxSuppression(
            boxes_xyxy,
            scores,
            op.Constant(value_ints=[top]),
            op.Constant(value_floats=[iou]),
            op.Constant(value_floats=[score]),
        )

    return {torch.ops.flexdetr.multiclass_nms.default: spelled}


def openvino_extension() -> Any:  # noqa: ANN401 - OpenVINO's own type
    """The operation in OpenVINO, for ``convert_model``."""
    from openvino import opset13 as op
    from openvino.frontend.pytorch import ConversionExtension

    def spelled(context: Any) -> Any:  # noqa: ANN401 - OpenVINO's own type
        boxes_xyxy, scores = context.get_input(0), context.get_input(1)
        top, iou, score = (context.get_values_from_const_input(i) for i in (2, 3, 4))
        found = op.non_max_suppression(
            boxes_xyxy,
            scores,
            op.constant(np.int64(top)),
            op.constant(np.float32(iou)),
            op.constant(np.float32(score)),
            box_encoding="corner",
            sort_result_descending=False,
            output_type="i64",
        )
        # Where a device answers with a fixed number of rows, the third output says how many are real.
        count = op.reshape(found.output(2), op.constant(np.array([1], np.int64)), special_zero=False)
        first = op.constant(np.array([0], np.int64))
        rows = op.slice(found.output(0), first, count, op.constant(np.array([1], np.int64)), first)
        return rows.outputs()

    return ConversionExtension(_NAME, spelled)
