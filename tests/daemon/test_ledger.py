"""The ledger, against figures computed by hand."""

from __future__ import annotations

import pytest
from segwatch.daemon import ledger, ledger_page
from segwatch.daemon.events import (
    AttemptEnded,
    AttemptSpawned,
    AttemptStarted,
    Diagnosed,
    Outcome,
    ProbationEnded,
    RunFinished,
)
from segwatch.daemon.ledger import Fate
from segwatch.daemon.measuring import Measured
from segwatch.daemon.probation import Stage
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Drill, DrillKind
from segwatch.trainer.diagnosis import Finding

STEPS_PER_EPOCH = 10


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=20)  # 200 steps are wanted
    starts(run)
    return run


def starts(run) -> float:
    """The worker of the newest plan; returns the moment at which it was started."""
    run.tell(AttemptSpawned(attempt=run.attempt, pid=1, create_time=1.0))
    run.tell(
        AttemptStarted(
            attempt=run.attempt, lr=1e-3, amp=Amp.OFF, device="cpu", parameters=1, steps_per_epoch=STEPS_PER_EPOCH
        )
    )
    return run.history.current.spawned_at


def fails(run, cause: Cause, *, step: int, outcome: Outcome = Outcome.UNSTABLE, drill: Drill | None = None):
    """The worker leaves with `step` steps behind it."""
    epoch = step // STEPS_PER_EPOCH
    run.tell(
        AttemptEnded(
            attempt=run.attempt, outcome=outcome, cause=cause, message="m", step=step, epoch=epoch, stepped=True
        )
    )
    return run.suffers(cause, step=step + 1, epoch=epoch + 1, drill=drill)


def is_found(run, number: int, finding: Finding) -> None:
    run.tell(Diagnosed(incident=number, finding=finding, because="as told"))


def goes_on(run, step: int, remedy: str, **more) -> float:
    number = run.history.incidents[-1].number
    run.plans(resume_step=step, resume_epoch=step // STEPS_PER_EPOCH, incident=number, remedy=remedy, **more)
    return starts(run)


def of(run, number: int, measured=None) -> ledger.Row:
    return ledger.rows(run.history, measured or {})[number - 1]


# --- a run of three incidents, computed by hand -------------------------------------------------------------------


def three_incidents(run):
    """Killed at step 37, not finite in fp16 at 58, hung at 63; 4 images a step, 8 images a second."""
    for epoch in (1, 2, 3):
        run.trains(epoch, 0.1 * epoch)
    fails(run, Cause.WORKER_CRASHED, step=37, outcome=Outcome.KILLED)
    second = goes_on(run, 35, "resume")
    run.trains(4, 0.4)
    run.trains(5, 0.5)
    fails(run, Cause.NAN_LOSS, step=58)
    is_found(run, 2, Finding.PRECISION)
    third = goes_on(run, 50, "bf16", amp=Amp.BF16)
    run.trains(6, 0.6)
    run.tell(ProbationEnded(attempt=3, incident=2, passed=True, because="well", epochs=2, miou=0.62, miou_before=0.5))
    fails(run, Cause.WORKER_HUNG, step=63, outcome=Outcome.HUNG)
    goes_on(run, 60, "resume")
    run.trains(7, 0.7)
    return {
        1: Measured(fault_at=10.0, trains_at=second + 3.0, caught_up_at=16.0, pace_before=8.0, pace_after=8.0),
        2: Measured(fault_at=20.0, trains_at=third + 4.0, pace_before=8.0, pace_after=6.0),
        3: Measured(fault_at=26.0, caught_up_at=30.5),
    }


def test_steps_lost_are_those_between_the_end_and_where_the_next_attempt_begins(run):
    measured = three_incidents(run)
    assert [row.steps_lost for row in ledger.rows(run.history, measured)] == [2, 8, 3]


def test_time_is_lost_until_the_run_is_as_far_as_before_or_until_the_next_fault(run):
    measured = three_incidents(run)
    # Of the second nothing tells that it was caught up: from the fault of the third on, time is lost by that one.
    assert [row.seconds_lost for row in ledger.rows(run.history, measured)] == [6.0, 6.0, 4.5]


def test_the_effect_on_scores_is_that_of_the_probation_or_of_the_epochs_around_the_restart(run):
    measured = three_incidents(run)
    told = [(row.miou_before, row.miou_after) for row in ledger.rows(run.history, measured)]
    assert told == [(pytest.approx(0.3), 0.4), (0.5, 0.62), (0.6, 0.7)]
    assert [row.pace_after for row in ledger.rows(run.history, measured)] == [8.0, 6.0, None]


def test_a_plain_loop_goes_back_to_the_epoch_and_pays_a_start_and_the_lost_steps(run):
    loop = of(run, 1, three_incidents(run)).loop
    # From step 37 to the checkpoint of epoch 3, step 30; a start of 3 s, and 7 steps of 4 images at 8 images a second.
    assert loop == ledger.PlainLoop(Fate.GOES_ON, 7, pytest.approx(3.0 + 3.5))


def test_a_plain_loop_never_gets_past_what_lies_in_the_precision(run):
    loop = of(run, 2, three_incidents(run)).loop
    assert (loop.fate, loop.steps) == (Fate.FOR_EVER, 200 - 58)
    assert loop.seconds == run.history.last_at - 20.0


def test_the_sums_of_a_plain_loop_end_where_it_ends(run):
    measured = three_incidents(run)
    total = ledger.totals(ledger.rows(run.history, measured))
    assert (total.steps, total.seconds, total.known) == (13, 16.5, True)
    assert total.loop_ends.number == 2  # the hang after it is none of the loop's
    assert total.loop_steps == 7 + 142
    assert total.loop_seconds == pytest.approx(6.5 + run.history.last_at - 20.0)


def test_the_section_says_the_same_in_words(run, tmp_path, monkeypatch):
    measured = three_incidents(run)
    monkeypatch.setattr(ledger_page, "measured", lambda *_: measured)
    told = ledger_page.account(tmp_path, run.history)
    assert told is not None
    text = "\n".join([*(f"| {' | '.join(row)} |" for row in told.rows), *told.words])
    assert (
        "| 002 | nan-loss, attempt 2, epoch 6, step 59 | precision | bf16 | 8 | 6 s | 50.00 % -> 62.00 % | 8 -> 6 | "
        "recovered | - | the same again, for ever: 142 steps never trained |"
    ) in text
    assert "| - | resume | 2 | 6 s | 30.00 % -> 40.00 % | 8 -> 8 |" in text
    assert "Lost over 3 incidents: 13 steps and 16 s." in text
    assert "A plain loop would have come to step 59 and not beyond (incident 002" in text
    assert ledger_page.ASSUMPTION in text


def test_a_run_without_incidents_has_no_ledger(run, tmp_path):
    run.trains(1, 0.5)
    assert ledger_page.account(tmp_path, run.history) is None


# --- what a plain loop makes of each trouble ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "finding", "drill", "fate"),
    [
        (Cause.NAN_LOSS, Finding.TRANSIENT, None, Fate.GOES_ON),
        (Cause.NAN_LOSS, Finding.DATA, None, Fate.FOR_EVER),
        (Cause.NAN_LOSS, Finding.LEARNING_RATE, None, Fate.FOR_EVER),
        (Cause.NAN_LOSS, Finding.UNKNOWN, None, Fate.MAY_GO_ON),
        (Cause.NAN_LOSS, None, None, Fate.MAY_GO_ON),
        (Cause.NAN_LOSS, None, DrillKind.NAN_LOSS, Fate.GOES_ON),
        (Cause.NAN_LOSS, Finding.PRECISION, DrillKind.OVERFLOW, Fate.FOR_EVER),
        (Cause.WORKER_CRASHED, None, None, Fate.GOES_ON),
        (Cause.WORKER_CRASHED, Finding.DATA, None, Fate.FOR_EVER),
        (Cause.WORKER_CRASHED, Finding.UNKNOWN, None, Fate.MAY_GO_ON),
        (Cause.OUT_OF_MEMORY, None, None, Fate.FOR_EVER),
        (Cause.OUT_OF_MEMORY, None, DrillKind.OUT_OF_MEMORY, Fate.GOES_ON),
        (Cause.WORKER_HUNG, None, None, Fate.UNNOTICED),
        (Cause.MIOU_COLLAPSE, None, None, Fate.UNNOTICED),
    ],
)
def test_what_a_plain_loop_makes_of_it(run, cause, finding, drill, fate):
    fails(run, cause, step=7, drill=drill and Drill(kind=drill, step=8))
    if finding is not None:
        is_found(run, 1, finding)
    assert of(run, 1).loop.fate is fate


def test_a_loop_that_may_have_gone_on_is_told_as_the_least_it_lost(run):
    fails(run, Cause.NAN_LOSS, step=7)
    total = ledger.totals(ledger.rows(run.history, {}))
    assert (total.loop_steps, total.loop_exact) == (7, False)
    assert "at least 7 steps" in "".join(ledger_page.sums(total))


# --- the single row -------------------------------------------------------------------------------------------------


def test_a_step_that_was_skipped_costs_one_step_and_no_time_and_the_loop_the_same(run):
    run.suffers(Cause.INF_GRADIENTS, fatal=False)
    row = of(run, 1)
    assert (row.steps_lost, row.seconds_lost, row.loop.fate, row.answer) == (1, 0.0, Fate.UNHARMED, None)
    assert "none: the step was skipped" in ledger_page.cells(row)


def test_what_is_not_known_yet_is_unknown_and_not_zero(run):
    fails(run, Cause.NAN_LOSS, step=7)
    row = of(run, 1)
    assert (row.steps_lost, row.seconds_lost, row.miou_before, row.miou_after) == (None, None, None, None)
    assert not ledger.totals([row]).known


def test_an_answer_of_the_ladder_is_told_as_a_guess_and_one_of_a_finding_is_not(run):
    fails(run, Cause.NAN_LOSS, step=7)
    is_found(run, 1, Finding.UNKNOWN)
    goes_on(run, 0, "lower-lr", guessed=True)
    fails(run, Cause.NAN_LOSS, step=9)
    is_found(run, 2, Finding.LEARNING_RATE)
    goes_on(run, 0, "lower-lr")
    fails(run, Cause.WORKER_CRASHED, step=12, outcome=Outcome.KILLED)
    goes_on(run, 10, "resume")
    assert [ledger_page.verdict(row) for row in ledger.rows(run.history, {})] == [
        "unknown (guessed)",
        "learning-rate",
        "-",
    ]


def test_each_undoing_stands_with_the_incident_whose_remedy_it_took_back(run):
    """Two cuts of the rate: the newest is taken back first; that went well, so the next try is of the one before."""
    for step in (7, 9):
        fails(run, Cause.NAN_LOSS, step=step)
        goes_on(run, 0, "lower-lr")
    for passed in (True, False):
        run.plans(undoes="lower-lr", resume_step=20, resume_epoch=2)
        run.tell(ProbationEnded(attempt=run.attempt, incident=None, passed=passed, because="as told"))
    first, second = ledger.rows(run.history, {})
    assert [ledger_page.undoing_words(one) for one in first.undone] == [
        "lower-lr taken back in attempt 5: failed, put back for the rest of the run"
    ]
    assert [ledger_page.undoing_words(one) for one in second.undone] == ["lower-lr taken back in attempt 4: went well"]


def test_what_an_undoing_in_vain_threw_away_is_lost_by_the_incident_of_its_remedy(run):
    fails(run, Cause.NAN_LOSS, step=25)
    is_found(run, 1, Finding.PRECISION)
    goes_on(run, 20, "bf16", amp=Amp.BF16)
    for step, plan in (
        (40, {"undoes": "bf16", "amp": Amp.FP16}),
        (63, {"puts_back": "bf16", "remedy": "bf16", "amp": Amp.BF16}),
    ):
        stopped = {"outcome": "stopped", "cause": None, "message": "m", "stepped": True}
        run.tell(AttemptEnded.model_validate({"attempt": run.attempt, "step": step, "epoch": step // 10, **stopped}))
        run.plans(resume_step=40, resume_epoch=4, **plan)
        starts(run)
        if "undoes" in plan:
            run.tell(ProbationEnded(attempt=run.attempt, incident=None, passed=False, because="too low"))
    row = of(run, 1, {1: Measured(fault_at=1.0, caught_up_at=4.0, undoing_seconds=5.5)})
    assert (row.steps_lost, row.undoing_steps) == (5 + 23, 23)
    assert (row.seconds_lost, row.undoing_seconds) == (3.0 + 5.5, 5.5)
    assert ledger.totals([row]).steps == 28


@pytest.mark.parametrize(
    ("cause", "finding", "puts_back", "fate"),
    [
        (Cause.NAN_LOSS, Finding.PRECISION, "bf16", Fate.SPARED),
        (Cause.NAN_LOSS, Finding.UNKNOWN, "bf16", Fate.SPARED),
        (Cause.WORKER_CRASHED, None, "bf16", Fate.GOES_ON),  # by chance while it was put back for its scores
        (Cause.NAN_LOSS, Finding.DATA, None, Fate.FOR_EVER),
    ],
)
def test_what_an_undoing_brought_about_a_plain_loop_would_not_have_met(run, cause, finding, puts_back, fate):
    fails(run, Cause.NAN_LOSS, step=25)
    is_found(run, 1, Finding.TRANSIENT)
    goes_on(run, 20, "bf16", amp=Amp.BF16)
    run.plans(undoes="bf16", resume_step=40, resume_epoch=4)
    starts(run)
    fails(run, cause, step=47)
    if finding is not None:
        is_found(run, 2, finding)
    goes_on(run, 40, puts_back or "leave-out", puts_back=puts_back)
    row = of(run, 2)
    assert row.loop.fate is fate
    assert (row.loop.steps == 0) == (fate is Fate.SPARED)
    assert row.steps_lost == 7, "it did cost this run something"


def test_the_outcome_of_a_run_that_ended_on_probation_says_so(run):
    run.trains(1, 0.5)
    fails(run, Cause.NAN_LOSS, step=17)
    goes_on(run, 10, "lower-lr")
    run.tell(RunFinished(trained=20))
    assert of(run, 1).stage is Stage.ENDED_ON_PROBATION
