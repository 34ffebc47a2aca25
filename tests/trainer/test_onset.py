"""From which step on a series of losses and norms grew."""

from __future__ import annotations

import random

import pytest
from segwatch.trainer.onset import find_onset

FLAT = [1.0 + 0.1 * (-1) ** step for step in range(200)]


def series(losses, norms=None):
    norms = FLAT[: len(losses)] if norms is None else norms
    return [(step, loss, norm) for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)]


def test_the_first_step_of_a_growth_that_lasts_to_the_end_is_the_onset():
    growing = FLAT[:60] + [4.0 * 2**step for step in range(20)]
    found = find_onset(series(growing))
    assert (found.step, found.figure) == (61, "loss")
    assert found.before == pytest.approx(1.0, abs=0.11)
    assert found.highest == 4.0 * 2**19


def test_what_is_not_finite_at_the_end_belongs_to_the_growth():
    growing = [*FLAT[:60], 8.0, 64.0, 512.0, None, None]
    assert find_onset(series(FLAT[:65], growing)).step == 61


def test_the_earlier_of_two_onsets_counts():
    late, early = FLAT[:80] + [50.0] * 10, FLAT[:70] + [50.0] * 20
    found = find_onset(series(late, early))
    assert (found.step, found.figure) == (71, "gradient norm")


@pytest.mark.parametrize(
    "losses",
    [
        FLAT,
        [*FLAT[:60], 80.0, *FLAT[:60]],
        [*FLAT[:60], None],
        [*FLAT[:60], 50.0, 60.0, None],
        [50.0] * 7,
        [None] * 40,
        [],
        [3.0 * 0.98**step for step in range(200)],
        [1.0] * 100,
    ],
    ids=["flat", "one spike", "one NaN", "too short", "too few", "nothing", "empty", "falling", "constant"],
)
def test_no_growth_has_no_onset(losses):
    assert find_onset(series(losses, FLAT[: len(losses)] + [1.0] * (len(losses) - 200))) is None


def test_an_easy_batch_in_between_does_not_end_a_growth():
    growing = [*FLAT[:60], 20.0, 30.0, 40.0, 50.0, 60.0, 1.0, 70.0, 80.0, 90.0]
    assert find_onset(series(growing)).step == 61


def test_the_noise_of_batches_of_one_image_is_no_onset():
    generator = random.Random(7)
    for _ in range(50):
        noisy = [generator.lognormvariate(0, 0.8) for _ in range(200)]
        assert find_onset(series(noisy, noisy)) is None
