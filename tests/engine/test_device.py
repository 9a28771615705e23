import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.engine.device import arithmetic, autocast, choose_device, choose_precision, computation
from flexdetr.runtime.cpu import SWITCH

CPU = torch.device("cpu")


def test_auto_takes_what_there_is():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "cuda:x"])
def test_a_device_that_is_not_here_is_refused_with_what_to_use(name):
    with pytest.raises(ConfigError, match="use"):
        choose_device(name)


def test_a_macs_gpu_is_taken_where_it_is_and_computes_in_float32_unless_told(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device = choose_device("mps")
    assert device.type == "mps"
    assert choose_precision("auto", device) == torch.float32, "the CPU's bf16 says nothing about the GPU"
    assert choose_precision("bf16", device) == torch.bfloat16


def arithmetic_set():
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
    )


def test_float32_on_a_gpu_is_float32_unless_told_and_what_was_set_comes_back():
    cuda, before = torch.device("cuda", 0), arithmetic_set()
    with arithmetic(cuda, tf32=True, benchmark=True):
        assert arithmetic_set() == ("tf32", "tf32", True, False)
        with arithmetic(cuda):  # an evaluation within a training
            assert arithmetic_set() == ("ieee", "ieee", False, True)
        assert arithmetic_set() == ("tf32", "tf32", True, False)
    assert arithmetic_set() == before
    with arithmetic(CPU, tf32=True, benchmark=True):
        assert arithmetic_set() == before


def test_auto_precision_is_bf16_where_the_cpu_multiplies_it(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert choose_precision("auto", CPU) == (torch.bfloat16 if fast else torch.float32)
    monkeypatch.setenv(SWITCH, "off")
    assert choose_precision("auto", CPU) == torch.float32


def test_bf16_can_be_asked_for_and_fp16_needs_a_gpu():
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("fp32", CPU) == torch.float32
    with pytest.raises(ConfigError, match="fp16"):
        choose_precision("fp16", CPU)


def test_an_unknown_precision_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'fp32'"):
        choose_precision("f32", CPU)


def test_what_pytorch_computes_with_is_named():
    how = computation(CPU, torch.bfloat16)
    assert how.runtime == f"PyTorch {torch.__version__}"
    assert (how.device, how.precision, how.weights) == ("cpu", "bf16", "fp32")


def test_autocast_computes_in_the_type_and_does_nothing_for_float32():
    weight = torch.ones(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert (weight @ weight).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (weight @ weight).dtype == torch.float32
