import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.engine.recipe import derive, phase, rate_factor
from flexdetr.presets import resolve


def recipe(images=205, **train):
    return derive(resolve("flexdetr_nano", train=train), images, pretrained=False)


def test_every_gap_is_filled_and_explained():
    derived = recipe()
    train, data = derived.config.train, derived.config.data
    assert None not in (
        train.epochs,
        train.lr,
        train.warmup,
        train.ema,
        train.eval_every,
        data.mosaic,
        data.mixup,
    )
    for key in (
        "epochs",
        "lr",
        "warmup",
        "augment_from",
        "encoder_copies",
        "ema",
        "eval_every",
        "mosaic",
        "mixup",
    ):
        assert any(reason.startswith(key) for reason in derived.reasons), key


def test_what_the_user_set_stays():
    train = recipe(epochs=7, lr=3e-4, warmup=0.25, ema=0.5, eval_every=3).config.train
    assert (train.epochs, train.lr, train.warmup, train.ema, train.eval_every) == (7, 3e-4, 0.25, 0.5, 3)


@given(st.integers(1, 200_000), st.integers(1, 256))
def test_small_and_large_data_get_sound_schedules(images, batch):
    derived = recipe(images, batch_size=batch)
    train = derived.config.train
    assert train.batch_size <= images
    assert derived.steps >= 1
    assert 0 < train.warmup <= 0.1
    assert 0 < train.ema < 1
    assert 0 < train.lr <= 2.4e-3  # twice the base rate, however large the batch


def test_pretrained_backbones_learn_more_slowly():
    config = resolve("flexdetr_nano")
    assert (
        derive(config, 500, pretrained=True).config.train.lr
        < derive(config, 500, pretrained=False).config.train.lr
    )


def test_rates_rise_stay_and_fall():
    config = recipe(epochs=10, warmup=0.1, flat=0.5, final_lr=0.05).config
    factors = [rate_factor(config, step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[:100] == sorted(factors[:100])
    assert set(factors[100:500]) == {1.0}
    assert factors[500:] == sorted(factors[500:], reverse=True)
    assert factors[-1] == pytest.approx(0.05)
    assert all(math.isfinite(factor) for factor in factors)


def test_phases_are_shares_of_the_run():
    config = recipe(epochs=100, augment_from=0.1, mosaic_until=0.5, augment_until=0.9).config
    kinds = [phase(config, epoch) for epoch in range(100)]
    assert kinds == ["plain"] * 10 + ["mosaic"] * 40 + ["strong"] * 40 + ["plain"] * 10


def test_random_weights_begin_calmly_and_with_more_positives():
    config = resolve("flexdetr_nano")
    random, trained = (derive(config, 500, pretrained=pretrained).config for pretrained in (False, True))
    assert phase(random, 0) == "plain"
    assert phase(trained, 0) == "mosaic"
    assert (random.loss.encoder_copies, trained.loss.encoder_copies) == (4, 1)


def test_without_mosaic_the_first_phase_is_strong():
    config = derive(resolve("flexdetr_nano", data={"mosaic": 0.0, "mixup": 0.0}), 100, pretrained=True).config
    assert phase(config, 0) == "strong"
