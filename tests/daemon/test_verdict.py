"""How a run stands: state, health, time left, and how its scores compare; from figures alone."""

from __future__ import annotations

import json

import pytest
from segwatch.daemon import verdict
from segwatch.daemon.events import (
    AlertAcknowledged,
    AlertsSilenced,
    AlertState,
    AttemptSpawned,
    AttemptStarted,
    DaemonStopped,
    GaveUp,
    Outcome,
    RunFinished,
    Severity,
)
from segwatch.daemon.verdict import HEALTHY_COURSE, at_epoch, compared, grade, trend
from segwatch.daemon.wishes import Wish
from segwatch.durable import dumps
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause

from .sights import STEP, fires, sight

STATUS_KEYS = ("state", "health", "reason", "attempt", "epoch", "step", "lr", "amp", "worker_pid", "best", "firing")


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=5)
    return run


def strict(value: object) -> object:
    """Through text and back; NaN or Infinity fail on either way."""

    def fail(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(dumps(value), parse_constant=fail)


def starts(run, *, steps: int = 10) -> None:
    run.tell(AttemptSpawned(attempt=run.attempt, pid=7, create_time=1.0))
    run.tell(
        AttemptStarted(attempt=run.attempt, lr=1e-3, amp=Amp.OFF, device="cpu", parameters=1000, steps_per_epoch=steps)
    )


def scored(epoch: int, miou: float) -> dict[str, object]:
    return {"epoch": epoch, "miou": miou}


# --- state ---------------------------------------------------------------------------------------------------------


def test_status_has_its_keys_at_every_point_of_a_run(tmp_path, run, a_run):
    for story in (a_run(), run):
        figures = strict(verdict.status(sight(tmp_path, story)))
        assert set(STATUS_KEYS) <= set(figures)
        assert (figures["best"], figures["worker_pid"], figures["firing"], figures["grade"]) == (None, None, [], None)
    run.trains(1, 0.5)
    fires(run)
    figures = strict(verdict.status(sight(tmp_path, run, progress=STEP)))
    told = [figures[name] for name in ("attempt", "epoch", "step", "lr", "amp", "loss")]
    assert told == [1, 3, 25, 1e-3, "off", None]
    assert figures["firing"] == ["miou-stall"]
    assert figures["best"]["epoch"] == 1
    assert figures["best"]["path"] == str(tmp_path / "checkpoints" / "checkpoint_epoch1.pth")


@pytest.mark.parametrize(
    ("daemon", "worker", "told"),
    [
        (True, True, ("starting", 0.0)),
        (True, False, ("starting", 0.0)),
        (False, True, ("unwatched", None)),
        (False, False, ("interrupted", 1.0)),
    ],
)
def test_the_state_tells_a_watched_run_from_one_that_nobody_watches(tmp_path, run, daemon, worker, told):
    figures = verdict.status(sight(tmp_path, run, daemon_alive=daemon, worker_alive=worker))
    assert (figures["state"], figures["state_since"]) == told


def test_a_run_whose_unwatched_worker_a_person_stopped_is_stopped_and_not_degraded(tmp_path, run):
    figures = verdict.status(sight(tmp_path, run, daemon_alive=False, worker_alive=False, stopped_by_hand_at=7.0))
    assert (figures["state"], figures["state_since"], figures["health"]) == ("stopped", 7.0, "healthy")


@pytest.mark.parametrize(
    ("event", "state"),
    [(RunFinished(), "finished"), (GaveUp(reason="spent"), "gave-up"), (DaemonStopped(reason="SIGINT"), "stopped")],
)
def test_a_run_that_is_over_says_how_and_since_when(tmp_path, run, event, state):
    run.tell(event)
    fires(run, state=AlertState.RESOLVED)  # what is recorded behind it moves nothing
    figures = verdict.status(sight(tmp_path, run))
    assert (figures["state"], figures["state_since"]) == (state, 2.0)


def test_between_two_attempts_it_recovers_since_the_first_one_ended(tmp_path, run):
    starts(run)
    assert verdict.status(sight(tmp_path, run, daemon_alive=True))["state"] == "training"
    run.ends(Outcome.UNSTABLE, cause=Cause.NAN_LOSS)
    ended = run.history.last_at
    run.suffers(Cause.NAN_LOSS)
    for _ in range(2):
        figures = verdict.status(sight(tmp_path, run, daemon_alive=True))
        assert (figures["state"], figures["state_since"]) == ("recovering", ended)
        run.plans(incident=1)
    starts(run)
    assert verdict.status(sight(tmp_path, run, daemon_alive=True))["state"] == "training"


def test_health_is_that_of_the_gravest_alert_since_it_began(tmp_path, run):
    def health() -> tuple[str, float]:
        figures = verdict.status(sight(tmp_path, run, daemon_alive=True))
        return figures["health"], figures["health_since"]

    assert health() == ("healthy", 0.0)
    fires(run, "best-disagrees", Severity.INFO)
    assert health() == ("healthy", 0.0)
    stall = fires(run, "miou-stall", Severity.WARNING)
    assert health() == ("degraded", stall.since)
    nan = fires(run, "nan-loss", Severity.CRITICAL)
    assert health() == ("unhealthy", nan.since)
    assert verdict.status(sight(tmp_path, run))["reason"].startswith("nan-loss: ")
    for alert in (nan, stall):
        run.tell(alert.model_copy(update={"state": AlertState.RESOLVED}))
    assert health() == ("healthy", run.history.last_at)


# --- time left -----------------------------------------------------------------------------------------------------


def left(tmp_path, run, **live) -> float | None:
    return verdict.seconds_left(sight(tmp_path, run, daemon_alive=True, worker_alive=True, **live))


def test_the_time_left_is_unknown_until_an_epoch_was_seen_and_where_nothing_runs(tmp_path, run):
    starts(run)
    assert left(tmp_path, run) is None
    run.trains(1, 0.5)
    run.trains(2, 0.5)
    assert left(tmp_path, run) is not None
    assert verdict.seconds_left(sight(tmp_path, run)) is None


def test_the_time_left_is_the_pace_of_the_last_epochs_and_the_last_evaluation(tmp_path, run):
    starts(run)
    for epoch in (1, 2, 3):
        run.trains(epoch, 0.5)  # three facts, three seconds each; half a second for each score
    assert left(tmp_path, run) == pytest.approx(2 * 3 + 1)
    fast = STEP | {"epoch": 5, "step_in_epoch": 5, "images_per_second": 1000.0}
    assert left(tmp_path, run, progress=fast) == pytest.approx(0.5 * 3 + 1)


def test_a_restart_between_two_epochs_is_no_pace(tmp_path, run):
    starts(run)
    run.trains(1, 0.5)
    for _ in range(50):
        fires(run)
    run.plans()
    starts(run)
    run.trains(2, 0.5)
    run.trains(3, 0.5)
    assert run.history.chronicle.epoch_seconds == 3.0


def test_an_evaluation_that_is_slower_than_training_decides(tmp_path, run):
    starts(run)
    run.trains(1, 0.5)
    for epoch in (2, 3, 4, 5):
        run.commits(epoch)  # a second each
    seen = sight(tmp_path, run, daemon_alive=True, worker_alive=True)
    seen.figures["evaluation"]["seconds_per_epoch"] = 30.0
    assert verdict.seconds_left(seen) == pytest.approx(4 * 30.0)


def test_images_a_second_correct_epochs_that_a_daemon_found_all_at_once(tmp_path, run):
    starts(run, steps=100)
    run.trains(1, 0.5)
    run.trains(2, 0.5)
    slow = STEP | {"epoch": 3, "step_in_epoch": 0, "images_per_second": 4.0}
    assert left(tmp_path, run, progress=slow) == pytest.approx(3 * 100 + 1)  # batch 4: a step a second


# --- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("miou", "word"),
    [
        (0.71, "excellent"),
        (0.70, "good"),
        (0.50, "good"),
        (0.49, "acceptable"),
        (0.30, "acceptable"),
        (0.29, "needs-debugging"),
        (0.0, "needs-debugging"),
    ],
)
def test_the_grade_is_that_of_the_field(miou, word):
    assert grade({"test": {"miou": miou}}) == word


@pytest.mark.parametrize(
    ("epoch", "miou", "word"),
    [
        (1, 0.26, "within"),
        (1, 0.10, "below"),
        (1, 0.40, "above"),
        (10, 0.61, "within"),
        (20, 0.50, "below"),
        (65, 0.73, "within"),
        (900, 0.73, "within"),
        (900, 0.60, "below"),
    ],
)
def test_a_score_is_held_against_healthy_runs_at_the_same_epoch(epoch, miou, word):
    found = compared(scored(epoch, miou), {})
    assert (found["verdict"], found["against"]) == (word, "healthy-aerial-14")


def test_between_two_points_of_a_course_it_is_straight_and_outside_it_is_unknown():
    assert at_epoch(HEALTHY_COURSE, 20) == pytest.approx(0.645)
    assert at_epoch([[3, 0.5]], 3) == 0.5
    assert at_epoch([[3, 0.5], [5, 0.7]], 2) is None
    assert at_epoch([[3, 0.5], [5, 0.7]], 6) is None


def test_earlier_runs_on_the_same_classes_say_more_than_the_field():
    own = {"a": [[1, 0.1], [10, 0.2]], "b": [[1, 0.1], [10, 0.3]], "short": [[1, 0.9], [4, 0.9]]}
    found = compared(scored(10, 0.25), own)
    assert (found["against"], found["runs"], found["low"], found["high"]) == ("earlier-runs", ["a", "b"], 0.2, 0.3)
    words = [compared(scored(10, miou), own)["verdict"] for miou in (0.17, 0.19, 0.31, 0.33)]
    assert words == ["below", "within", "within", "above"]
    assert compared(scored(11, 0.25), own)["against"] == "healthy-aerial-14"


def test_a_trend_is_the_later_half_against_the_earlier_one_of_the_last_ten():
    assert trend([[1, 0.5]]) is None
    rising = trend([[epoch, 0.01 * epoch] for epoch in range(1, 21)])
    assert (rising["direction"], rising["from_epoch"], rising["to_epoch"]) == ("rising", 11, 20)
    assert rising["change"] == pytest.approx(0.05)
    assert trend([[1, 0.5], [2, 0.4]])["direction"] == "falling"
    assert trend([[1, 0.5], [2, 0.504]])["direction"] == "flat"


def test_classes_stand_worst_first_with_their_change_and_support(tmp_path, run):
    run.trains(1, 0.5)
    run.trains(2, 0.6)
    shares = [
        {"test_pixels": 90, "test_share": 0.9, "train_share": 0.8},
        {"test_pixels": 0, "test_share": 0.0, "train_share": 0.2},
    ]
    field, road = verdict.status(sight(tmp_path, run, shares=shares))["classes"]
    assert (field["name"], field["iou"], field["test_share"]) == ("field", 0.6, 0.9)
    assert field["change"] == pytest.approx(0.1)
    assert (road["name"], road["iou"], road["change"], road["train_share"]) == ("road", None, None, 0.2)


# --- what people said of alerts --------------------------------------------------------------------------------------


def first_alert(tmp_path, run, *wishes: Wish) -> dict[str, object]:
    return verdict.status(sight(tmp_path, run, wishes=list(wishes)))["alerts"][0]


def test_an_acknowledged_alert_is_marked_until_it_begins_anew(tmp_path, run):
    alert = fires(run)
    assert first_alert(tmp_path, run)["acknowledged_by"] is None
    run.tell(AlertAcknowledged(fingerprint=alert.fingerprint, since=alert.since, by="mia"))
    assert first_alert(tmp_path, run)["acknowledged_by"] == "mia"
    run.tell(alert.model_copy(update={"state": AlertState.RESOLVED}))
    fires(run)
    assert first_alert(tmp_path, run)["acknowledged_by"] is None


def test_a_wish_that_no_daemon_has_taken_up_counts_already(tmp_path, run):
    alert = fires(run)
    seen = Wish(kind="ack", what=alert.code, asked=1.0, by="mia", since={alert.fingerprint: alert.since})
    assert first_alert(tmp_path, run, seen)["acknowledged_by"] == "mia"
    late = Wish(kind="ack", what=alert.code, asked=1.0, by="mia", since={alert.fingerprint: alert.since - 1})
    assert first_alert(tmp_path, run, late)["acknowledged_by"] is None
    quiet = Wish(kind="silence", what=alert.code, asked=1.0, by="mia", until=99.0)
    assert first_alert(tmp_path, run, quiet)["silenced_until"] == 99.0
    run.tell(AlertsSilenced(code=alert.code, until=50.0, by="mia"))
    assert first_alert(tmp_path, run)["silenced_until"] == 50.0
    lifted = Wish(kind="silence", what=alert.code, asked=1.0, by="mia", until=1.0)
    assert first_alert(tmp_path, run, lifted)["silenced_until"] is None


def test_health_does_not_hang_on_who_has_seen_it(tmp_path, run):
    alert = fires(run, "nan-loss", Severity.CRITICAL)
    run.tell(AlertAcknowledged(fingerprint=alert.fingerprint, since=alert.since, by="mia"))
    assert verdict.status(sight(tmp_path, run))["health"] == "unhealthy"
