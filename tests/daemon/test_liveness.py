"""Whether a worker gets on: judged by its steps and the phase it is in, with a time that the test gives."""

from __future__ import annotations

import pytest
from segwatch.daemon.config import WatchConfig
from segwatch.daemon.liveness import Liveness
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import (
    Cause,
    CheckpointLine,
    Drill,
    DrillKind,
    DrillLine,
    Finished,
    Phase,
    Progress,
    Started,
    Trouble,
)

CONFIG = WatchConfig(
    hang_floor_seconds=60, first_step_seconds=300, loading_seconds=200, saving_seconds=100, stop_grace_seconds=5
)


def phase(name: str, done: int | None = None) -> Phase:
    return Phase(time=0.0, phase=name, done=done)


def step(number: int, *, p99: float = 0.1) -> Progress:
    return Progress(
        time=0.0,
        step=number,
        epoch=1,
        step_in_epoch=number,
        loss=1.0,
        grad_norm=1.0,
        lr=1e-3,
        images_per_second=1.0,
        p99_step_seconds=p99,
    )


STARTED = Started(
    time=0.0,
    attempt=1,
    pid=1,
    lr=1e-3,
    amp=Amp.OFF,
    batch_size=1,
    accumulate=1,
    device="cpu",
    parameters=1,
    epoch=0,
    step=0,
    steps_per_epoch=9,
    epochs=1,
)
SAVED = CheckpointLine(time=0.0, role="epoch", epoch=1, step=9, manifest="checkpoints/x.json", sha256="ab", seconds=1.0)


def watched(*lines: object, until: float = 0.0) -> Liveness:
    """A worker that wrote these lines, all at `until`."""
    liveness = Liveness(CONFIG, 0.0)
    for line in lines:
        liveness.observe(line, until)
    return liveness


@pytest.mark.parametrize(
    ("lines", "budget"),
    [
        ((), 200),
        ((phase("loading"),), 200),
        ((phase("first-step"),), 300),
        ((phase("saving"),), 100),
        ((phase("training"),), 60),
        ((phase("first-step"), step(1)), 60),
        ((phase("first-step"), step(1, p99=20.0)), 120),
        ((phase("training"), step(1, p99=10.0)), 60),
    ],
)
def test_each_phase_has_its_budget_and_just_the_budget_is_not_late(lines, budget):
    liveness = watched(*lines)
    assert liveness.overdue(float(budget)) is None
    assert liveness.overdue(budget + 0.1) is not None


def test_being_late_says_for_how_long_in_which_phase_and_after_which_step():
    liveness = watched(phase("first-step"), step(7))
    assert liveness.overdue(99.0) == "no progress for 99 s in phase 'training' after step 7 (budget 60 s)"
    assert "before its first step" in watched(phase("first-step")).overdue(999.0)


def test_a_new_step_gives_a_new_budget_and_the_same_step_again_does_not():
    liveness = watched(phase("training"), step(7))
    liveness.observe(step(7), 50.0)
    assert liveness.overdue(61.0) is not None
    liveness.observe(step(8), 70.0)
    assert liveness.overdue(130.0) is None


def test_loading_file_after_file_gets_on_without_any_step():
    liveness = watched()
    for count in range(1, 20):
        liveness.observe(phase("loading", count), 150.0 * count)
        assert liveness.overdue(150.0 * count + 199) is None


@pytest.mark.parametrize(("line", "gets_on"), [(STARTED, True), (SAVED, True)])
def test_what_a_worker_does_beside_steps_counts_as_getting_on(line, gets_on):
    liveness = watched(phase("training"), step(1))
    liveness.observe(line, 50.0)
    assert (liveness.overdue(100.0) is None) == gets_on


@pytest.mark.parametrize(
    "line",
    [
        DrillLine(time=0.0, drill=Drill(kind=DrillKind.HANG, step=2)),
        Trouble(time=0.0, cause=Cause.INF_GRADIENTS, step=1, epoch=1, message="m", fatal=False),
        Finished(time=0.0, outcome="finished", epoch=1, step=1),
    ],
    ids=lambda line: line.kind,
)
def test_words_are_no_steps(line):
    liveness = watched(phase("training"), step(1))
    liveness.observe(line, 50.0)
    assert liveness.overdue(61.0) is not None


def test_saving_has_its_own_budget_and_training_goes_on_after_it():
    liveness = watched(phase("training"), step(9), until=10.0)
    liveness.observe(phase("saving"), 20.0)
    assert liveness.overdue(119.0) is None
    liveness.observe(SAVED, 100.0)
    liveness.observe(phase("training"), 100.0)
    assert liveness.overdue(160.0) is None
    assert liveness.overdue(161.0) is not None


def test_a_worker_that_is_adopted_in_mid_epoch_is_in_training_from_its_first_step_on():
    """A daemon that takes up the journal behind its last phase line sees nothing but steps."""
    liveness = watched(step(480))
    assert liveness.phase == "training"
    assert liveness.overdue(61.0) is not None


def test_the_clock_that_counts_is_the_one_that_is_given():
    """The times in the lines are a wall clock's, for people: they may jump."""
    liveness = Liveness(CONFIG, 1000.0)
    liveness.observe(phase("training").model_copy(update={"time": 9e9}), 1000.0)
    assert liveness.overdue(1060.0) is None
    assert liveness.overdue(1061.0) is not None
