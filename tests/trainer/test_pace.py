from __future__ import annotations

import math

import pytest
from segwatch.trainer.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def take_step(pace: Pace, clock: Clock, seconds: float, *, counts: bool = True) -> None:
    pace.begin()
    clock.now += seconds
    pace.end(images=4, counts=counts)


def test_a_slow_first_step_stands_in_until_another_is_known():
    clock = Clock()
    pace = Pace(clock=clock)
    take_step(pace, clock, 30.0, counts=False)
    assert pace.tell().p99_step_seconds == 30.0
    take_step(pace, clock, 0.5)
    assert pace.tell().p99_step_seconds == 0.5


def test_p99_is_the_slowest_but_one_in_a_hundred():
    clock = Clock()
    pace = Pace(clock=clock)
    for number in range(1, 201):
        take_step(pace, clock, float(number))
    assert pace.tell().p99_step_seconds == 198.0


def test_time_between_steps_slows_no_step_down_and_each_telling_begins_anew():
    clock = Clock()
    pace = Pace(clock=clock)
    take_step(pace, clock, 1.0)
    clock.now += 100.0  # saving
    take_step(pace, clock, 1.0)
    for loss in (1.0, 2.0, math.nan):
        pace.note_loss(loss)
    told = pace.tell()
    assert told.images_per_second == pytest.approx(4.0)
    assert told.loss == 1.5
    assert pace.since_told() == 0
    assert pace.tell().loss is None


def test_the_last_losses_of_an_epoch_come_without_a_step_and_are_told_at_its_speed():
    clock = Clock()
    pace = Pace(clock=clock)
    take_step(pace, clock, 1.0)
    assert pace.untold
    pace.tell()
    assert not pace.untold
    pace.note_loss(1.0)
    assert pace.untold
    assert (told := pace.tell()).loss == 1.0
    assert told.images_per_second == pytest.approx(4.0)
