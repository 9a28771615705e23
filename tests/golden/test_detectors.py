"""Every golden detector, written in its project's own container, loaded, and compared with the project's answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from flexdetr.model.fuse import fuse
from flexdetr.weights.container import WeightsError
from flexdetr.weights.loading import load_any

CASES = {
    "paddledet_rtdetr_hgnetv2_l": "rtdetr_hgnetv2_l",
    "paddledet_rtdetr_r18vd": "rtdetr_r18",
    "lyuwenyu_rtdetr_r18vd": "rtdetr_r18",
    "lyuwenyu_rtdetrv2_r18vd": "rtdetrv2_s",
    "transformers_rtdetr_r18vd": "rtdetr_r18",
    "transformers_rtdetr_v2_r18vd": "rtdetrv2_s",
    "dfine_n": "dfine_n",
    "dfine_m": "dfine_m",
    "deim_n": "deim_n",
    "deimv2_atto": "deimv2_atto",
    "deimv2_n": "deimv2_n",
}
DISCRETE = "lyuwenyu_rtdetrv2_r18vd_dsp"


def answer(file: Path, golden: ModuleType, case: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Logits (Q, C) and boxes (Q, 4) for a case's input, and the preset that was recognised."""
    loaded = load_any(file)
    model = loaded.build()
    with torch.inference_mode():
        output = model(torch.from_numpy(golden.inputs(case)))
    assert not output.aux
    return output.final.logits[0].numpy(), output.final.boxes[0].numpy(), loaded.config.model


@pytest.mark.parametrize("case", CASES)
def test_same_answer(case: str, golden: ModuleType, tmp_path: Path) -> None:
    logits, boxes, model = answer(golden.write(case, tmp_path), golden, case)
    assert model == CASES[case]
    limit = golden.cases()[case]["tolerance"]
    difference = golden.compare_queries(logits, boxes, case)
    assert difference["hit"] == len(boxes)
    assert difference["logits"] <= limit["logits"]
    assert difference["boxes"] <= limit["boxes"]


def test_same_answer_of_discrete_sampling(golden: ModuleType, tmp_path: Path) -> None:
    """Its cells flip where a coordinate is within rounding of a cell's border.

    The vectors are exact for one instruction set only: with the same code, AVX2 and AVX-512 kernels move a handful of
    queries by up to 0.1 (transformers' own model does the same here). All other queries must agree to the tolerance.
    """
    logits, boxes, model = answer(golden.write(DISCRETE, tmp_path), golden, DISCRETE)
    assert model == "rtdetrv2_s"
    want = golden.expected(DISCRETE)
    pairs = (logits, boxes), (want["logits"][0], want["boxes"][0])
    ours, theirs = (np.concatenate([x, 4 * y], -1).astype(np.float64) for x, y in pairs)
    nearest = np.array([((theirs - row) ** 2).sum(-1).argmin() for row in ours])
    assert len(set(nearest.tolist())) == len(ours)
    limit = golden.cases()[DISCRETE]["tolerance"]
    close = (np.abs(logits - want["logits"][0][nearest]).max(-1) <= limit["logits"]) & (
        np.abs(boxes - want["boxes"][0][nearest]).max(-1) <= limit["boxes"]
    )
    assert close.mean() >= 0.95
    assert np.abs(logits - want["logits"][0][nearest]).max() < 0.2


def test_features_agree_too(golden: ModuleType, tmp_path: Path) -> None:
    case = "paddledet_rtdetr_r18vd"
    model = load_any(golden.write(case, tmp_path)).build()
    with torch.inference_mode():
        levels = model.backbone(torch.from_numpy(golden.inputs(case)))
        encoded = model.encoder(levels)
    want = golden.expected(case)
    limit = golden.cases()[case]["tolerance"]["features_relative"]
    for part, maps in (("backbone", levels), ("encoder", encoded)):
        for stride, level in zip((8, 16, 32), maps, strict=True):
            expected = want[f"{part}.stride{stride}.sketch"]
            assert np.abs(golden.sketch(level.numpy()) - expected).max() <= limit * np.abs(expected).max()


def test_the_deploy_form_of_dfine_answers_the_same(golden: ModuleType, tmp_path: Path) -> None:
    case = "dfine_n"
    model = load_any(golden.write(case, tmp_path)).build()
    limit = golden.cases()[case]["tolerance"]
    with torch.inference_mode():
        output = fuse(model, decoder_layers=3)(torch.from_numpy(golden.inputs(case)))
    difference = golden.compare_queries(output.final.logits[0].numpy(), output.final.boxes[0].numpy(), case)
    assert difference["hit"] == 300
    assert difference["logits"] <= limit["logits"]
    assert difference["boxes"] <= limit["boxes"]


def test_one_set_of_weights_in_other_spellings(golden: ModuleType, tmp_path: Path) -> None:
    """transformers 5's names in memory, copies of the heads at the top level, no config, a numpy-2 Paddle file."""
    from safetensors.numpy import save_file

    case = "transformers_rtdetr_v2_r18vd"
    state = golden.checkpoint(case)
    reference = load_any(golden.write(case, tmp_path)).state()
    swaps = (("encoder.encoder.0", "encoder.aifi.0"), (".fc", ".mlp.fc"), (".out_proj", ".o_proj"))
    memory = {}
    for name, value in state.items():
        for old, new in swaps:
            name = name.replace(old, new) if "decoder.layers" in name or "encoder.encoder" in name else name
        memory[name] = value
    memory |= {
        name.removeprefix("model.decoder."): value
        for name, value in state.items()
        if name.startswith(("model.decoder.class_embed", "model.decoder.bbox_embed"))
    }
    folder = tmp_path / "memory"
    folder.mkdir()
    save_file(memory, folder / "weights.safetensors", metadata={"format": "pt"})
    loaded = load_any(folder / "weights.safetensors")
    assert loaded.config.head.points == 4
    assert loaded.report.left["class_embed.0.weight"] == "a copy of the decoder's heads"
    again = loaded.state()
    assert again.keys() == reference.keys()
    assert all(torch.equal(again[name], reference[name]) for name in reference)


def test_names_and_settings_of_a_transformers_config(golden: ModuleType, tmp_path: Path) -> None:
    folder = golden.write("transformers_rtdetr_r18vd", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): f"thing {79 - index}" for index in range(80)}
    config["num_queries"] = 77
    config["batch_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 320, "width": 512}}))
    loaded = load_any(folder)
    assert loaded.classes.names[:2] == ("thing 79", "thing 78")
    assert loaded.classes.ids[:2] == (0, 1)
    assert (loaded.config.head.queries, loaded.config.image_size) == (77, (320, 512))
    model = loaded.build()
    assert model.encoder.input_proj[0].norm.eps == model.head.input_proj[0].norm.eps == 1e-3
    assert model.backbone.stem[0].norm.eps == 1e-5
    config["decoder_activation_function"] = "silu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="decoder_activation_function='silu'"):
        load_any(folder)
