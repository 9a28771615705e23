"""Golden reference vectors (``golden/vectors``): rebuild a reference checkpoint, its input, and the reference's answer.

No tensor of a checkpoint is stored. Each one is drawn from a random generator seeded by its own name, so that a
checkpoint of any size is a short table (name, shape, kind) plus this file. Only numpy is needed, except by
`write` (torch or safetensors, for the containers that need them). See README.md for what every case is.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent / "golden" / "vectors"


def _normal(gain):
    return lambda g, shape: g.standard_normal(shape) * np.sqrt(gain / max(int(np.prod(shape[1:])), 1))


_DRAW = {
    "weight": _normal(1.5),  # convolutions, linears, attention projections: variance gain / fan-in
    "weight_mid": _normal(0.8),  # the same with less gain, where branches are summed
    "weight_low": _normal(0.2),
    "gamma": lambda g, shape: 0.75 + 0.5 * g.random(shape),  # scale of a normalisation
    "gamma_low": lambda g, shape: 0.4 + 0.4 * g.random(shape),
    "bias": lambda g, shape: 0.05 * g.standard_normal(shape),  # every bias, and the shift of a normalisation
    "mean": lambda g, shape: 0.1 * g.standard_normal(shape),  # running statistics
    "var": lambda g, shape: 0.5 + g.random(shape),
    "scale": lambda g, shape: 0.9 + 0.2 * g.random(shape),  # learnable affine block
    "embed": lambda g, shape: 0.5 * g.standard_normal(shape),  # embedding table
}


def fill(key, shape, kind):
    """The tensor called `key`: float32, a pure function of the three arguments.

    `weight_t` is a linear layer stored as (in, out), as Paddle does: drawn as (out, in), then transposed.
    `count` is a batch counter: int64 zero.
    """
    shape = tuple(int(n) for n in shape)
    if kind == "count":
        return np.zeros(shape, np.int64)
    if kind == "weight_t":
        return np.ascontiguousarray(fill(key, shape[::-1], "weight").T)
    return _DRAW[kind](np.random.Generator(np.random.PCG64([zlib.crc32(key.encode()), 0])), shape).astype(
        np.float32
    )


def cases():
    """{case: description}, in the order of cases.json."""
    return json.loads((HERE / "cases.json").read_text())["cases"]


def keys(case):
    """[(key, shape, kind)] in the order of the reference's own state dict."""
    rows = [line.split("\t") for line in (HERE / f"{case}.keys.tsv").read_text().splitlines()[1:]]
    return [(key, tuple(int(n) for n in shape.split("x") if n), kind) for key, shape, kind in rows]


def arrays(name):
    """Every array of <name>.npz as a dict; a large one goes on in <name>.<part>.npz."""
    found = {}
    for path in [HERE / f"{name}.npz", *sorted(HERE.glob(f"{name}.*.npz"))]:
        with np.load(path, allow_pickle=False) as file:
            found |= {key: file[key] for key in file.files}
    return found


def checkpoint(case):
    """{key: array} with the names and the memory layout of the reference that `case` comes from."""
    stored, state = arrays(case), {}
    for key, shape, kind in keys(case):
        if kind == "stored":  # a constant that the reference derives, or a bias set by a rule of README.md
            state[key] = stored["state:" + key]
        elif kind.startswith("same:"):  # one tensor under two names
            state[key] = state[kind[5:]]
        else:
            state[key] = fill(key, shape, kind)
    return state


def inputs(case):
    """The image batch (N, 3, H, W) float32 to feed: uniform noise, already normalised (feed it as it is)."""
    spec = cases()[case]["input"]
    noise = np.random.Generator(np.random.PCG64(spec["seed"])).random(tuple(spec["shape"]))
    return (spec["low"] + (spec["high"] - spec["low"]) * noise).astype(np.float32)


def expected(case):
    """{name: array} that the reference returned; names that end in ".sketch" are `sketch` of a feature map."""
    return {key: value for key, value in arrays(case).items() if not key.startswith("state:")}


def sketch(x):
    """(N, C, H, W) -> (N, C, 3): mean, and the mean weighted by cos(0.7 row) and by cos(0.7 column)."""
    x = np.asarray(x, np.float64)
    rows, columns = (np.cos(0.7 * np.arange(n)) for n in x.shape[2:])
    return np.stack([x.mean((2, 3)), (x.mean(3) * rows).mean(2), (x.mean(2) * columns).mean(2)], -1)


def compare_queries(logits, boxes, case):
    """Compare two sets of queries, order aside: pairs each one of (Q, C), (Q, 4) with the nearest expected one.

    Returns the largest difference of logits and boxes over the pairs, how many rows moved, and how many expected
    queries were hit (must be Q: otherwise two rows chose the same one).
    """
    want = expected(case)
    pairs = (logits, boxes), (want["logits"][0], want["boxes"][0])
    a, b = (np.concatenate([x, 4 * y], -1).astype(np.float64) for x, y in pairs)
    pick = np.array([((b - row) ** 2).sum(-1).argmin() for row in a])
    return {
        "logits": float(np.abs(logits - want["logits"][0][pick]).max()),
        "boxes": float(np.abs(boxes - want["boxes"][0][pick]).max()),
        "moved": int((pick != np.arange(len(pick))).sum()),
        "hit": len(set(pick.tolist())),
    }


class _OldNumpyNames(pickle._Pickler):
    """Spells numpy's rebuild function as numpy 1.x did, as in the checkpoints that were published with it."""

    def save_global(self, obj, name=None):
        if getattr(obj, "__name__", "") != "_reconstruct":
            super().save_global(obj, name)
            return
        self.save("numpy.core.multiarray")
        self.save("_reconstruct")
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


_SUFFIX = {"paddle": ".pdparams", "safetensors": ".safetensors", "transformers": ""}


def write(case, path):
    """Write the checkpoint in the source's own container and return where it is.

    `path` is a file, or an existing folder that gets <case>.<suffix> (for transformers: a folder <case>).
    """
    container, state, path = cases()[case]["container"], checkpoint(case), Path(path)
    if path.is_dir():
        path = path / (case + _SUFFIX.get(container, ".pth"))
    if container == "paddle":  # what paddle.save does to a state dict: arrays, and a table of internal names
        table = {key: f"parameter_{i}.w_0" for i, key in enumerate(state)}
        with path.open("wb") as file:
            _OldNumpyNames(file, protocol=4).dump({**state, "StructuredToParameterName@@": table})
    elif container in ("safetensors", "transformers"):
        from safetensors.numpy import save_file

        if container == "transformers":
            path.mkdir(parents=True)
            (path / "config.json").write_text((HERE / f"{case}.config.json").read_text())
        save_file(state, path / "model.safetensors" if path.is_dir() else path, metadata={"format": "pt"})
    else:  # "torch:a.b" puts the state dict under ["a"]["b"]; "torch:" saves it bare
        import torch

        nested = OrderedDict((key, torch.from_numpy(np.array(value))) for key, value in state.items())
        for name in reversed([part for part in container.removeprefix("torch:").split(".") if part]):
            nested = {name: nested}
        torch.save(nested, path)
    return path
