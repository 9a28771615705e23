"""Builds the graphs of ``flexdetr export --format onnx --target rockchip`` for a Rockchip NPU, and simulates them.

    python rknn_build.py best-onnx-rockchip rk3588 [PICTURE]

It writes ``encode.rknn`` and ``decode.rknn`` beside the graphs. rknn-toolkit2 wants an older torch than FlexDETR, and
so an environment of its own, see README.md. The simulator computes as the NPU does, in half precision. Printed is how
far it is from onnxruntime in float32: each graph fed with the same values, for what scores above 0.3 or, where nothing
does, the ten best; and the detections of the whole, paired by class and overlap. The exit status is 1 where a score is
off by more than 0.02 or a box side by more than a hundredth of the picture, or where a detection is missing.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from rknn.api import RKNN

SCORE, BOX = 0.02, 0.01
FLOOR, BEST = 0.3, 10
Detections = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes xyxy, scores, labels


def build(graph: Path, board: str, feeds: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Write the graph for the board, and run it on the simulator: once for each of the inputs."""
    rknn = RKNN(verbose=False)
    try:
        rknn.config(target_platform=board)
        for what, status in (
            ("loaded", rknn.load_onnx(str(graph))),
            ("built", rknn.build(do_quantization=False)),
            ("written", rknn.export_rknn(str(graph.with_suffix(".rknn")))),
            ("simulated", rknn.init_runtime()),
        ):
            if status != 0:
                raise SystemExit(f"{graph} could not be {what}")
        layout = "nchw" if graph.stem == "encode" else None
        return [rknn.inference(inputs=inputs, data_format=layout) for inputs in feeds]
    finally:
        rknn.release()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Scores."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def apart(
    logits: np.ndarray, boxes: np.ndarray, expected_logits: np.ndarray, expected_boxes: np.ndarray
) -> tuple[float, float]:
    """Largest differences of a score and of a box side, over what scores high."""
    scores = sigmoid(expected_logits[0]).max(-1)
    counted = scores > FLOOR if (scores > FLOOR).any() else scores >= np.sort(scores)[-min(BEST, len(scores))]
    score = np.abs(sigmoid(logits.reshape(expected_logits.shape)) - sigmoid(expected_logits))[
        0, counted
    ].max()
    box = np.abs(boxes.reshape(expected_boxes.shape) - expected_boxes)[0, counted].max()
    return float(score), float(box)


def paired(found: Detections, expected: Detections) -> tuple[float, float, int, int]:
    """Largest differences of a score and of a box side, missing ones, and how many there should be."""
    score, box, missing = 0.0, 0.0, 0
    floor = min(FLOOR, np.sort(expected[1])[-min(BEST, len(expected[1]))])
    wanted = np.flatnonzero(expected[1] >= floor)
    for place in wanted:
        near = np.abs(found[0] - expected[0][place]).max(1)
        score_off = np.abs(found[1] - expected[1][place])
        likely = np.where(found[2] == expected[2][place], near + score_off, np.inf)
        best = int(likely.argmin())
        if near[best] > BOX or score_off[best] > SCORE:
            missing += 1
        else:
            score, box = max(score, float(score_off[best])), max(box, float(near[best]))
    return score, box, missing, len(wanted)


def main(folder: Path, board: str, picture: str | None) -> int:
    """Build both graphs; the decoder is fed with what onnxruntime chose, and with what the simulator chose."""
    metadata = json.loads((folder / "metadata.json").read_text())
    if metadata["suppression"] is not None:
        raise SystemExit(
            f"{folder} is a dense head's one graph: this example builds pairs with a choice between them"
        )
    height, width = metadata["input"]["size"]
    spec = importlib.util.spec_from_file_location("host", folder / "host.py")
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    if picture is None:
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    else:
        image = np.asarray(
            Image.open(picture).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        )
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    encode, decode = (
        onnxruntime.InferenceSession(str(folder / f"{name}.onnx")) for name in ("encode", "decode")
    )
    queries = decode.get_inputs()[0].shape[1]
    encoded = encode.run(None, {"image": planes})
    memory, tokens, scores, boxes = encoded
    content, reference = host.choose(tokens, scores, boxes, queries)
    expected = decode.run(None, {"content": content, "reference": reference, "memory": memory})

    (found,) = build(folder / "encode.onnx", board, [[planes]])
    if len(found) != len(encoded):  # it leaves out what does not depend on the picture
        raise SystemExit(
            f"{board}: the first graph gives {len(found)} of {len(encoded)} outputs, the others are constants: "
            "train the detector first"
        )
    found = [one.reshape(other.shape).astype(np.float32) for one, other in zip(found, encoded, strict=True)]
    own = [*host.choose(found[1], found[2], found[3], queries), found[0]]
    same, whole = build(folder / "decode.onnx", board, [[content, reference, memory], own])

    drift = {}
    drift["encode score"], drift["encode box"] = apart(found[2], found[3], scores, boxes)
    drift["decode score"], drift["decode box"] = apart(same[0], same[1], *expected)
    answers = [
        host.finish(logits.reshape(expected[0].shape)[0], boxes.reshape(expected[1].shape)[0], 1, 1)
        for logits, boxes in (whole, expected)
    ]
    drift["score"], drift["box"], missing, count = paired(*answers)
    print(json.dumps(drift | {"missing": missing, "detections": count}))
    return int(
        missing > 0 or any(value > (SCORE if "score" in name else BOX) for name, value in drift.items())
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: rknn_build.py ARTIFACT rk3588|rk3568|... [PICTURE]")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
