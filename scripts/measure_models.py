"""Write src/flexdetr/model_sizes.json, so that ``flexdetr models`` needs no torch; a test measures again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from flexdetr.model.size import measure
from flexdetr.presets import PRESETS

_TARGET = Path(__file__).parents[1] / "src" / "flexdetr" / "model_sizes.json"


def main() -> None:
    """Measure every preset with 80 classes at its own image size."""
    sizes = {}
    for name, config in PRESETS.items():
        size = measure(config)
        sizes[name] = {"params": size.params, "gflops": round(size.gflops, 3)}
        logging.info("%s: %s", name, size)
    _TARGET.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
