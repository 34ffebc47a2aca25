"""A warm-up across the rooms: the specs as the daemon writes them, the rates as the trainer makes them of these."""

from __future__ import annotations

from dataclasses import replace

from segwatch.trainer.resume import Position

from ..faults.in_turns import Night


def test_after_kills_inside_a_warm_up_the_rates_are_those_of_an_undisturbed_run(tmp_path):
    night = Night(tmp_path, extra="undo = false")
    night.trains(2)
    night.meets_a_nan()
    night.is_found("learning-rate", onset_step=5)
    undisturbed = Position(step=night.plan.resume_step)
    undisturbed.warm_up(night.world.worker.spec)
    resumed = replace(undisturbed)
    for epochs in (1, 2):
        night.trains(epochs)
        night.world.worker_dies(-9)
        night.until(lambda: night.world.worker is not None)
        resumed.step = night.plan.resume_step
        resumed.warm_up(night.world.worker.spec)
    night.close()
    assert (undisturbed.step, resumed.step) == (4, 10)
    rest = range(resumed.step + 1, 60)
    assert [resumed.warmth(step) for step in rest] == [undisturbed.warmth(step) for step in rest]
    assert resumed.warmth(11) == 7 / 50
