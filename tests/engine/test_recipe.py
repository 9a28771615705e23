import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vectors
from flexdetr.config import ConfigError
from flexdetr.engine.recipe import derive, multipliers, phase, rate_factor
from flexdetr.presets import resolve
from flexdetr.recipes import published, warmup_steps
from flexdetr.weights.trained import TrainedParts

PARTS = ("backbone", "encoder", "head")
OWN = 0.1  # what a backbone says of itself
NOTHING, WHOLE = TrainedParts(random=PARTS), TrainedParts(trained=PARTS)
BACKBONE = TrainedParts(trained=PARTS[:1], random=PARTS[1:])


def recipe(images=205, **train):
    return derive(resolve("flexdetr_nano", train=train), images, NOTHING, OWN)


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


def rates(parts, own_rate=OWN, **changes):
    """The peak rate of each part."""
    derived = derive(resolve("flexdetr_nano", train={"batch_size": 16}, **changes), 500, parts, own_rate)
    config = derived.config
    found = {
        part: config.train.lr * rate for part, rate in multipliers(parts, config.backbone.lr_mult).items()
    }
    return found, derived


def test_rates_follow_from_what_is_trained():
    """flexdetr_nano's own multiplier is 0.5."""
    assert rates(NOTHING)[0] == pytest.approx(dict.fromkeys(PARTS, 1.2e-3))
    assert rates(WHOLE)[0] == pytest.approx({"backbone": 5e-5, "encoder": 1e-4, "head": 1e-4})
    assert rates(BACKBONE)[0] == pytest.approx({"backbone": 6e-4, "encoder": 1.2e-3, "head": 1.2e-3})


def test_a_new_head_learns_fast_and_what_was_trained_for_detection_slowly():
    head = TrainedParts(trained=("backbone", "encoder"), random=("head",))
    assert rates(head)[0] == pytest.approx({"backbone": 5e-5, "encoder": 1e-4, "head": 1.2e-3})
    backbone = TrainedParts(trained=("encoder", "head"), random=("backbone",))
    assert rates(backbone)[0] == pytest.approx({"backbone": 1.2e-3, "encoder": 1e-4, "head": 1e-4})


def test_a_swapped_backbone_brings_its_own_rate_and_a_written_one_wins():
    found, derived = rates(BACKBONE, own_rate=0.25, backbone="ghostnetv3_050")
    assert found["backbone"] == pytest.approx(3e-4)
    assert derived.config.backbone.lr_mult == 0.25  # config.yaml has every derived value
    assert rates(BACKBONE, backbone={"lr_mult": 0.3})[0]["backbone"] == pytest.approx(3.6e-4)


def test_rates_are_printed_with_the_reason():
    reasons = "\n".join(rates(BACKBONE)[1].reasons)
    assert (
        "lr 0.0012: the backbone is trained, the encoder and the head are not; 0.0012 at 16 images" in reasons
    )
    assert "rate of the backbone 0.0006: 0.5 of lr, because it is trained" in reasons
    assert "lr 0.0001: the whole model is trained" in "\n".join(rates(WHOLE)[1].reasons)
    assert "lr 0.0012: nothing is trained yet" in "\n".join(rates(NOTHING)[1].reasons)
    fresh = TrainedParts(trained=PARTS, fresh=frozenset({"backbone.inserts.16.conv.weight"}))
    assert "the whole model is trained but for 1 new weight" in "\n".join(rates(fresh)[1].reasons)
    assert "new weights in trained parts learn at lr, and are never frozen: 1" in rates(fresh)[1].reasons


def test_what_is_not_frozen_is_said():
    frozen = resolve("rtdetr_r50")
    assert any("nothing is frozen" in reason for reason in derive(frozen, 500, NOTHING, OWN).reasons)
    assert not any("nothing is frozen" in reason for reason in derive(frozen, 500, BACKBONE, OWN).reasons)


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
    for parts, copies in ((NOTHING, 4), (BACKBONE, 1)):
        random = derive(config, 500, parts, OWN).config
        assert (phase(random, 0), random.loss.encoder_copies) == ("plain", copies)
    trained = derive(config, 500, WHOLE, OWN).config
    assert (phase(trained, 0), trained.loss.encoder_copies) == ("mosaic", 1)


def test_without_mosaic_the_first_phase_is_strong():
    config = derive(resolve("flexdetr_nano", data={"mosaic": 0.0, "mixup": 0.0}), 100, WHOLE, OWN).config
    assert phase(config, 0) == "strong"


def test_the_published_recipe_is_taken_whole():
    config = derive(resolve("rtdetr_r50", overrides=["recipe=coco"]), 118_287, WHOLE, OWN).config
    train, data = config.train, config.data
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay, train.clip) == (
        72,
        16,
        1e-4,
        1e-4,
        0.1,
    )
    assert (train.ema, train.ema_horizon, train.warmup) == (0.9999, 2000, 0)
    assert (data.photometric, data.zoom_out, data.iou_crop, data.flip) == (0.5, 0.5, 0.8, 0.5)
    assert (data.mosaic, data.mixup, data.multi_scale) == (0, 0, True)
    assert config.backbone.lr_mult == 0.1
    assert config.loss.encoder_copies == 1
    assert {rate_factor(config, step, 1000) for step in range(1000)} == {1.0}
    assert {phase(config, epoch) for epoch in range(72)} == {"strong"}


def test_the_second_version_warms_up_and_ends_without_augmentation():
    derived = derive(resolve("rtdetrv2_s", recipe="coco"), 118_287, WHOLE, OWN)
    config = derived.config
    assert config.train.warmup * derived.steps == pytest.approx(2000)
    assert [phase(config, epoch) for epoch in (116, 117)] == ["strong", "plain"]
    assert config.backbone.lr_mult == 1.0


def test_what_is_typed_beside_the_published_recipe_wins():
    config = resolve("rtdetr_r18", overrides=["recipe=coco", "train.epochs=3", "data.flip=0"])
    assert (config.train.epochs, config.data.flip, config.train.lr) == (3, 0, 1e-4)
    assert resolve("rtdetr_r18").data.iou_crop != 0.8


def test_without_a_published_run_the_recipe_is_refused():
    with pytest.raises(ConfigError, match="no run of flexdetr_nano was published"):
        resolve("flexdetr_nano", recipe="coco")
    with pytest.raises(ConfigError, match="recipe"):
        resolve("rtdetr_r18", recipe="cocoo")


PUBLISHED = vectors.HERE / "recipes_deim.json"
FAMILIES = {
    "dfine": ("dfine", {"N": "n", "S": "s", "M": "m", "L": "l", "X": "x"}),
    "deim_dfine": ("deim", {"N": "n", "S": "s", "M": "m", "L": "l", "X": "x"}),
    "deim_rtdetrv2": (
        "deim",
        {"S(R18)": "s", "M(R34)": "m", "M*(R50m)": "ml", "L(R50)": "l", "X(R101)": "x"},
    ),
    "deimv2": ("deim", {"Atto": "atto", "Femto": "femto", "Pico": "pico", "N": "n"}),
}
PREFIXES = {"dfine": "dfine_", "deim_dfine": "deim_", "deim_rtdetrv2": "deim_rtdetrv2_", "deimv2": "deimv2_"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_the_published_ones(family):
    recipe, sizes = FAMILIES[family]
    for size, fields in json.loads(PUBLISHED.read_text())["families"][family]["sizes"].items():
        if size not in sizes:
            continue
        want = {key: field["value"] for key, field in fields.items() if isinstance(field, dict)}
        keys = published(recipe, PREFIXES[family] + sizes[size])
        train, data, loss, epochs = keys["train"], keys["data"], keys["loss"], want["epochs"]
        assert (train["epochs"], train["batch_size"], train["lr"]) == (epochs, want["batch"], want["lr"]), (
            size
        )
        assert train["weight_decay"] == want["weight_decay"], size
        assert keys["image_size"] == tuple(want["eval_size"])
        backbone = [group["lr"] for group in want["param_groups"] if "lr" in group]
        assert keys["backbone"]["lr_mult"] == pytest.approx((backbone or [want["lr"]])[0] / want["lr"]), size
        assert keys["backbone"].get("freeze_norms", False) == want.get("backbone_freeze_norm", False)
        assert train["ema_horizon"] == want["ema.warmups"]
        steps = warmup_steps(recipe, PREFIXES[family] + sizes[size])
        assert steps == want.get("warmup_iterations", want.get("step.warmup_duration"))
        policy = want["policy_epochs"]
        begin, middle, end = policy if isinstance(policy, list) else (0, 0, policy)
        assert train["augment_from"] == pytest.approx(begin / epochs)
        assert train["mosaic_until"] == pytest.approx(middle / epochs)
        assert train["augment_until"] == pytest.approx(end / epochs)
        assert data["mosaic"] == want.get("mosaic_prob", 0)
        assert data["mixup"] == want.get("mixup_prob", 0)
        assert data["copy_blend"] == want.get("copyblend_prob", 0)
        assert data["multi_scale"] is (want["multiscale_base_size_repeat"] is not None)
        assert loss["classification"] == {"vfl": "varifocal", "mal": "mal"}[want["losses"][0]]
        late = want.get("matcher.change_epoch")
        assert loss["late_matcher"] == (None if late is None else late / epochs)
        falls = want.get("lr_gamma", 1) < 1
        assert train["final_lr"] == want.get("lr_gamma", 1)
        assert train["flat"] == (pytest.approx(want["flat_epoch"] / epochs) if falls else 1)
        assert train["fall_until"] == (pytest.approx(1 - want["no_aug_epoch"] / epochs) if falls else 1)


def test_a_recipe_of_a_head_serves_models_without_a_published_run():
    derived = derive(resolve("flexdetr_nano", recipe="deim"), 205, NOTHING, OWN)
    assert "recipe deim: the published run of deim_n; none of flexdetr_nano was published" in derived.reasons
    assert derived.config.image_size == resolve("flexdetr_nano").image_size
    assert derived.config.loss.classification == "mal"
    assert derived.config.train.lr == 8e-4


def test_rates_rise_with_the_power_and_stay_at_the_lowest():
    train = {"warmup": 0.1, "warmup_power": 2, "flat": 0.5, "fall_until": 0.8, "final_lr": 0.5}
    config = resolve("flexdetr_nano", train=train)
    rates = [rate_factor(config, step, 100) for step in range(100)]
    assert rates[4] == pytest.approx(0.25)
    assert rates[20] == rates[49] == 1
    assert rates[64] == pytest.approx(0.75)
    assert rates[80] == rates[99] == pytest.approx(0.5)
