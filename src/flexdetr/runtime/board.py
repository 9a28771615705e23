"""Artifacts for boards, in two graphs with the choice of queries between them, run on onnxruntime to check them."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.feeds import check_feeds
from flexdetr.runtime.host import choose

ENCODE, DECODE = "encode.onnx", "decode.onnx"


class BoardRuntime:
    """Runs both graphs of an artifact that was exported with ``--target``, picture by picture.

    Args:
        artifact: of format "board".
        device: "auto" or "cpu".
        hint: taken for the same call as the other runtimes.
        threads: CPU threads; None takes all cores.

    Attributes:
        parallel: pictures worked on at a time.

    Raises:
        ArtifactError: where onnxruntime cannot read a file, or has no such device.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "auto",
        hint: Literal["latency", "throughput"] = "latency",
        threads: int | None = None,
    ) -> None:
        del hint
        if device not in ("auto", "cpu"):
            raise ArtifactError(f"onnxruntime has no device {device!r} here; it has: cpu")
        self.artifact = artifact
        self.parallel = 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 3
        self._encode, self._decode = (self._open(name, options) for name in (ENCODE, DECODE))
        self._queries = int(self._decode.get_inputs()[0].shape[1])

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        return "onnxruntime on CPU, two graphs"

    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the graphs.

        Args:
            images: (B, H, W, 3) uint8 RGB in the network's size.
            sizes: not used: the graphs answer fractions.

        Returns:
            Logits (B, Q, C) and cxcywh boxes (B, Q, 4) as fractions.

        Raises:
            FeedError: where the pictures do not fit.
        """
        pictures, _ = check_feeds(images, sizes, self.artifact.metadata.input)
        answers = [self._one(picture) for picture in pictures]
        return tuple(np.concatenate(part) for part in zip(*answers, strict=True))

    def _one(self, picture: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
        memory, tokens, scores, boxes = self._encode.run(None, {"image": planes})
        content, reference = choose(tokens, scores, boxes, self._queries)
        logits, boxes = self._decode.run(None, {"content": content, "reference": reference, "memory": memory})
        return logits, boxes

    def _open(self, name: str, options: Any) -> Any:  # noqa: ANN401 - onnxruntime has no types
        path = self.artifact.path / name
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base of their own
            raise ArtifactError(f"{path} cannot be used by onnxruntime: {error}") from error
