"""When a remedy has proved itself, when it has not, and that a look at it costs the same after any number of epochs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.events import AttemptSpawned, Outcome, ProbationEnded, RunFinished
from segwatch.daemon.probation import Probations, Stage, on_trial_words, stage, to_go_back_to
from segwatch.trainer.contract import Cause

CONFIG = RecoveryConfig()


def starts(run) -> None:
    run.tell(AttemptSpawned(attempt=run.attempt, pid=1, create_time=0.0))


def remedied(run, *, cause: Cause = Cause.NAN_LOSS, remedy: str = "lower-lr", after: int = 2) -> None:
    """An incident behind so many epochs, answered by an attempt that has started."""
    number = len(run.history.incidents) + 1
    run.suffers(cause, step=10 * after + 5, epoch=after + 1)
    run.plans(incident=number, remedy=remedy, resume_epoch=after, resume_step=10 * after)
    starts(run)


def ends(run, config: RecoveryConfig = CONFIG) -> list[ProbationEnded]:
    return list(Probations(config).ended(run.history))


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    run.trains(1, 0.40)
    run.trains(2, 0.50)
    return run


def test_two_epochs_and_one_score_of_98_percent_of_the_last_one_pass(run):
    remedied(run)
    run.trains(3, 0.49)
    assert ends(run) == []  # one epoch
    run.commits(4)
    (end,) = ends(run)
    assert (end.passed, end.attempt, end.incident, end.epochs) == (True, 2, 1, 2)
    assert (end.miou, end.miou_before) == (0.49, 0.50)
    assert end.because == "2 epochs since, test mIoU 49.00 % (50.00 % before it)"


def test_scores_that_stay_too_low_keep_a_remedy_on_probation(run):
    remedied(run)
    for epoch in range(3, 9):
        run.trains(epoch, 0.4899)
    assert ends(run) == []
    assert on_trial_words(run.history) == [
        "lower-lr, since attempt 2: 6 epochs, test mIoU at best 48.99 %, before 50.00 %"
    ]
    run.trains(9, 0.49)
    assert [end.passed for end in ends(run)] == [True]


def test_the_score_asked_for_is_that_before_the_incident_and_not_of_the_epoch_that_was_gone_back_to(run):
    for epoch, miou in ((3, 0.55), (4, 0.60), (5, 0.60)):
        run.trains(epoch, miou)
    run.suffers(Cause.NAN_LOSS, step=55, epoch=6)
    run.plans(incident=1, remedy="lower-lr", resume_epoch=2, resume_step=20)
    for epoch in (3, 4, 5):
        run.moves(1, epoch)
    starts(run)
    for epoch, miou in ((3, 0.50), (4, 0.50), (5, 0.50), (6, 0.50)):
        run.trains(epoch, miou)
        assert ends(run) == [], "all of them below 98 % of 60 %"
    run.trains(7, 0.59)
    (end,) = ends(run)
    assert (end.passed, end.miou_before) == (True, 0.60)


def test_a_remedy_has_not_proved_itself_before_the_run_is_past_where_it_broke(run):
    for epoch in (3, 4, 5):
        run.trains(epoch, 0.50)
    run.suffers(Cause.NAN_LOSS, step=55, epoch=6)
    run.plans(incident=1, remedy="lower-lr", resume_epoch=2, resume_step=20)
    for epoch in (3, 4, 5):
        run.moves(1, epoch)
    starts(run)
    for epoch in (3, 4, 5):
        run.trains(epoch, 0.50)
        assert ends(run) == [], "step 55 is still ahead"
    run.trains(6, 0.50)
    assert [end.passed for end in ends(run)] == [True]


def test_of_scores_that_collapsed_the_last_one_before_the_fall_is_asked_for(run):
    for epoch, miou in ((3, 0.60), (4, 0.10), (5, 0.10)):
        run.trains(epoch, miou)
    run.suffers(Cause.MIOU_COLLAPSE, step=51, epoch=6, evidence={"onset_step": 40})
    run.plans(incident=1, remedy="lower-lr", resume_epoch=3, resume_step=30)
    run.trains(4, 0.6)
    assert history_before(run) == 0.60


def test_what_an_earlier_roll_back_had_moved_away_did_not_stand_before_the_incident(run):
    run.trains(3, 0.70)
    remedied(run)
    run.moves(1, 3)
    run.trains(3, 0.55)
    run.suffers(Cause.NAN_LOSS, step=35, epoch=4)
    assert history_before(run) == 0.55


def history_before(run) -> float | None:
    good = run.history.last_good_before(run.history.incidents[-1])
    return good and good.miou("test")


def test_share_and_epochs_are_the_configured_ones(run):
    remedied(run)
    run.trains(3, 0.30)
    assert [end.passed for end in ends(run, RecoveryConfig(probation_epochs=1, probation_share=0.5))] == []
    run.trains(4, 0.36)  # 0.30 has collapsed: no good epoch, whatever the share
    assert [end.passed for end in ends(run, RecoveryConfig(probation_epochs=1, probation_share=0.7))] == [True]
    assert ends(run, RecoveryConfig(probation_epochs=3, probation_share=0.7)) == []


def test_without_a_score_before_it_any_good_score_will_do(a_run):
    run = a_run()
    run.begins()
    remedied(run, after=0)
    run.commits(1)
    run.commits(2)
    assert ends(run) == []
    for epoch in run.history.lineage():
        run.scores(epoch, "val", 0.1)
    assert ends(run) == []  # not known to be good
    run.scores(run.history.epochs[2, 1], "test", 0.1)
    (end,) = ends(run)
    assert end.passed
    assert "no score before it" in end.because


def test_what_stands_ahead_of_the_resume_point_does_not_count_until_the_attempt_begins(run):
    run.trains(3, 0.6)
    run.trains(4, 0.6)
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, remedy="lower-lr", resume_epoch=2, resume_step=20)
    assert ends(run) == []  # epochs 3 and 4 are about to be superseded
    for epoch in (3, 4):
        run.moves(1, epoch)
    starts(run)
    assert ends(run) == []


def test_the_same_trouble_ends_a_trial_and_another_kind_does_not(run):
    remedied(run)
    remedied(run, cause=Cause.WORKER_CRASHED, remedy="resume")
    assert ends(run) == []
    run.suffers(Cause.NAN_LOSS, epoch=3)
    run.finds("unknown")
    (end,) = ends(run)
    assert (end.passed, end.attempt, end.incident) == (False, 2, 1)
    assert end.because == "nan-loss came back in epoch 3 (incident 003)"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((Cause.NAN_LOSS, "precision"), (Cause.NAN_LOSS, "precision"), "nan-loss came back"),
        ((Cause.NAN_LOSS, "precision"), (Cause.INF_GRADIENTS, "precision"), "inf-gradients came in"),
        ((Cause.NAN_LOSS, "precision"), (Cause.NAN_LOSS, "transient"), None),
        ((Cause.NAN_LOSS, "learning-rate"), (Cause.NAN_LOSS, "data"), None),
        ((Cause.NAN_LOSS, "learning-rate"), (Cause.NAN_LOSS, "unknown"), "nan-loss came back"),
        ((Cause.NAN_LOSS, "unknown"), (Cause.LOSS_SPIKE, "unknown"), None),
        ((Cause.OUT_OF_MEMORY, None), (Cause.OUT_OF_MEMORY, None), "out-of-memory came back"),
        ((Cause.OUT_OF_MEMORY, None), (Cause.WORKER_HUNG, None), None),
    ],
)
def test_a_remedy_fails_by_what_it_was_against_and_by_nothing_else(run, first, second, words):
    run.suffers(first[0], step=25, epoch=3)
    if first[1] is not None:
        run.finds(first[1])
    run.plans(incident=1, remedy="amp-off", resume_epoch=2, resume_step=20)
    starts(run)
    run.suffers(second[0], step=26, epoch=3)
    if second[1] is not None:
        run.finds(second[1])
    told = [end.because for end in ends(run) if not end.passed]
    assert [because.startswith(words or "-") for because in told] == ([] if words is None else [True])


@pytest.mark.parametrize(("outcome", "held"), [(Outcome.KILLED, True), (Outcome.CRASHED, False)])
def test_a_kill_is_no_crash_on_a_bad_file_that_comes_back(run, outcome, held):
    run.ends(Outcome.CRASHED, cause=Cause.WORKER_CRASHED, epoch=2)
    run.suffers(Cause.WORKER_CRASHED, step=25, epoch=3)
    run.finds("data", files=("a.png",))
    run.plans(incident=1, remedy="leave-out", resume_epoch=2, resume_step=20)
    starts(run)
    run.ends(outcome, cause=Cause.WORKER_CRASHED, epoch=2)
    run.suffers(Cause.WORKER_CRASHED, step=27, epoch=3)
    run.plans(incident=2, remedy="resume", resume_epoch=2, resume_step=20)
    assert (ends(run) == []) == held


def test_another_file_that_is_broken_says_nothing_against_leaving_out_the_first(run):
    remedied(run, remedy="leave-out")
    run.finds("data", files=("a.png",))
    run.suffers(Cause.NAN_LOSS, step=27, epoch=3)
    run.finds("data", files=("b.png",))
    assert ends(run) == []


def test_while_it_is_not_known_what_broke_nothing_is_decided(run):
    remedied(run)
    run.trains(3, 0.5)
    run.trains(4, 0.5)
    run.suffers(Cause.NAN_LOSS, step=45, epoch=5)
    assert ends(run) == []
    assert [end.passed for end in ends(run, RecoveryConfig(diagnose=False))] == [False]
    run.finds("transient")
    assert [end.passed for end in ends(run)] == [False], "of the first nothing was found, and it looks the same"


def test_epochs_of_a_later_attempt_with_the_same_settings_count(run):
    remedied(run)
    run.trains(3, 0.5)
    remedied(run, cause=Cause.WORKER_CRASHED, remedy="resume", after=3)
    run.trains(4, 0.5)
    assert [(end.attempt, end.passed) for end in ends(run)] == [(2, True)]


def test_an_undoing_fails_where_the_scores_stay_too_low_and_where_numbers_go_wrong(run):
    run.plans(undoes="amp-off", resume_epoch=2, resume_step=20)
    starts(run)
    run.trains(3, 0.45)
    assert ends(run) == []
    run.suffers(Cause.WORKER_CRASHED)
    assert ends(run) == []
    run.trains(4, 0.45)
    (end,) = ends(run)
    assert (end.passed, end.incident) == (False, None)
    assert end.because == "2 epochs since, test mIoU 45.00 % at best (50.00 % before it; 98% of it is asked)"
    run.suffers(Cause.LOSS_SPIKE, epoch=5)
    run.finds("unknown", because="the time was not enough.")
    (end,) = ends(run)
    assert (end.passed, end.guessed) == (False, True)
    assert end.because == (
        "loss-spike came in epoch 5 (incident 002), and what it was could not be found out (the time was not enough)"
    )


@pytest.mark.parametrize(
    ("undoes", "finding", "fails", "guessed"),
    [
        ("bf16", {"finding": "precision"}, True, False),
        ("amp-off", {"finding": "precision"}, True, False),
        ("bf16", {"finding": "transient"}, False, False),
        ("bf16", {"finding": "learning-rate"}, False, False),
        ("bf16", {"finding": "data", "files": ("a.png",)}, False, False),
        ("bf16", {"finding": "data"}, True, True),
        ("bf16", {"finding": "unknown"}, True, True),
        ("lower-lr", {"finding": "learning-rate"}, True, False),
        ("lower-lr", {"finding": "precision"}, False, False),
        ("lower-lr", {"finding": "transient"}, False, False),
        ("lower-lr", {"finding": "capacity"}, False, False),
        ("lower-lr", {"finding": "unknown"}, True, True),
    ],
)
def test_an_undoing_fails_only_by_what_its_remedy_was_against_or_by_what_nobody_knows(
    run, undoes, finding, fails, guessed
):
    run.plans(undoes=undoes, amp="fp16", resume_epoch=2, resume_step=20)
    starts(run)
    run.suffers(Cause.NAN_LOSS, step=25, epoch=3)
    assert ends(run) == [], "first it is replayed"
    run.finds(**finding)
    assert [(end.passed, end.guessed) for end in ends(run)] == ([(False, guessed)] if fails else [])


def test_the_third_that_cannot_be_repeated_in_one_place_speaks_against_an_undoing_as_a_guess(run):
    run.plans(undoes="bf16", amp="fp16", resume_epoch=2, resume_step=20)
    for times in (1, 2, 3):
        run.suffers(Cause.NAN_LOSS, step=25, epoch=3)
        run.finds("transient")
        assert [end.guessed for end in ends(run) if end.incident is None] == [True] * (times == 3)
        run.plans(incident=times, remedy="resume", amp="fp16", resume_epoch=2, resume_step=20)


def test_without_replays_what_breaks_an_undoing_is_a_guess(run):
    run.plans(undoes="bf16", amp="fp16", resume_epoch=2, resume_step=20)
    run.suffers(Cause.NAN_LOSS, step=25, epoch=3)
    (end,) = ends(run, RecoveryConfig(diagnose=False))
    assert (end.passed, end.guessed) == (False, True)
    assert end.because.endswith("(incident 001), and nothing was replayed")


def test_a_run_that_ends_early_passes_with_a_sound_last_score_and_else_ended_on_probation(run):
    remedied(run)
    run.trains(3, 0.45)
    assert list(Probations(CONFIG).at_the_end(run.history)) == []
    run.tell(RunFinished())
    assert stage(run.history, run.history.incidents[0]) is Stage.ENDED_ON_PROBATION
    run.trains(4, 0.5)
    (end,) = Probations(CONFIG).at_the_end(run.history)
    assert (end.passed, end.miou) == (True, 0.5)


def test_an_incident_goes_from_open_by_probation_to_resolved_or_failed(run):
    run.suffers(Cause.NAN_LOSS)
    first = run.history.incidents[0]
    assert stage(run.history, first) is Stage.OPEN
    run.plans(incident=1, remedy="lower-lr", resume_epoch=2, resume_step=20)
    assert stage(run.history, first) is Stage.ON_PROBATION
    run.suffers(Cause.NAN_LOSS)
    run.finds("unknown")
    for end in ends(run):
        run.tell(end)
    assert stage(run.history, first) is Stage.FAILED
    remedied(run)
    run.trains(3, 0.5)
    run.trains(4, 0.5)
    for end in ends(run):
        run.tell(end)
    assert [stage(run.history, incident) for incident in run.history.incidents] == [
        Stage.FAILED,
        Stage.RESOLVED,
        Stage.RESOLVED,
    ]


def test_each_trial_ends_once(run):
    remedied(run)
    kept = Probations(CONFIG)
    run.trains(3, 0.5)
    run.trains(4, 0.5)
    for end in kept.ended(run.history):
        run.tell(end)
    assert list(kept.ended(run.history)) == []


def test_what_an_undoing_would_be_answered_from_is_kept(run):
    assert to_go_back_to(run.history) is None
    remedied(run)
    assert to_go_back_to(run.history) is None
    run.plans(undoes="lower-lr", resume_epoch=2, resume_step=23)
    run.trains(3, 0.5)
    assert to_go_back_to(run.history).epoch == 2


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trains"), st.sampled_from([None, 0.3, 0.45, 0.49, 0.5, 0.6])),
        st.tuples(st.just("back"), st.integers(0, 2)),
        st.tuples(st.just("quarantine"), st.integers(0, 2)),
        st.tuples(st.just("late"), st.sampled_from([0.4, 0.5])),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_what_is_folded_score_by_score_is_what_a_look_at_all_of_them_says(a_run, steps):
    run = a_run()
    run.begins()
    run.trains(1, 0.5)
    remedied(run, after=1)
    kept, newest, waiting = Probations(CONFIG), 1, []
    for what, how in steps:
        line = run.history.lineage()
        match what:
            case "trains":
                newest += 1
                run.trains(newest, how, verdict="ok" if how is not None else "failed")
            case "late":
                newest += 1
                for epoch in waiting:
                    run.scores(epoch, "val", how)
                    run.scores(epoch, "test", how)
                waiting = [run.commits(newest)]
            case "quarantine" if len(line) > how + 1:
                run.moves(line[-1 - how].attempt, line[-1 - how].epoch, "quarantined")
            case "back" if newest - how >= 1:
                newest -= how
                for epoch in [epoch for epoch in line if epoch.epoch > newest]:
                    run.moves(epoch.attempt, epoch.epoch)
                waiting = [epoch for epoch in waiting if epoch.moved is None]
                run.plans(incident=None, resume_epoch=newest, resume_step=10 * newest)
                starts(run)
        assert list(kept.ended(run.history)) == ends(run)
