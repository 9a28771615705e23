import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from flexdetr.config import ConfigError
from flexdetr.engine import norms
from flexdetr.engine.norms import moving_statistics, synchronise_norms

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), BatchNormAct2d(4)], ids=["torch", "timm, with its activation"]
)
def test_over_one_process_a_synchronised_norm_is_the_norm(norm, monkeypatch):
    monkeypatch.setattr(norms.dist, "all_reduce", lambda _tensor: None)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    plain, model = copy.deepcopy(norm), nn.Sequential(copy.deepcopy(norm))
    assert synchronise_norms(model, CPU) == 1
    images = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(model(images), plain(images))
    torch.testing.assert_close(model[0].running_var, plain.running_var)
    torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    assert (model(images) < 0).any() == (plain(images) < 0).any()


def test_on_a_gpu_timms_norms_keep_their_activation():
    model = nn.Sequential(BatchNormAct2d(4), nn.BatchNorm2d(4))
    names = list(model.state_dict())
    synchronise_norms(model, torch.device("cuda"))
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in model)
    assert isinstance(model[0].act, nn.ReLU)
    assert list(model.state_dict()) == names


def test_a_norm_that_is_not_known_is_refused_with_what_to_do():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match=r"norm 0 is a .*Own.*sync_norms=false"):
        synchronise_norms(nn.Sequential(Own(4)), CPU)


def test_statistics_of_norms_that_stay_as_they_are_do_not_move():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3), nn.BatchNorm2d(4, track_running_stats=False))
    model[0].eval()
    assert [len(one) for one in moving_statistics(model)] == [3, 3]
