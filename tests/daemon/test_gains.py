"""When a score is really better and when scores stand still: told facts, and test sets of images drawn by chance."""

from __future__ import annotations

import numpy as np
import pytest
from segwatch.daemon import gains
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import Gain
from segwatch.daemon.rules import current_alerts
from segwatch.evaluator.statistics import PerImage, difference

DELTA = 0.002


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def reference(run, min_delta: float = DELTA) -> int | None:
    found = gains.Reference(min_delta).over(run.history.scored_lineage()).found
    return None if found is None else found[0].epoch


# --- the reference -------------------------------------------------------------------------------------------------


def test_without_a_score_there_is_no_reference_and_the_first_score_is_one(run):
    assert reference(run) is None
    run.commits(1)
    assert reference(run) is None
    run.trains(2, 0.01)
    assert reference(run) == 2


@pytest.mark.parametrize(
    ("gain", "low", "better"),
    [
        (0.05, 0.001, True),
        (0.05, 0.0, False),  # the interval holds 0
        (0.05, -0.01, False),
        (DELTA, 0.001, True),
        (DELTA - 1e-6, 0.001, False),  # sure, and too small to matter
        (-0.05, -0.1, False),
    ],
)
def test_an_epoch_is_really_better_when_its_interval_is_above_0_and_its_gain_is_worth_the_word(run, gain, low, better):
    first = run.trains(1, 0.5)
    run.trains(2, 0.5 + gain, gain=run.over(first, gain, low, 0.2))
    assert reference(run) == (2 if better else 1)


@pytest.mark.parametrize(("miou", "better"), [(0.502, False), (0.5021, True)])
def test_without_counts_of_the_images_the_least_difference_decides(run, miou, better):
    run.trains(1, 0.5)
    run.trains(2, miou)
    assert reference(run) == (2 if better else 1)


def test_a_gain_over_an_epoch_that_is_not_the_reference_says_nothing_and_the_least_difference_decides(run):
    first = run.trains(1, 0.5)
    second = run.trains(2, 0.6, gain=run.over(first, 0.1, 0.05, 0.15))
    run.trains(3, 0.65, gain=run.over(first, 0.15, 0.1, 0.2))
    assert reference(run) == 3
    run.trains(4, 0.651, gain=run.over(second, 0.051, 0.01, 0.1))
    assert reference(run) == 3


def test_a_roll_back_of_the_reference_brings_the_one_before_it_back(run):
    first = run.trains(1, 0.5)
    second = run.trains(2, 0.6, gain=run.over(first, 0.1, 0.05, 0.15))
    run.trains(3, 0.58, gain=run.over(second, -0.02, -0.04, 0.0))
    assert reference(run) == 2
    run.moves(1, 2)
    run.moves(1, 3)
    assert reference(run) == 1
    run.plans()
    run.trains(2, 0.55, gain=run.over(second, -0.05, -0.1, -0.01))  # it was compared with what no longer stands
    assert reference(run) == 2


def test_the_same_epoch_of_another_attempt_is_another_epoch(run):
    old = run.trains(1, 0.5)
    run.moves(1, 1)
    run.plans()
    new = run.trains(1, 0.5)
    assert gains.gain_over(run.trains(2, 0.6, gain=run.over(old, 0.1, 0.05, 0.2)), new) is None
    assert gains.gain_over(run.trains(3, 0.6, gain=run.over(new, 0.1, 0.05, 0.2)), new) is not None


# --- a rise in small steps -----------------------------------------------------------------------------------------


def stalled(scored) -> bool:
    return gains.Trend(patience=10, min_delta=DELTA).over(scored).stalled


def told(run, mious) -> list[gains.Scored]:
    """Each compared with the first, and none surely better."""
    first = run.trains(1, mious[0])
    for number, miou in enumerate(mious[1:], start=2):
        run.trains(number, miou, gain=run.over(first, miou - mious[0], -0.1, 0.1))
    return run.history.scored_lineage()


def test_small_steps_up_are_a_rise_and_no_stall(run):
    scored = told(run, [0.5 + 0.001 * number for number in range(16)])
    assert gains.still_rises(scored, 10, DELTA)
    assert not stalled(scored)


def test_a_rise_slower_than_the_least_difference_within_the_patience_is_none(run):
    scored = told(run, [0.5 + 0.00019 * number for number in range(16)])
    assert not gains.still_rises(scored, 10, DELTA)
    assert stalled(scored)


@pytest.mark.parametrize("mious", [[0.5] * 16, [0.5, 0.52] * 8, [0.6 - 0.001 * number for number in range(16)]])
def test_flat_to_and_fro_and_falling_are_no_rise(run, mious):
    assert not gains.still_rises(told(run, mious), 10, DELTA)


def test_without_counts_of_the_images_a_rise_from_a_fall_is_a_stall_as_before(run):
    for number, miou in enumerate([0.6, *(0.4 + 0.01 * step for step in range(15))], start=1):
        run.trains(number, miou)
    assert stalled(run.history.scored_lineage())


def test_a_rise_that_ended_one_and_a_half_patiences_ago_no_longer_counts(run):
    mious = [0.4 + 0.001 * number for number in range(20)] + [0.42] * 16
    assert not gains.still_rises(told(run, mious), 10, DELTA)


def test_once_stalled_a_rise_by_chance_does_not_end_it(run):
    flat = [0.5] * 13
    scored = told(run, flat + [0.5 + 0.001 * number for number in range(1, 16)])
    assert gains.still_rises(scored, 10, DELTA)
    assert stalled(scored)


# --- noise and slow gains, over images drawn by chance -------------------------------------------------------------


class Training:
    """Epochs of a given quality, scored over the same images: each image is easier or harder, and moves by chance.

    The gain over the reference comes from the counts of the images, as it does in a run.
    """

    def __init__(self, run, seed: int, images: int = 16, classes: int = 5) -> None:
        self.run, self.chance = run, np.random.default_rng(seed)
        self.names = tuple(f"tile_{number}" for number in range(images))
        self.support = self.chance.lognormal(8, 1, (images, classes)).astype(np.int64)
        self.hardness = self.chance.normal(0, 0.1, self.support.shape)
        self.counts: dict[tuple[int, int], PerImage] = {}
        self.references: list[int] = []
        self.widths: list[float] = []

    def epoch(self, number: int, quality: float) -> None:
        recall = np.clip(quality + self.hardness + self.chance.normal(0, 0.03, self.support.shape), 0.02, 0.98)
        right = (self.support * recall).astype(np.int64)
        counts = PerImage(self.names, right, self.support, right + (self.support * (1 - recall)).astype(np.int64))
        union = counts.support + counts.predicted - right
        miou = float((right.sum(axis=0) / union.sum(axis=0)).mean())
        found = gains.Reference(DELTA).over(self.run.history.scored_lineage()).found
        gain = None if found is None else self._gain(found[0], counts)
        self.counts[self.run.trains(number, miou, gain=gain).key] = counts
        self.references.append(reference(self.run))

    def _gain(self, than, counts: PerImage) -> Gain:
        told = difference(self.counts[than.key], counts)
        self.widths.append(told.high - told.low)
        return self.run.over(than, told.difference, told.low, told.high)

    @property
    def stalls(self) -> bool:
        alerts = current_alerts(self.run.history, AlertsConfig(patience=10, min_delta=DELTA))
        return any(alert.code == "miou-stall" and not alert.pending for alert in alerts)


@pytest.fixture
def training(a_run):
    def begin(seed: int) -> Training:
        run = a_run()
        run.begins()
        return Training(run, seed)

    return begin


@pytest.mark.parametrize("seed", range(6))
def test_noise_around_a_plateau_stalls_soon_and_is_called_better_twice_at_most(training, seed):
    train = training(seed)
    stalled_at = None
    for number in range(1, 41):
        train.epoch(number, 0.7)
        if stalled_at is None and train.stalls:
            stalled_at = number
    assert np.mean(train.widths) > 5 * DELTA, "the noise must be larger than min_delta, or the test shows nothing"
    assert stalled_at is not None
    assert stalled_at <= 25
    assert len(set(train.references)) <= 3
    assert train.stalls


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step", [0.002, 0.004])
def test_steady_true_gains_far_below_the_noise_of_one_score_never_stall(training, seed, step):
    """0.2 points an epoch under an interval of 2.5: no epoch is surely better than the one before it."""
    train = training(seed)
    for number in range(1, 41):
        train.epoch(number, 0.6 + step * number)
        assert not train.stalls, f"epoch {number}"
    assert np.mean(train.widths) > 5 * step
    assert len(set(train.references)) >= 3


def test_a_plateau_after_a_rise_is_told_within_two_patiences(training):
    train = training(7)
    for number in range(1, 46):
        train.epoch(number, 0.5 + 0.008 * min(number, 25))
        assert number > 34 or not train.stalls
    assert train.stalls
