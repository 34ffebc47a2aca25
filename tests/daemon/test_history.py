"""What a run is, told from its facts: which epochs are good, what is past, which line stands, what was a drill."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.daemon.events import (
    EVENT,
    BudgetsForgiven,
    ConfigChanged,
    DrillsRequested,
    Gain,
    GaveUp,
    ProbationEnded,
    RunFinished,
    ScoreRecorded,
)
from segwatch.daemon.history import History
from segwatch.daemon.members import COLLAPSE_SHARE
from segwatch.trainer.contract import Cause, Drill, DrillKind


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=5)
    return run


# --- verified good -------------------------------------------------------------------------------------------------


def test_an_epoch_is_not_known_to_be_good_until_both_splits_are_scored(run):
    epoch = run.commits(1)
    assert epoch.verified_good is None
    run.scores(epoch, "val", 0.5)
    assert epoch.verified_good is None
    run.scores(epoch, "test", 0.5)
    assert epoch.verified_good is True


def test_what_is_not_finite_or_quarantined_is_known_to_be_bad_before_any_score(run):
    assert run.commits(1, finite=False).verified_good is False
    epoch = run.trains(2, 0.5)
    run.moves(1, 2, "quarantined")
    assert epoch.verified_good is False


@pytest.mark.parametrize(
    ("verdict", "miou", "good"),
    [
        ("ok", 0.5, True),
        ("single-class", 0.2, True),  # normal in the first epoch of an unbalanced set
        ("not-finite", None, False),
        ("failed", None, False),
        ("corrupt", None, False),
        ("a verdict of a later release", 0.5, False),
    ],
)
def test_only_what_was_really_scored_can_be_good(run, verdict, miou, good):
    assert run.trains(1, miou, verdict=verdict).verified_good is good


def test_a_verdict_on_one_split_is_enough_to_condemn(run):
    epoch = run.commits(1)
    run.scores(epoch, "val", None, verdict="failed")
    run.scores(epoch, "test", 0.5)
    assert epoch.verified_good is False


@pytest.mark.parametrize(("miou", "good"), [(0.5 * COLLAPSE_SHARE, True), (0.5 * COLLAPSE_SHARE - 1e-9, False)])
def test_an_epoch_that_keeps_too_little_of_the_best_before_it_is_no_place_to_go_back_to(run, miou, good):
    run.trains(1, 0.5)
    assert run.trains(2, miou).verified_good is good


def test_a_better_epoch_later_does_not_make_an_earlier_one_bad(run):
    first = run.trains(1, 0.1)
    run.trains(2, 0.9)
    assert first.verified_good is True


# --- progress and recovery -----------------------------------------------------------------------------------------


def test_progress_is_a_good_epoch_of_the_attempts_between_unknown_while_one_is_not_judged(run):
    assert run.history.progressed(0, 1) is False
    run.trains(1, 0.5)
    assert run.history.progressed(0, 1) is True
    run.plans()
    assert run.history.progressed(1, 2) is False
    waiting = run.commits(2)
    assert run.history.progressed(1, 2) is None
    run.scores(waiting, "val", 0.1)
    run.scores(waiting, "test", 0.1)
    assert run.history.progressed(1, 2) is False  # it collapsed
    assert run.history.progressed(0, 2) is True


def test_one_good_epoch_is_progress_whatever_is_not_known_of_the_others(run):
    run.trains(1, 0.5)
    run.commits(2)
    assert run.history.progressed(0, 1) is True


def test_a_crash_is_past_with_a_good_epoch_of_a_later_attempt_only(run):
    run.suffers(Cause.WORKER_CRASHED, step=15)
    incident = run.history.incidents[0]
    run.trains(1, 0.5)
    assert not run.history.recovered(incident)
    run.plans(incident=1, remedy="resume")
    run.trains(2, 0.1)  # collapsed
    assert not run.history.recovered(incident)
    run.trains(3, 0.6)
    assert run.history.recovered(incident)


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [(Cause.NAN_LOSS, "lower-lr"), (Cause.NAN_LOSS, "resume"), (Cause.OUT_OF_MEMORY, "micro-batch")],
)
def test_a_remedy_has_to_prove_itself_before_its_incident_is_past(run, cause, remedy):
    run.suffers(cause, step=15)
    incident = run.history.incidents[0]
    run.plans(incident=1, remedy=remedy)
    run.trains(1, 0.5)
    run.trains(2, 0.6)
    assert not run.history.recovered(incident)
    assert run.history.open_incidents() == [incident]
    run.tell(ProbationEnded(attempt=2, incident=1, passed=True, because="as told"))
    assert run.history.recovered(incident)
    assert run.history.open_incidents() == []


def test_an_incident_whose_remedy_did_not_hold_is_past_with_the_one_that_did(run):
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, remedy="lower-lr")
    run.suffers(Cause.NAN_LOSS)
    run.tell(ProbationEnded(attempt=2, incident=1, passed=False, because="it came back"))
    run.plans(incident=2, remedy="lower-lr")
    assert [incident.number for incident in run.history.open_incidents()] == [1, 2]
    run.tell(ProbationEnded(attempt=3, incident=2, passed=True, because="as told"))
    assert run.history.open_incidents() == []


def test_who_asks_for_another_try_ends_every_trial(run):
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, remedy="lower-lr")
    assert set(run.history.tried.open) == {2}
    run.tell(BudgetsForgiven())
    assert run.history.tried.open == {}
    run.plans()
    run.trains(1, 0.5)
    assert run.history.open_incidents() == []


def test_a_skipped_step_is_past_with_a_good_epoch_that_ends_behind_it(run):
    run.suffers(Cause.INF_GRADIENTS, step=15, fatal=False)
    incident = run.history.incidents[0]
    run.trains(1, 0.5)  # ends at step 10
    assert not run.history.recovered(incident)
    run.trains(2, 0.5)
    assert run.history.recovered(incident)


def test_a_finished_run_is_past_everything(run):
    run.suffers(Cause.NAN_LOSS)
    run.tell(RunFinished())
    assert run.history.recovered(run.history.incidents[0])


def test_forgiven_incidents_no_longer_count_and_the_run_is_open_again(run):
    run.suffers(Cause.NAN_LOSS)
    run.tell(GaveUp(reason="spent"))
    run.tell(BudgetsForgiven())
    assert run.history.gave_up is None
    assert list(run.history.fatal_incidents()) == []
    run.suffers(Cause.NAN_LOSS)
    assert [incident.number for incident in run.history.fatal_incidents()] == [2]


def test_skipped_steps_are_no_fatal_incidents(run):
    run.suffers(Cause.INF_GRADIENTS, fatal=False)
    assert list(run.history.fatal_incidents()) == []


def test_more_epochs_open_a_finished_run_and_other_settings_do_not(run):
    run.tell(RunFinished())
    run.tell(ConfigChanged(changes={}, epochs=5))
    assert run.history.finished
    run.tell(ConfigChanged(changes={}, epochs=6))
    assert not run.history.finished
    assert run.history.epochs_wanted == 6


# --- the line that stands ------------------------------------------------------------------------------------------


def test_the_lineage_is_what_stands_in_numeric_order_across_attempts(run):
    for epoch in (1, 2, 3):
        run.trains(epoch, 0.5)
    run.moves(1, 2)
    run.moves(1, 3)
    run.plans()
    run.trains(2, 0.6)
    run.commits(10)
    run.commits(9)
    assert [epoch.key for epoch in run.history.lineage()] == [(1, 1), (2, 2), (2, 9), (2, 10)]
    assert [(epoch.key, miou) for epoch, miou in run.history.scored_lineage()] == [((1, 1), 0.5), ((2, 2), 0.6)]


def test_a_moved_epoch_is_found_where_it_lies_now(run):
    epoch = run.commits(1)
    assert epoch.weights == "checkpoints/checkpoint_epoch1.pth"
    run.moves(1, 1)
    assert epoch.weights == "checkpoints/superseded/001/checkpoint_epoch1.pth"


def test_a_superseded_epoch_still_waits_for_its_scores(run):
    run.commits(1)
    run.moves(1, 1)
    assert list(run.history.unscored) == [(1, 1)]


def test_the_best_is_the_first_of_equals_and_none_without_a_figure(run):
    run.trains(1, None, verdict="failed")
    assert run.history.best == {}
    run.trains(2, 0.5)
    run.trains(3, 0.5)
    assert run.history.best["test"].epoch.epoch == 2


def test_epochs_with_nan_logits_are_told_for_the_attempt_that_made_them_while_they_stand(run):
    run.trains(1, None, verdict="not-finite")
    assert [epoch.epoch for epoch in run.history.not_finite_in(1)] == [1]
    assert run.history.not_finite == [(1, 1)]
    assert run.history.not_finite_in(2) == []
    run.moves(1, 1)
    assert run.history.not_finite_in(1) == []


@settings(max_examples=50)
@given(st.lists(st.sampled_from([None, 0.0, 0.1, 0.3, 0.5, 0.9]), max_size=8))
def test_every_epoch_is_unscored_until_it_has_both_rows_and_best_is_the_highest(a_run, figures):
    run = a_run()
    run.begins()
    for number, miou in enumerate(figures, start=1):
        run.trains(number, miou, verdict="ok" if miou is not None else "failed")
    assert run.history.unscored == {}
    known = [miou for miou in figures if miou is not None]
    best = run.history.best.get("test")
    assert (best and best.miou) == max(known, default=None)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([None, 0.1, 0.5, 0.9]), max_size=6), st.integers(0, 12))
def test_a_history_folded_in_two_parts_is_the_history_folded_at_once(a_run, figures, cut):
    run = a_run()
    run.begins()
    for number, miou in enumerate(figures, start=1):
        run.trains(number, miou, verdict="ok" if miou is not None else "failed")
    again = History.of(run.told[:cut])
    for moment, event in run.told[cut:]:
        again.apply(moment, event)
    assert again.epochs == run.history.epochs
    assert again.best == run.history.best
    assert again.attempts == run.history.attempts


# --- drills --------------------------------------------------------------------------------------------------------

NAN = Drill(kind=DrillKind.NAN_LOSS, step=30)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (DrillKind.NAN_LOSS, Cause.NAN_LOSS),
        (DrillKind.INF_GRADIENTS, Cause.INF_GRADIENTS),
        (DrillKind.POISON_BATCHNORM, Cause.NAN_WEIGHTS),
        (DrillKind.POISON_BATCHNORM, Cause.NAN_LOSS),
        (DrillKind.NAN_WEIGHTS, Cause.NAN_WEIGHTS),
        (DrillKind.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY),
        (DrillKind.KILL, Cause.WORKER_CRASHED),
        (DrillKind.CRASH, Cause.WORKER_CRASHED),
        (DrillKind.HANG, Cause.WORKER_HUNG),
    ],
)
def test_a_drill_explains_the_trouble_that_its_kind_makes(run, kind, cause):
    drill = Drill(kind=kind, step=30)
    run.drills(drill)
    assert run.history.drill_behind(1, cause, 30) == drill


@pytest.mark.parametrize("kind", DrillKind)
def test_every_kind_of_drill_explains_something(run, kind):
    run.drills(Drill(kind=kind, step=30))
    assert any(run.history.drill_behind(1, cause, 30) for cause in Cause)


def test_a_drill_explains_no_other_cause_no_other_attempt_and_nothing_before_it(run):
    run.drills(NAN)
    assert run.history.drill_behind(1, Cause.WORKER_HUNG, 30) is None
    assert run.history.drill_behind(2, Cause.NAN_LOSS, 30) is None
    assert run.history.drill_behind(1, Cause.NAN_LOSS, 28) is None
    assert run.history.drill_behind(1, Cause.NAN_LOSS, 31) == NAN


def test_a_drill_explains_one_incident_and_what_comes_back_is_real(run):
    run.drills(NAN)
    run.suffers(Cause.NAN_LOSS, step=30, drill=NAN)
    assert run.history.drill_behind(1, Cause.NAN_LOSS, 31) is None


def test_a_drill_that_has_fired_is_no_longer_ahead(run):
    kill = Drill(kind=DrillKind.KILL, step=9)
    run.tell(DrillsRequested(drills=(NAN, kill)))
    assert run.history.pending_drills == (NAN, kill)
    run.drills(NAN)
    assert run.history.pending_drills == (kill,)


# --- the winners ---------------------------------------------------------------------------------------------------


def test_an_epoch_competes_once_both_its_scores_are_known(a_run):
    """Between its val and its test score the gap would be unknown, and an alert on it would come and go."""
    run = a_run()
    run.begins()
    run.trains(1, 0.4)
    second = run.commits(2)
    run.scores(second, "val", 0.6)
    assert run.history.best["val"].epoch.epoch == 1
    run.scores(second, "test", 0.5)
    assert run.history.best["val"].epoch.epoch == run.history.best["test"].epoch.epoch == 2


def test_a_winner_in_quarantine_makes_room_for_the_next_best(a_run):
    run = a_run()
    run.begins()
    run.trains(1, 0.4)
    winner = run.trains(2, 0.6)
    run.moves(winner.attempt, 2, "quarantined")
    assert run.history.best["test"].epoch.epoch == 1


@pytest.mark.parametrize("unknown", [False, True])
def test_a_score_is_kept_figure_by_figure_as_it_was_told(a_run, unknown):
    run = a_run()
    run.begins()
    gain = None if unknown else Gain(against_attempt=3, against_epoch=4711, difference=-0.25, low=-1 / 3, high=0.1)
    figures = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy", "mean_dice", "miou_low", "miou_high")
    told = run.scores(run.commits(1), "test", 0.5).model_copy(
        update={name: None if unknown else (place + 1) / 7 for place, name in enumerate(figures)}
        | {"gain": gain, "class_iou": () if unknown else (0.0, None, 1 / 3), "seconds": 12.3, "step": 99, "images": 7}
    )
    run.tell(told)
    kept = run.history.epochs[1, 1].scores["test"]
    for name in set(ScoreRecorded.model_fields) - {"kind"}:
        assert getattr(kept, name) == getattr(told, name), name


def test_an_epoch_with_its_scores_takes_less_than_two_kilobytes(a_run):
    """As it comes from JSON, where no two facts share an object."""
    run = a_run()
    run.begins()
    for number in range(1, 501):
        epoch = run.commits(number)
        for split in ("val", "test"):
            gain = run.over(epoch, 0.1, 0.0, 0.2)
            told = run.scores(epoch, split, 0.5 + number / 7000, gain=gain, interval=(0.4, 0.6))
            run.told[-1] = run.told[-1][0], told.model_copy(update={"class_iou": (number / 7000,) * 12})
    facts = [(moment, fact.model_dump_json()) for moment, fact in run.told]
    tracemalloc.start()
    try:
        history = History.of((moment, EVENT.validate_json(fact)) for moment, fact in facts)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(history.epochs) < 2000
