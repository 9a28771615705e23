"""Loading an 80-class checkpoint beside torch.load + load_state_dict: time and peak memory, a process each."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import machine, median

# What a load may take: of torch's time, and of the file's size above what the imports hold.
MOST_TIME, MOST_MEMORY = 1.5, 2.5
REFERENCES = ("torch.load + load_state_dict", "the same, and building the model")
SUBJECTS = (*REFERENCES, ".pth", ".pdparams", ".safetensors", "transformers' folder")


def write_files(folder: Path, name: str) -> dict[str, Path]:
    """One detector with random weights as every subject's file.

    torch's own has our names, so that load_state_dict takes it; the .pth has the same content under ``ema.module``,
    which is where lyuwenyu's files have it, and the .pdparams is a plain pickle of arrays, as Paddle writes it.
    """
    import torch

    from flexdetr.classes import Classes
    from flexdetr.engine.checkpoint import blank
    from flexdetr.presets import preset
    from flexdetr.weights import store
    from flexdetr.weights.transformers_export import to_transformers

    torch.manual_seed(0)
    begun = blank(preset(name), Classes.of(f"class {index}" for index in range(80)))
    state = begun.model.state_dict()
    torch.save(state, folder / "plain.pth")
    torch.save({"ema": {"module": state, "updates": 1}}, folder / "nested.pth")
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    (folder / "arrays.pdparams").write_bytes(pickle.dumps(arrays, protocol=4))
    store.save(folder / "ours.safetensors", state, begun.metadata)
    to_transformers(state, begun.config, begun.classes, folder / "folder")
    files = ("plain.pth", "plain.pth", "nested.pth", "arrays.pdparams", "ours.safetensors", "folder")
    return {subject: folder / file for subject, file in zip(SUBJECTS, files, strict=True)}


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def subject_call(subject: str, file: str, name: str) -> Callable[[], object]:
    """What is timed; everything that it imports is imported before."""
    import torch

    import flexdetr
    from flexdetr.model.detector import DetectionModel
    from flexdetr.presets import preset

    config = preset(name)
    if subject not in REFERENCES:
        return lambda: flexdetr.load(file)
    standing = DetectionModel(config, 80)

    def reference() -> DetectionModel:
        model = standing if subject == REFERENCES[0] else DetectionModel(config, 80)
        model.load_state_dict(torch.load(file, weights_only=True))
        return model

    return reference


def peak_bytes() -> int:
    """The largest resident set since ``forget_peak``; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Begin the kernel's record of the largest resident set anew."""
    Path("/proc/self/clear_refs").write_text("5")


def child(subject: str, file: str, name: str, small: str) -> None:
    """Load once for the memory and some times for the time, and print what it took."""
    call = subject_call(subject, file, name)
    if subject not in REFERENCES:
        subject_call(subject, small, name)()  # what a first load imports is no part of the file's memory
    forget_peak()
    before = peak_bytes()
    kept = call()
    peak = peak_bytes() - before
    del kept
    wall, cpu = [], []
    for _ in range(3):
        began, began_cpu = time.perf_counter(), time.process_time()
        kept = call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        del kept
    print(json.dumps({"wall": median(wall), "cpu": median(cpu), "peak": peak}))


def main() -> int:
    """Print a row for each subject; exit status 1 if a load takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="rtdetr_hgnetv2_l")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each subject, in alternation")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        subject, file, small = arguments.child
        child(subject, file, arguments.model, small)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), arguments.model)
        (Path(folder) / "small").mkdir()
        small = write_files(Path(folder) / "small", "rtdetr_r18")
        taken: dict[str, list[dict[str, float]]] = {subject: [] for subject in SUBJECTS}
        for _ in range(arguments.rounds):
            for subject, file in files.items():
                command = [sys.executable, __file__, "--model", arguments.model, "--child", subject]
                command += [str(file), str(small[subject])]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                taken[subject].append(json.loads(out))
        sizes = {subject: size_of(file) for subject, file in files.items()}
    print(machine())
    print(f"{arguments.model}, 80 classes, medians of {arguments.rounds} processes")
    base = {key: median([row[key] for row in taken[REFERENCES[0]]]) for key in ("wall", "cpu")}
    good = True
    print(f"{'':34s} {'seconds':>8s} {'x':>6s} {'CPU s':>8s} {'x':>6s} {'peak MiB':>9s} {'x file':>7s}")
    for subject, rows in taken.items():
        wall, cpu, peak = (median([row[key] for row in rows]) for key in ("wall", "cpu", "peak"))
        ratios = wall / base["wall"], cpu / base["cpu"], peak / sizes[subject]
        print(
            f"{subject:34s} {wall:8.3f} {ratios[0]:6.2f} {cpu:8.3f} {ratios[1]:6.2f}"
            f" {peak / 2**20:9.1f} {ratios[2]:7.2f}"
        )
        if subject not in REFERENCES:
            good &= ratios[0] <= MOST_TIME and ratios[2] <= MOST_MEMORY
    verdict = "holds" if good else "DOES NOT HOLD"
    print(f"at most {MOST_TIME} x the first row's time and {MOST_MEMORY} x the file: {verdict}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
