"""Every backbone row as a classifier: it learns, folds, comes back from its file; its loss against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.classes import Classes
from flexdetr.classifiers import CLASSIFIERS
from flexdetr.config import ConfigError, LossConfig, build, merge
from flexdetr.engine.checkpoint import blank
from flexdetr.loss.classification import ClassificationCriterion, label_shares, objective
from flexdetr.loss.criterion import build_criterion
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.model.fuse import fuse
from flexdetr.model.heads.classifier.options import ClassifierOptions
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.weights import store
from flexdetr.weights.loading import load_any

CLASSES = Classes(("cat", "dog", "owl", "yak"), (1, 2, 5, 7))
QUICK = {
    f"{name}_cls"
    for name in ("hgnetv2_atto", "ghostnetv3_050", "mobilenetv1", "resnet18_vd", "cspdarknet_c2f_n")
}


def targets(*labels: int) -> Targets:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    return Targets(
        [torch.tensor([label]) for label in labels], [whole] * len(labels), list(range(len(labels)))
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CLASSIFIERS]
)
def test_every_row(
    name: str, image: Callable[..., Tensor], randomise: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = build(merge(CLASSIFIERS[name].model_dump(), {"image_size": 64}))
    starting = blank(config, CLASSES)
    model = starting.model.train()
    losses = build_criterion(config.loss, config.head, 4)(model(image(2, 64, 64)), targets(0, 3))
    losses.total.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)
    randomise(model, image(2, 64, 64)).eval()
    loaded = load_any(store.save(tmp_path / "model.safetensors", model.state_dict(), starting.metadata))
    assert loaded.config.task == "classify"
    with torch.no_grad():
        want = model(image(2, 64, 64)).final.logits
        assert want.shape == (2, 1, 4)
        assert torch.equal(loaded.build()(image(2, 64, 64)).final.logits, want)
        exact = model.double()(image(2, 64, 64).double()).final.logits
        assert (
            fuse(model)(image(2, 64, 64).double()).final.logits - exact
        ).abs().max() <= 1e-9 * exact.abs().max()


def output(logits: Tensor) -> Output:
    return Output(Prediction(logits[:, None], torch.zeros(len(logits), 1, 4)))


def test_the_loss_is_torchs() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = [0, 3, 1, 1, 2]
    criterion = ClassificationCriterion(ClassifierOptions(smoothing=0.1), 4)
    found = criterion(output(logits), targets(*labels)).total
    assert float(found) == pytest.approx(
        float(F.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.1))
    )
    # Two parts of one step add up to the whole step.
    parts = [
        criterion(output(logits[cut]), targets(*labels[cut]), num_boxes=5.0).total
        for cut in (slice(2), slice(2, 5))
    ]
    assert float(sum(parts)) == pytest.approx(float(found))


def test_blended_pictures_have_a_share_of_each_class() -> None:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 2)
    blended = Targets(
        [torch.tensor([0, 2]), torch.tensor([1, 3])],
        [whole] * 2,
        [0, 1],
        shares=[torch.tensor([0.3, 0.7]), torch.tensor([1.0, 0.0])],
    )
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([[0.3, 0, 0.7, 0], [0, 1, 0, 0]])
    assert torch.equal(label_shares(blended, 4, logits), wanted)
    criterion = ClassificationCriterion(ClassifierOptions(smoothing=0.0), 4)
    expected = float(F.cross_entropy(logits, wanted))
    assert float(criterion(output(logits), blended).total) == pytest.approx(expected)
    assert float(criterion(output(logits), blended, num_boxes=4.0).total) == pytest.approx(expected)


def test_refusals() -> None:
    criterion = ClassificationCriterion(ClassifierOptions(), 4)
    with pytest.raises(NonFiniteError, match="1 pictures are NaN or infinite: 1"):
        criterion(output(torch.tensor([[0.0] * 4, [float("nan")] * 4])), targets(0, 1))
    with pytest.raises(ConfigError, match=r"loss\.box is for heads with queries"):
        objective(LossConfig(box="ciou"), ClassifierOptions(), 4)
