"""Write src/flexdetr/model_sizes.json, so that ``models`` and ``info PRESET`` need no torch; a test measures again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from flexdetr.model.size import measure
from flexdetr.presets import MODELS

_TARGET = Path(__file__).parents[1] / "src" / "flexdetr" / "model_sizes.json"


def main() -> None:
    """Measure every preset at its own image size: detectors with 80 classes, classifiers with 1000."""
    sizes = {}
    for name, config in MODELS.items():
        size = measure(config, 1000 if config.task == "classify" else 80)
        sizes[name] = {"params": size.params, "gflops": round(size.gflops, 3)}
        logging.info("%s: %s", name, size)
    _TARGET.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
