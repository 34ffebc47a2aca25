"""Which alerts hold for which history: every code, at its threshold and just beside it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from segwatch.daemon.alert import Alert
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import GapMeasured, GaveUp, Outcome, Severity
from segwatch.daemon.rules import Rules, current_alerts, resume_words
from segwatch.daemon.trends import best_gap
from segwatch.trainer.contract import Cause, Drill, DrillKind

CONFIG = AlertsConfig()


def holding(run, config: AlertsConfig = CONFIG) -> dict[str, Alert]:
    """The alerts that hold, by code; one of each is expected."""
    alerts = current_alerts(run.history, config)
    assert len({alert.fingerprint for alert in alerts}) == len(alerts)
    return {alert.code: alert for alert in alerts}


def firing(run, config: AlertsConfig = CONFIG) -> set[str]:
    return {code for code, alert in holding(run, config).items() if not (alert.pending or alert.inhibited)}


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def reach(run, epoch: int, best: float) -> None:
    """Scores up to `epoch` that rise to `best`, each a gain: nothing but the level can be wrong."""
    for number in range(1, epoch + 1):
        run.trains(number, best * number / epoch)


def test_a_run_without_scores_has_no_alert(run):
    assert holding(run) == {}
    run.commits(1)
    assert holding(run) == {}


# --- levels --------------------------------------------------------------------------------------------------------

LEVEL = AlertsConfig(min_delta=0, patience=1000)
LEVEL_CODES = {"class-definition", "slow-start", "needs-debugging"}


@pytest.mark.parametrize(
    ("epoch", "best", "codes"),
    [
        (2, 0.05, set()),
        (3, 0.0999, {"class-definition"}),
        (3, 0.10, set()),
        (9, 0.19, set()),
        (9, 0.05, {"class-definition"}),
        (10, 0.1999, {"slow-start"}),
        (10, 0.20, set()),
        (10, 0.0999, {"slow-start", "class-definition"}),
        (49, 0.29, set()),
        (49, 0.19, {"slow-start"}),
        (50, 0.2999, {"needs-debugging"}),
        (50, 0.30, set()),
        (50, 0.19, {"needs-debugging"}),
        (50, 0.05, {"needs-debugging", "class-definition"}),
    ],
)
def test_a_level_is_judged_at_its_epoch_and_strictly_under_its_threshold(run, epoch, best, codes):
    reach(run, epoch, best)
    assert firing(run, LEVEL) == codes


def test_one_epoch_above_the_threshold_ends_the_alert_even_if_the_next_is_lower(run):
    reach(run, 10, 0.15)
    assert firing(run, LEVEL) == {"slow-start"}
    run.trains(11, 0.25)
    run.trains(12, 0.19)
    assert firing(run, LEVEL) == set()


def test_the_thresholds_are_the_configured_ones(run):
    reach(run, 10, 0.15)
    assert firing(run, LEVEL.model_copy(update={"slow_start_miou": 0.15})) == set()
    assert firing(run, LEVEL.model_copy(update={"class_definition_miou": 0.16})) == {"slow-start", "class-definition"}


def test_what_was_superseded_does_not_count_for_the_level(run):
    run.trains(1, 0.05)
    run.trains(2, 0.5)
    run.moves(1, 2)
    run.plans()
    run.trains(2, 0.05)
    run.trains(3, 0.05)
    assert "class-definition" in firing(run, LEVEL)


# --- stall ---------------------------------------------------------------------------------------------------------

STALL = AlertsConfig(patience=6, min_delta=0.01)


def after_best(run, quiet: int, miou: float = 0.5) -> None:
    run.trains(1, 0.5)
    for number in range(2, quiet + 2):
        run.trains(number, miou)


@pytest.mark.parametrize(
    ("quiet", "seen", "pending"), [(2, False, None), (3, True, True), (5, True, True), (6, True, False)]
)
def test_a_stall_is_pending_from_half_the_patience_and_fires_at_it(run, quiet, seen, pending):
    after_best(run, quiet)
    stall = holding(run, STALL).get("miou-stall")
    assert (stall is not None) == seen
    assert stall is None or stall.pending is pending


@pytest.mark.parametrize(("miou", "stalls"), [(0.51, True), (0.5101, False)])
def test_a_gain_of_just_min_delta_is_no_gain(run, miou, stalls):
    after_best(run, 6)
    run.trains(8, miou)
    assert ("miou-stall" in firing(run, STALL)) == stalls


def test_small_gains_that_add_up_to_min_delta_are_no_stall(run):
    for number in range(1, 40):
        run.trains(number, 0.5 + 0.004 * number)
    assert holding(run, STALL) == {}


def test_a_stall_says_since_which_epoch_at_what_level_and_what_speaks_most_against_it(run):
    run.trains(1, 0.4)
    run.trains(2, 0.6)
    for number in range(3, 9):
        run.trains(number, 0.605 if number == 5 else 0.55)
    stall = holding(run, STALL)["miou-stall"]
    assert stall.cause == (
        "test mIoU has not really gained since epoch 2, 6 epochs ago: at best +0.50 points (epoch 5); "
        "1 points would count (alerts.min_delta)"
    )
    assert stall.evidence == {
        "epoch": 8,
        "reference_epoch": 2,
        "reference_test_miou": 0.6,
        "best_epoch_since": 5,
        "difference": 0.005,
        "low": None,
        "high": None,
        "images": 3,
        "min_delta": 0.01,
        "patience": 6,
    }


def test_a_stall_carries_the_interval_of_the_difference_and_over_how_many_images(run):
    first = run.trains(1, 0.5)
    for number in range(2, 8):
        gain = 0.03 if number == 4 else -0.01
        run.trains(number, 0.5 + gain, gain=run.over(first, gain, gain - 0.04, gain + 0.04))
    stall = holding(run, STALL)["miou-stall"]
    assert not stall.pending
    assert stall.cause == (
        "test mIoU has not really gained since epoch 1, 6 epochs ago: at best +3.00 points (epoch 4), "
        "95 % interval -1.00 to +7.00 over 3 images"
    )
    assert (stall.evidence["difference"], stall.evidence["low"], stall.evidence["high"]) == (0.03, -0.01, 0.07)
    assert (stall.evidence["reference_epoch"], stall.evidence["images"]) == (1, 3)


def test_a_sure_gain_that_is_too_small_to_matter_stalls_and_the_words_say_what_would_count(run):
    first = run.trains(1, 0.5)
    for number in range(2, 8):
        run.trains(number, 0.505, gain=run.over(first, 0.005, 0.004, 0.006))
    cause = holding(run, STALL)["miou-stall"].cause
    assert "95 % interval +0.40 to +0.60 over 3 images; 1 points would count" in cause


def test_a_really_better_epoch_ends_a_stall(run):
    first = run.trains(1, 0.5)
    for number in range(2, 8):
        run.trains(number, 0.5, gain=run.over(first, 0.0, -0.02, 0.02))
    assert firing(run, STALL) == {"miou-stall"}
    run.trains(8, 0.53, gain=run.over(first, 0.03, 0.01, 0.05))
    assert holding(run, STALL) == {}


def test_an_epoch_that_is_higher_by_chance_does_not_end_a_stall(run):
    first = run.trains(1, 0.5)
    for number in range(2, 8):
        run.trains(number, 0.5, gain=run.over(first, 0.0, -0.04, 0.04))
    run.trains(8, 0.53, gain=run.over(first, 0.03, -0.01, 0.07))
    assert firing(run, STALL) == {"miou-stall"}


# --- collapse and single class -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("miou", "seen"), [(0.36, False), (0.349, True)])
def test_a_fall_by_more_than_the_share_is_a_collapse(run, miou, seen):
    run.trains(1, 0.5)
    run.trains(2, miou)
    assert ("miou-collapse" in holding(run)) == seen


def test_a_collapse_is_pending_for_one_epoch_fires_at_the_second_and_is_over_at_the_first_good_one(run):
    run.trains(1, 0.5)
    run.trains(2, 0.1)
    assert holding(run)["miou-collapse"].pending
    run.trains(3, 0.1)
    assert firing(run) == {"miou-collapse"}
    assert holding(run)["miou-collapse"].evidence["epochs_low"] == 2
    run.trains(4, 0.45)
    assert holding(run) == {}


def test_a_collapse_says_how_sure_the_fall_is_and_is_told_even_where_it_is_not(run):
    first = run.trains(1, 0.5)
    run.trains(2, 0.1, gain=run.over(first, -0.4, -0.9, 0.01))
    evidence = holding(run)["miou-collapse"].evidence
    assert (evidence["reference_epoch"], evidence["difference"], evidence["low"]) == (1, -0.4, -0.9)


def test_two_low_epochs_with_a_good_one_between_are_two_single_ones(run):
    for number, miou in enumerate((0.5, 0.1, 0.45, 0.1), start=1):
        run.trains(number, miou)
    assert holding(run)["miou-collapse"].pending


def test_nothing_collapses_from_a_level_that_never_mattered(run):
    for number, miou in enumerate((0.09, 0.01), start=1):
        run.trains(number, miou)
    assert "miou-collapse" not in holding(run)


def test_one_class_everywhere_is_pending_for_one_epoch_and_fires_at_the_second(run):
    run.trains(1, 0.2)
    run.trains(2, 0.15, verdict="single-class")
    assert holding(run)["single-class"].pending
    run.trains(3, 0.15, verdict="single-class")
    assert firing(run) == {"single-class"}
    assert holding(run)["single-class"].evidence["epochs_in_a_row"] == 2
    run.trains(4, 0.3)
    assert "single-class" not in holding(run)


# --- the two winners -----------------------------------------------------------------------------------------------


def test_val_and_test_that_choose_epochs_far_apart_are_told_from_three_epochs_on(run):
    run.trains(1, test=0.40, val=0.60)
    run.trains(2, test=0.50, val=0.50)
    assert holding(run) == {}
    run.trains(3, test=0.45, val=0.50)
    alert = holding(run)["best-disagrees"]
    assert alert.severity is Severity.INFO
    assert alert.evidence == {
        "by_test_epoch": 2,
        "by_val_epoch": 1,
        "gap": 0.1,
        "low": None,
        "high": None,
        "images": 3,
    }


@pytest.mark.parametrize(("gap", "seen"), [(0.25, False), (0.2499, True)])
def test_a_gap_of_just_the_limit_is_not_told(run, gap, seen):
    run.trains(1, test=0.25, val=0.9)
    run.trains(2, test=0.5, val=0.5)
    run.trains(3, test=0.5, val=0.5)
    assert ("best-disagrees" in holding(run, AlertsConfig(best_gap=gap))) == seen


@pytest.mark.parametrize(("low", "seen"), [(-0.01, False), (0.0, False), (0.01, True)])
def test_winners_that_are_the_same_over_these_test_images_do_not_disagree(run, low, seen):
    run.trains(1, test=0.40, val=0.60)
    run.trains(2, test=0.50, val=0.50)
    run.trains(3, test=0.45, val=0.50)
    run.tell(GapMeasured(by_test=(1, 2), by_val=(1, 1), low=low, high=0.2))
    alert = holding(run).get("best-disagrees")
    assert (alert is not None) == seen
    assert alert is None or (alert.evidence["low"], alert.evidence["high"]) == (low, 0.2)


def test_the_noise_between_two_winners_of_before_says_nothing_about_those_of_now(run):
    run.trains(1, test=0.40, val=0.60)
    run.trains(2, test=0.50, val=0.50)
    run.tell(GapMeasured(by_test=(1, 2), by_val=(1, 1), low=-0.1, high=0.2))
    run.trains(3, test=0.70, val=0.50)
    assert holding(run)["best-disagrees"].evidence["low"] is None


def test_the_gap_is_unknown_until_both_splits_of_the_winner_are_scored(run):
    assert best_gap(run.history) is None
    epoch = run.commits(1)
    run.scores(epoch, "val", 0.5)
    assert best_gap(run.history) is None
    run.scores(epoch, "test", 0.4)
    assert best_gap(run.history) == 0


# --- checkpoints and evaluations -----------------------------------------------------------------------------------


def test_a_quarantined_checkpoint_is_told_with_where_it_lies_now(run):
    run.trains(1, 0.5)
    run.commits(2)
    run.moves(1, 2, "quarantined")
    alert = holding(run)["checkpoint-corrupt"]
    assert alert.severity is Severity.CRITICAL
    assert "checkpoints/quarantined/001/" in alert.action


def test_an_epoch_that_could_not_be_scored_is_told_once_with_both_splits(run):
    run.trains(1, None, verdict="failed")
    alert = holding(run)["evaluator-failed"]
    assert alert.evidence["splits"] == "val test"
    assert "as told" in alert.cause


def test_logits_that_are_not_finite_are_told_until_the_epoch_is_rolled_back(run):
    run.trains(1, 0.5)
    run.trains(2, None, verdict="not-finite")
    assert firing(run) == {"nan-weights"}
    run.moves(1, 2)
    assert holding(run) == {}


def test_logits_that_are_not_finite_are_no_second_alert_beside_the_incident_that_they_led_to(run):
    run.trains(1, 0.5)
    run.trains(2, None, verdict="not-finite")
    run.suffers(Cause.NAN_WEIGHTS)
    assert [alert.fingerprint for alert in current_alerts(run.history, CONFIG)] == ["incident:1"]


# --- incidents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("fatal", [True, False])
def test_every_cause_has_an_alert_of_its_own_code_with_evidence_and_advice(run, cause, fatal):
    run.suffers(cause, fatal=fatal, step=15, epoch=2)
    alert = holding(run)[cause.value]
    assert alert.severity is (Severity.CRITICAL if fatal else Severity.WARNING)
    assert alert.evidence == {"attempt": 1, "epoch": 2, "step": 15, "lr": 1e-3}
    assert alert.cause == f"what {cause} looks like"
    assert len(alert.advice) > 40
    assert alert.drill is None


def test_an_incident_made_on_purpose_is_marked(run):
    run.suffers(Cause.NAN_LOSS, drill=Drill(kind=DrillKind.NAN_LOSS, step=15))
    assert holding(run)["nan-loss"].drill == "nan-loss@15"


def test_before_the_answer_the_action_is_to_wait_and_after_it_what_was_done_and_from_where(run):
    run.suffers(Cause.NAN_LOSS)
    assert "what follows is decided" in holding(run)["nan-loss"].action
    run.plans(incident=1, because="learning rate 0.001 -> 0.0005", resume_from="checkpoints/checkpoint_epoch7.json")
    assert holding(run)["nan-loss"].action == "learning rate 0.001 -> 0.0005. Attempt 2 goes on from epoch 7."


def test_an_incident_that_ended_the_run_names_the_reason_in_its_action(run):
    run.suffers(Cause.NAN_LOSS)
    run.tell(GaveUp(reason="the budget is spent"))
    alerts = holding(run)
    assert alerts["nan-loss"].action == "Gave up: the budget is spent"
    assert alerts["gave-up"].cause == "the budget is spent"
    assert "no epoch was scored" in alerts["gave-up"].action


def test_giving_up_says_which_epoch_is_kept(run):
    run.trains(1, 0.4321)
    run.tell(GaveUp(reason="spent"))
    assert "best test mIoU 0.4321 of epoch 1" in holding(run)["gave-up"].action


def test_skipped_steps_are_told_as_skipped_and_training_as_going_on(run):
    run.suffers(Cause.INF_GRADIENTS, fatal=False)
    assert "Training goes on" in holding(run)["inf-gradients"].action


def test_a_crash_is_over_when_a_later_attempt_leaves_a_good_epoch(run):
    run.trains(1, 0.5)
    run.suffers(Cause.WORKER_CRASHED)
    run.plans(incident=1, remedy="resume")
    epoch = run.commits(2)
    assert firing(run) == {"worker-crashed"}
    run.scores(epoch, "val", 0.5)
    assert firing(run) == {"worker-crashed"}
    run.scores(epoch, "test", 0.5)
    assert holding(run) == {}


# --- inhibition ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.INF_GRADIENTS])
def test_while_training_does_not_run_a_stall_is_its_consequence_and_no_alert(run, cause):
    after_best(run, 6)
    assert firing(run, STALL) == {"miou-stall"}
    run.ends(Outcome.CRASHED, cause=cause)
    run.suffers(cause)
    assert firing(run, STALL) == {cause.value}


def test_skipped_gradients_hide_no_stall(run):
    after_best(run, 6)
    run.suffers(Cause.INF_GRADIENTS, step=900, fatal=False)
    assert firing(run, STALL) == {"miou-stall", "inf-gradients"}


def test_a_crash_hides_slow_start_but_not_a_suspect_class_table(run):
    reach(run, 10, 0.05)
    run.suffers(Cause.WORKER_CRASHED)
    assert firing(run, LEVEL) == {"class-definition", "worker-crashed"}


# --- a healthy run -------------------------------------------------------------------------------------------------


def healthy(epoch: int) -> float:
    """The published course of a UNet on aerial scenes: 26 % at epoch 1, 61 at 10, 68 at 30, 73 at 65, then flat."""
    known = [(1, 0.26), (10, 0.61), (30, 0.68), (65, 0.73), (100, 0.73)]
    for (x0, y0), (x1, y1) in pairwise(known):
        if x0 <= epoch <= x1:
            return y0 + (y1 - y0) * math.log(epoch / x0) / math.log(x1 / x0)
    raise AssertionError(epoch)


def test_a_healthy_run_fires_nothing_but_the_stall_ten_epochs_after_its_last_gain(run):
    for epoch in range(1, 101):
        run.trains(epoch, healthy(epoch), val=healthy(epoch) + 0.01)
        flat = epoch > 10 and healthy(epoch) - healthy(epoch - 10) <= CONFIG.min_delta
        assert firing(run) <= ({"miou-stall"} if flat else set()), f"epoch {epoch}"
    assert firing(run) == {"miou-stall"}


class NeverWalked(list):
    """What grows with the run: looked up by place at most."""

    def __iter__(self):
        raise AssertionError("a look at the alerts went through everything that ever happened")


class NeverWalkedEpochs(dict):
    __iter__ = keys = values = items = NeverWalked.__iter__


def test_a_look_goes_through_neither_the_incidents_nor_the_epochs_of_a_long_run(run):
    for epoch in range(1, 8):
        run.trains(epoch, healthy(epoch))
    for cause in (Cause.MIOU_COLLAPSE, Cause.NAN_WEIGHTS, Cause.INF_GRADIENTS):
        run.suffers(cause, fatal=False, step=1)
    rules = Rules(CONFIG, rolls_back=True)
    expected = rules.current_alerts(run.history)
    run.history.incidents = NeverWalked(run.history.incidents)
    run.history.epochs = NeverWalkedEpochs(run.history.epochs)
    assert rules.current_alerts(run.history) == expected


def test_rare_classes_that_stay_at_zero_are_no_alert(run):
    for epoch in range(1, 9):
        run.trains(epoch, healthy(epoch))
    assert run.history.epochs[1, 8].scores["test"].class_iou[1] is None
    assert holding(run) == {}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "from the beginning"),
        ("checkpoints/initial.json", "from the initial weights"),
        ("checkpoints/recovery_step480.json", "from step 480"),
        ("checkpoints/checkpoint_epoch12.json", "from epoch 12"),
    ],
)
def test_a_resume_point_is_named_as_a_person_says_it(manifest, words):
    assert resume_words(manifest) == words
