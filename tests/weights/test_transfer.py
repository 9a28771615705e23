"""Classes go along by name: 80 COCO classes to three of which two exist, ids with holes, other spellings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.classes import Classes
from flexdetr.config import build, merge
from flexdetr.engine.checkpoint import start
from flexdetr.model.heads.rtdetr.head import RTDETRHead
from flexdetr.weights import store
from flexdetr.weights.coco_classes import COCO, named
from flexdetr.weights.transfer import carry_over, depends_on_classes, match_classes

NEW = Classes(("Traffic-Light", "unicorn", "dog"), (7, 20, 3))


def test_eighty_to_three_of_which_two_exist() -> None:
    transfer = match_classes(COCO, NEW)
    assert transfer.carried == (("Traffic-Light", 0, 9), ("dog", 2, 16))
    assert transfer.fresh == ("unicorn",)
    assert transfer.dropped == 78
    assert str(transfer) == (
        "classes carried over by name: Traffic-Light, dog; newly initialised: unicorn; dropped: 78"
    )


def test_rows_of_a_whole_detector(dialects: SimpleNamespace, tmp_path: Path) -> None:
    old = dialects.make_model(num_classes=80)
    metadata = store.Metadata(config=dialects.small.model_dump(mode="json"), classes=COCO.to_json())
    path = store.save(tmp_path / "coco.safetensors", old.state_dict(), metadata)
    config = build(merge(dialects.small.model_dump(), {"weights": str(path)}))
    begun = start(config, NEW)
    model, state = begun.model, old.state_dict()
    assert any("Traffic-Light, dog; newly initialised: unicorn" in note for note in begun.notes)
    for name, tensor in model.state_dict().items():
        if depends_on_classes(name, model.head.class_rows()):
            assert torch.equal(tensor[[0, 2]], state[name][[9, 16]]), name
            assert not any(torch.equal(tensor[1], row) for row in state[name]), name
        else:
            assert torch.equal(tensor, state[name]), name
    assert model.head.denoising.embedding.weight.shape == (4, 64)
    assert not model.head.denoising.embedding.weight[-1].any()
    rare = float(model.head.scores[0].bias[1].detach())
    assert rare == pytest.approx(-4.595, abs=1e-3)  # the bias of a class that has not been seen


def test_a_detector_without_denoising_takes_no_embedding() -> None:
    old = {
        "head.denoising.embedding.weight": torch.ones(3, 2),
        "head.encoder_score.bias": torch.arange(2.0),
    }
    fresh = {"head.encoder_score.bias": torch.zeros(2)}
    transfer = match_classes(Classes.of(["a", "b"]), Classes.of(["b", "c"]))
    state = carry_over(old, fresh, transfer, RTDETRHead.class_rows())
    assert state.keys() == {"head.encoder_score.bias"}
    assert state["head.encoder_score.bias"].tolist() == [1, 0]
    assert not fresh["head.encoder_score.bias"].any()


def test_rows_of_another_width_stay_as_they_are() -> None:
    """Whoever loads the result tells that the detectors do not fit."""
    old, fresh = {"head.scores.0.weight": torch.ones(2, 3)}, {"head.scores.0.weight": torch.zeros(2, 4)}
    transfer = match_classes(Classes.of(["a", "b"]), Classes.of(["b", "c"]))
    assert carry_over(old, fresh, transfer, RTDETRHead.class_rows()) == old


WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=6, unique=True).map(Classes.of)


@given(old=WORDS, new=WORDS)
def test_every_class_is_accounted_for(old: Classes, new: Classes) -> None:
    transfer = match_classes(old, new)
    assert {name for name, _, _ in transfer.carried} == set(old.names) & set(new.names)
    assert set(transfer.fresh) == set(new.names) - set(old.names)
    assert transfer.dropped == len(set(old.names) - set(new.names))
    for name, here, there in transfer.carried:
        assert new.names[here] == old.names[there] == name


def test_names_of_published_configurations() -> None:
    words = {
        "motorcycle": "motorbike",
        "airplane": "aeroplane",
        "couch": "sofa",
        "potted plant": "pottedplant",
        "dining table": "diningtable",
        "tv": "tvmonitor",
    }
    assert named([words.get(name, name) for name in COCO.names], 80)[0] == COCO
    assert named(list(reversed(COCO.names)), 80)[0] == Classes.of(reversed(COCO.names))
    assert named([f"LABEL_{index}" for index in range(80)], 80)[0] == COCO
    assert named([f"LABEL_{index}" for index in range(3)], 3)[0] == Classes.of(
        ["class_0", "class_1", "class_2"]
    )
    assert named(["a", "b"], 2)[0] == Classes.of(["a", "b"])
    assert named(["a", "b"], 3)[0].names[0] == "class_0"


def test_coco_is_what_it_is() -> None:
    assert len(COCO) == 80
    assert (COCO.ids[0], COCO.ids[-1]) == (1, 90)
    holes = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(COCO.ids) == set(range(1, 91)) - holes
