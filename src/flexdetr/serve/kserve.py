"""Requests and answers in the form of KServe's Open Inference Protocol, version 2.

A picture is one element of a BYTES tensor: base64 text, since JSON holds no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexdetr.classes import Classes
from flexdetr.runtime.detections import Detections
from flexdetr.serve.limits import RefusedError
from flexdetr.serve.uploads import decode_base64

INPUT = "image"
OUTPUTS = (
    ("boxes", "FP32", [-1, 4]),
    ("scores", "FP32", [-1]),
    ("labels", "INT64", [-1]),
    ("names", "BYTES", [-1]),
)


def describe(name: str, classes: Classes) -> dict[str, Any]:
    """A model's metadata: its inputs and outputs, with -1 for what varies."""
    return {
        "name": name,
        "platform": "flexdetr",
        "versions": ["1"],
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": one, "datatype": kind, "shape": shape} for one, kind, shape in OUTPUTS],
        "parameters": {"classes": classes.to_json()},
    }


def picture_of(document: Mapping[str, Any]) -> bytes:
    """The picture of an inference request.

    Raises:
        RefusedError: 400 where the request does not have the one input that there is.
    """
    wanted = (
        f"a request has one input {INPUT!r} of datatype BYTES and shape [1], whose data is one base64 text"
    )
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(400, f"{wanted}; got {_shown(inputs)}")
    (only,) = inputs
    data = only.get("data")
    if (only.get("name"), only.get("datatype"), only.get("shape")) != (INPUT, "BYTES", [1]):
        given = {key: only.get(key) for key in ("name", "datatype", "shape")}
        raise RefusedError(400, f"{wanted}; got {_shown(given)}")
    if not isinstance(data, list) or len(data) != 1:
        raise RefusedError(400, f"{wanted}; got data that is {type(data).__name__}")
    return decode_base64(data[0], "data[0]")


def answer(document: Mapping[str, Any], name: str, found: Detections) -> dict[str, Any]:
    """The answer to an inference request: boxes_xyxy in pixels, row by row, with scores, data-set ids and names."""
    values = {
        "boxes": np.round(found.boxes_xyxy.astype(np.float64), 3).reshape(-1).tolist(),
        "scores": np.round(found.scores.astype(np.float64), 6).tolist(),
        "labels": found.labels.tolist(),
        "names": found.names,
    }
    outputs = [
        {"name": one, "datatype": kind, "shape": [len(found), *shape[1:]], "data": values[one]}
        for one, kind, shape in OUTPUTS
    ]
    own = {"id": document["id"]} if isinstance(document.get("id"), str) else {}
    return {"model_name": name, "model_version": "1", **own, "outputs": outputs}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
