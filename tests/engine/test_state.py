import random
import tracemalloc

import numpy as np
import pytest
import torch

from flexdetr.engine import state


def test_round_trip(tmp_path):
    state.save(tmp_path, {"weights": torch.arange(5), "epoch": 3, "best": (0.5, 2)})
    content = state.load(tmp_path)
    assert torch.equal(content["weights"], torch.arange(5))
    assert content["epoch"] == 3
    assert tuple(content["best"]) == (0.5, 2)


def test_generators_continue_where_they_were():
    saved = state.random_state()
    first = (random.random(), np.random.rand(), torch.rand(3))
    state.restore_random_state(saved)
    again = (random.random(), np.random.rand(), torch.rand(3))
    assert first[:2] == again[:2]
    assert torch.equal(first[2], again[2])


def test_generators_of_gpus_that_are_gone_are_left_out(monkeypatch):
    """A process saves the generator of its own GPU: the machine that goes on may have fewer, or none."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: asked.append(int(state)))
    saved = state.random_state()
    assert len(saved["cuda"]) == 1
    state.restore_random_state(saved)
    assert asked == [7]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state.restore_random_state(saved)
    assert asked == [7]


def test_random_state_survives_the_file(tmp_path):
    state.save(tmp_path, {"random": state.random_state()})
    expected = torch.rand(3)
    state.restore_random_state(state.load(tmp_path)["random"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("damage", ["empty", "half", "noise"])
def test_a_torn_file_falls_back_to_the_one_before(tmp_path, damage):
    state.save(tmp_path, {"epoch": 1})
    state.save(tmp_path, {"epoch": 2})
    file = tmp_path / state.FILE
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "noise": b"\x80" * 200}[damage])
    assert state.load(tmp_path)["epoch"] == 1


def test_nothing_to_resume_says_so(tmp_path):
    with pytest.raises(state.StateError, match="nothing to resume"):
        state.load(tmp_path)


def test_only_torn_files_say_so(tmp_path):
    (tmp_path / state.FILE).write_bytes(b"torn")
    with pytest.raises(state.StateError, match=r"cannot be read"):
        state.load(tmp_path)


def test_a_full_disk_leaves_the_former_state(tmp_path, full_disk):
    state.save(tmp_path, {"epoch": 1})
    with (
        full_disk(10_000),
        pytest.raises(state.StateError, match=r"cannot write .*state\.pt.*File too large.*--resume"),
    ):
        state.save(tmp_path, {"epoch": 2, "weights": torch.zeros(10_000)})
    assert state.load(tmp_path)["epoch"] == 1
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".part"]


def test_weights_are_written_without_a_second_copy_in_memory(tmp_path):
    weights = torch.zeros(2**22)
    tracemalloc.start()
    try:
        state.save(tmp_path, {"weights": weights})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < weights.nbytes / 8


def test_a_failure_that_is_no_file_systems_is_not_explained_away(tmp_path):
    with pytest.raises(RuntimeError, match="a defect") as caught, state.writing(tmp_path / "file"):
        raise RuntimeError("a defect")
    assert not isinstance(caught.value, state.StateError)


def test_code_in_a_state_file_is_refused(tmp_path):
    torch.save({"version": 1, "evil": print}, tmp_path / state.FILE)
    with pytest.raises(state.StateError):
        state.load(tmp_path)
