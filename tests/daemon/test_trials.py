"""A remedy that has proved itself is taken back by an attempt of its own, and put back where it is still needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from segwatch.checkpoints.manifest import Role
from segwatch.daemon.events import AlertChanged, IncidentOpened, Outcome, ProbationEnded
from segwatch.daemon.views import happened
from segwatch.trainer.contract import ExitCode

from ..faults.in_process import Killed
from ..faults.in_turns import Night


@pytest.fixture
def night(tmp_path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.close()


def without_amp(night: Night) -> None:
    """Epochs 1 and 2 under fp16, 3 and 4 without, which is enough: as epoch 5 begins, attempt 3 tries fp16 again."""
    night.trains(2)
    night.meets_a_nan()
    night.is_found("precision")
    assert (night.plan.attempt, night.plan.remedy, night.plan.amp) == (2, "amp-off", "off")
    night.trains(2)
    assert [end.passed for end in night.tell(ProbationEnded)] == [True]
    assert (night.plan.attempt, night.plan.undoes) in {(2, None), (3, "amp-off")}


def test_the_alert_of_an_incident_is_over_when_its_remedy_has_proved_itself(night):
    night.trains(2)
    night.meets_a_nan()
    night.is_found("precision")
    night.trains(1)
    states = lambda: [a.state for a in night.tell(AlertChanged) if a.code == "nan-loss"]  # noqa: E731
    assert states() == ["firing", "firing"]  # opened, then answered
    night.trains(1)
    assert states() == ["firing", "firing", "resolved"]


def test_amp_comes_back_at_the_beginning_of_an_epoch_by_a_worker_that_saved_and_left(night):
    without_amp(night)
    assert (night.plan.attempt, night.plan.undoes, night.plan.amp, night.plan.lr) == (3, "amp-off", "fp16", 1e-3)
    assert (night.plan.resume_step, night.plan.incident, night.plan.remedy) == (8, None, None)
    assert night.history.attempt(2).ended.outcome is Outcome.STOPPED
    assert len(night.tell(IncidentOpened)) == 1
    night.trains(2)
    assert [(end.attempt, end.passed) for end in night.tell(ProbationEnded)] == [(2, True), (3, True)]
    night.trains(6)
    assert night.over
    assert night.world.daemon.exit_code == 0
    assert any("AMP off -> fp16 again" in line and "went well" in line for line in happened(night.history))


def test_numbers_that_go_wrong_put_it_back_from_before_and_cost_no_budget(tmp_path):
    night = Night(tmp_path, extra="whole_run = 2")
    without_amp(night)
    night.trains(1)
    assert night.plan.undoes == "amp-off"
    night.meets_a_nan()
    night.is_found("precision")
    assert night.world.replayed == [1, 2]
    plan = night.plan
    assert (plan.incident, plan.puts_back, plan.amp, plan.lr) == (2, "amp-off", "off", 1e-3)
    assert plan.resume_from == "checkpoints/checkpoint_epoch4.json"
    assert [end.passed for end in night.tell(ProbationEnded)] == [True, False]
    night.trains(3)
    night.meets_a_nan()
    night.is_found("transient")  # the second restart of two: the one in between was segwatch's own doing
    assert night.history.gave_up is None
    night.trains(5)
    assert night.over
    assert [plan.undoes for plan in night.history.tried.undone] == ["amp-off"], "latched"
    assert any("for the rest of the run" in line for line in happened(night.history))
    night.close()


def test_what_cannot_be_repeated_leaves_the_precision_that_came_back_and_its_trial_goes_on(night):
    without_amp(night)
    night.trains(1)
    night.meets_a_nan()
    night.is_found("transient")
    assert (night.plan.remedy, night.plan.puts_back, night.plan.amp) == ("resume", None, "fp16")
    night.trains(2)
    assert [(end.attempt, end.passed) for end in night.tell(ProbationEnded)] == [(2, True), (3, True), (4, True)]
    assert night.plan.amp == "fp16"


def test_where_nobody_knows_what_broke_it_is_put_back_as_a_guess_and_tried_once_more(tmp_path):
    night = Night(tmp_path, epochs=16)
    without_amp(night)
    night.trains(1)
    night.meets_a_nan()
    night.is_found("unknown")
    assert (night.plan.incident, night.plan.puts_back, night.plan.amp, night.plan.guessed) == (
        2,
        "amp-off",
        "off",
        True,
    )
    assert "guessed: the remedy is still needed" in night.plan.because
    night.trains(4)
    assert (night.plan.undoes, night.plan.amp) == ("amp-off", "fp16")
    night.close()


def test_what_the_precision_broke_while_a_rate_came_back_costs_the_precision_and_not_the_rate(night):
    night.trains(2)
    night.meets_a_nan()
    night.is_found("learning-rate", onset_step=4)
    night.trains(3)
    assert night.plan.undoes == "lower-lr"
    night.meets_a_nan()
    night.is_found("precision", bf16_is_finite=True)
    assert (night.plan.remedy, night.plan.amp, night.plan.lr) == ("bf16", "bf16", 1e-3)


def test_a_daemon_that_dies_behind_the_finding_puts_back_all_the_same(night):
    without_amp(night)
    night.trains(1)
    night.meets_a_nan()
    night.replay()
    night.world.diagnosis_finds(finding="precision")
    night.world.kill_in = 3  # the finding is on the disk, what follows from it is not
    with pytest.raises(Killed):
        night.until(lambda: night.world.worker is not None)
    night.lose_daemon()
    night.begin_daemon()
    night.until(lambda: night.world.worker is not None)
    assert night.world.replayed == [1, 2]
    assert (night.plan.incident, night.plan.puts_back, night.plan.amp) == (2, "amp-off", "off")
    assert [end.passed for end in night.tell(ProbationEnded)] == [True, False]


def test_scores_that_stay_too_low_put_it_back_too_without_an_incident(night):
    without_amp(night)
    night.trains(2, miou=0.45)
    plan = night.plan
    assert (plan.attempt, plan.incident, plan.puts_back, plan.amp) == (4, None, "amp-off", "off")
    assert plan.resume_from == "checkpoints/checkpoint_epoch4.json"
    assert len(night.tell(IncidentOpened)) == 1


def test_what_it_would_be_put_back_from_outlives_retention(night):
    without_amp(night)
    for _ in range(2):
        night.trains(1, miou=0.45)
        night.world.daemon.supervisor._tidy()
    assert night.plan.resume_from == "checkpoints/checkpoint_epoch4.json", "two newer ones were good as well"


def test_a_rate_comes_back_with_a_warm_up_to_what_a_person_wants(night):
    night.trains(2)
    night.meets_a_nan()
    night.is_found("learning-rate", onset_step=4)
    assert (night.plan.lr, night.plan.warm_up_steps) == (5e-4, 50)
    assert night.plan.resume_from == "checkpoints/checkpoint_epoch1.json", "before the onset"
    night.trains(3)
    assert (night.plan.undoes, night.plan.lr, night.plan.amp) == ("lower-lr", 1e-3, "fp16")


def test_a_warm_up_that_is_not_over_is_asked_for_again_at_its_whole_length(tmp_path):
    night = Night(tmp_path, extra="warm_up_steps = 3\nundo = false")
    night.trains(2)
    night.meets_a_nan()
    night.is_found("learning-rate", onset_step=5)
    assert night.plan.resume_step == 4
    asked = []
    for _ in range(2):
        night.trains(1)
        night.world.worker_dies(-9)
        night.until(lambda: night.world.worker is not None)
        asked.append((night.plan.resume_step, night.plan.warm_up_steps))
    assert asked == [(6, 3), (8, 0)], "it ended with step 7"
    night.close()


@pytest.mark.parametrize("asked", [True, False])
def test_a_daemon_that_dies_while_the_worker_leaves_makes_no_incident_of_it(night, asked):
    """It has noted that the worker is to leave; whether it was asked as well, the next one does not know."""
    without_amp(night)
    daemon = night.world.daemon
    daemon.supervisor._trials.part(2)
    worker = night.world.worker
    night.lose_daemon()
    if asked:
        worker.commit(Role.RECOVERY)
        night.world.worker_leaves(ExitCode.STOPPED, "stopped on request")
    night.begin_daemon()
    night.until(lambda: len(night.history.attempts) == 3)
    assert (night.plan.undoes, night.plan.incident) == ("amp-off", None)
    assert len(night.tell(IncidentOpened)) == 1


def test_who_wants_no_undoing_gets_none(tmp_path):
    night = Night(tmp_path, extra="undo = false")
    without_amp(night)
    night.trains(8)
    assert night.over
    assert len(night.history.attempts) == 2
    night.close()
