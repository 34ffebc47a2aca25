"""A rise that stays is told, noise is not: every claim on series drawn by chance, with the seed in the name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from segwatch.trainer.spikes import BASELINE, ENOUGH, RECENT, STAYS, THAW, Rise, Watch


def watch(known: Iterable[float] = ()) -> Watch:
    return Watch(times=2.0, floor=0.05, known=known)


def first_alarm(series: Iterable[float], seen: Watch | None = None) -> tuple[int, Rise] | None:
    """The first step (from 1) at which a rise stays."""
    seen = watch() if seen is None else seen
    for step, value in enumerate(series, start=1):
        seen.observe(step, float(value))
        if seen.stays is not None:
            return step, seen.stays
    return None


def by_image(seed: int, steps: int, *, images: int = 60, hard: float = 0.15) -> np.ndarray:
    """Losses at batch 1: some images are five times as hard, shuffled anew each epoch, and the whole level falls."""
    chance = np.random.default_rng(seed)
    difficulty = chance.lognormal(0, 0.5, images) * np.where(chance.random(images) < hard, 5, 1)
    order = np.concatenate([chance.permutation(images) for _ in range(steps // images + 1)])[:steps]
    return difficulty[order] * chance.lognormal(0, 0.2, steps) * (0.4 + 2 * np.exp(-np.arange(steps) / 150))


def wavy(steps: int, level: float = 1.0) -> list[float]:
    return [level * (1 + 0.2 * math.sin(7.0 * step)) for step in range(steps)]


# --- what must not fire --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("hard", [0.0, 0.15, 0.45])
def test_single_images_that_are_hard_never_fire_however_many_of_them(seed, hard):
    assert first_alarm(by_image(seed, 1200, hard=hard)) is None


@pytest.mark.parametrize("seed", range(8))
def test_spikes_that_heal_within_some_steps_are_left_alone(seed):
    series = by_image(seed, 1200, hard=0.0)
    for at in (300, 600, 900):
        series[at:] *= 1 + 15 * np.exp(-np.arange(len(series) - at) / 8)
    assert first_alarm(series) is None


def test_a_row_of_hard_batches_is_counted_and_no_more():
    series = wavy(400)
    series[300:312] = [50.0] * 12
    seen = watch()
    assert first_alarm(series, seen) is None
    assert seen.wild == 12


def test_a_slow_fall_from_a_great_height_is_left_to_heal():
    """Above the limit for far longer than a spike that stays may be, and falling all the time."""
    fall = [40 * 0.97**step for step in range(120)]
    assert sum(value > 2.0 for value in fall) > STAYS + 20
    assert first_alarm([*wavy(300), *fall, *wavy(100)]) is None


def test_a_loss_learnt_by_heart_may_triple_without_anything_being_lost():
    assert first_alarm([*wavy(300, level=0.01), *wavy(200, level=0.03)]) is None
    assert first_alarm([*wavy(300, level=0.1), *wavy(200, level=0.3)]) is not None


def test_readings_that_are_not_finite_enter_nothing():
    plain, spoilt = watch(), watch()
    for step, value in enumerate(wavy(500)):
        plain.observe(step, value)
        spoilt.observe(step, value)
        spoilt.observe(step, math.nan)
        spoilt.observe(step, math.inf)
    assert spoilt.known() == plain.known()
    assert spoilt.usual == plain.usual


# --- what must fire ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_level_of_ten_times_that_stays_is_found_in_noise_with_its_onset(seed):
    series = by_image(seed, 900)
    series[500:] *= 10
    found = first_alarm(series)
    assert found is not None
    step, rise = found
    assert 500 + STAYS - 12 <= step <= 500 + 2 * RECENT  # a hard image or two came just before
    assert abs(rise.since - 501) <= 8
    assert rise.z > 5


def test_a_rise_is_told_after_exactly_so_many_high_steps_with_its_numbers():
    step, rise = first_alarm([*wavy(400), *wavy(200, level=6.0)])
    assert step == 400 + STAYS
    assert rise.since == 401
    assert rise.usual.median == pytest.approx(1.0, abs=0.05)
    assert rise.level == pytest.approx(6.0, rel=0.1)
    assert rise.z == pytest.approx((rise.level - rise.usual.median) / (1.4826 * rise.usual.mad))


def test_nan_between_the_high_readings_hides_nothing():
    """Detectors that average over NaN, or whose counters it clears, never fire again."""
    high = [value for pair in zip(wavy(200, level=6.0), [math.nan] * 200, strict=True) for value in pair]
    assert first_alarm([*wavy(400), *[math.nan] * 300, *high]) is not None


def test_the_baseline_is_frozen_while_the_loss_is_high():
    seen = watch()
    for step, value in enumerate([*wavy(400), *wavy(RECENT + THAW // 2, level=6.0)], start=1):
        seen.observe(step, value)
    assert seen.usual.median == pytest.approx(1.0, abs=0.05)
    assert max(seen.known()) < 2


def test_a_level_that_is_held_long_enough_without_being_a_spike_is_the_new_usual():
    mixed: Sequence[float] = [value for pair in zip(wavy(600), wavy(600, level=6.0), strict=True) for value in pair]
    seen = watch()
    assert first_alarm([*wavy(400), *mixed], seen) is None  # half high, half not: a wider loss
    assert seen.risen is None
    assert max(seen.known()) > 4


# --- what an attempt hands to the next -----------------------------------------------------------------------------


def test_the_first_steps_of_a_run_are_not_judged():
    seen = watch()
    for step, value in enumerate(wavy(RECENT + ENOUGH - 1)):
        seen.observe(step, value)
    assert seen.usual is None
    assert seen.risen is None


def test_what_is_usual_outlives_the_attempt_so_that_a_spike_that_comes_back_is_found_at_once():
    before = watch()
    for step, value in enumerate(wavy(400)):
        before.observe(step, value)
    assert len(before.known()) == BASELINE
    step, _ = first_alarm(wavy(200, level=6.0), watch(before.known()))
    assert step == STAYS


def test_a_suspicion_does_not_outlive_the_attempt():
    before = watch()
    assert first_alarm([*wavy(400), *wavy(100, level=6.0)], before) is not None
    after = watch(before.known())
    assert after.risen is None
    assert first_alarm(wavy(300), after) is None


def test_a_window_handed_on_twice_is_the_window_of_an_unbroken_run():
    whole, series = watch(), by_image(3, 900)
    parts, at = watch(), 0
    for end in (137, 500, 900):
        parts = watch(parts.known())
        for step in range(at, end):
            parts.observe(step, series[step])
        at = end
    for step, value in enumerate(series):
        whole.observe(step, value)
    assert parts.known() == whole.known()
