"""Builds the graphs of ``flexdetr export --format onnx --target rockchip`` for a Rockchip NPU, and simulates them.

    python rknn_build.py best-onnx-rockchip rk3588 [PICTURE]

It writes ``encode.rknn`` and ``decode.rknn`` beside the graphs. rknn-toolkit2 wants an older torch than FlexDETR, and
so an environment of its own, see README.md. The simulator computes as the NPU does, in half precision. The largest
differences from onnxruntime in float32 are printed; the exit status is 1 where a score is off by more than 0.02, or a
box by more than a hundredth of the picture.
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


def build(graph: Path, board: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Write the graph for the board, and run it on the simulator."""
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
        return rknn.inference(inputs=inputs, data_format="nchw" if inputs[0].ndim == 4 else None)
    finally:
        rknn.release()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Scores."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def main(folder: Path, board: str, picture: str | None) -> int:
    """Build both graphs; the decoder is fed with what onnxruntime chose, so that each is judged by itself."""
    height, width = json.loads((folder / "metadata.json").read_text())["input"]["size"]
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
    memory, tokens, scores, boxes = encode.run(None, {"image": planes})
    content, reference = host.choose(tokens, scores, boxes, decode.get_inputs()[0].shape[1])
    expected = decode.run(None, {"content": content, "reference": reference, "memory": memory})
    found = build(folder / "encode.onnx", board, [planes])
    drift = {
        "encode score": np.abs(sigmoid(found[2].reshape(scores.shape)) - sigmoid(scores)).max(),
        "encode box": np.abs(found[3].reshape(boxes.shape) - boxes).max(),
    }
    found = build(folder / "decode.onnx", board, [content, reference, memory])
    drift["decode score"] = np.abs(sigmoid(found[0].reshape(expected[0].shape)) - sigmoid(expected[0])).max()
    drift["decode box"] = np.abs(found[1].reshape(expected[1].shape) - expected[1]).max()
    print(json.dumps({name: float(value) for name, value in drift.items()}))
    return int(any(value > (SCORE if "score" in name else BOX) for name, value in drift.items()))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: rknn_build.py ARTIFACT rk3588|rk3568|... [PICTURE]")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
