"""What status, best and alerts say to other programs: the promised keys, and JSON that every parser reads."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from segwatch.daemon import views
from segwatch.daemon.events import AlertChanged, AlertState, DaemonStopped, GaveUp, Outcome, RunFinished, Severity
from segwatch.daemon.rundir import RunDir
from segwatch.durable import dumps
from segwatch.trainer.contract import Cause, Progress

STATUS_KEYS = ("state", "health", "reason", "attempt", "epoch", "step", "lr", "amp", "worker_pid", "best", "firing")
ALERT_KEYS = ("code", "severity", "state", "since", "cause", "evidence", "action", "advice", "drill")
NASTY = 'a "quoted"\nline [red]markup[/red] \x1b[31m ü'


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=5)
    return run


def look(tmp_path, run, *, progress=None, daemon=False, worker=False) -> views.Look:
    return views.Look(RunDir(tmp_path), run.history, progress, daemon_alive=daemon, worker_alive=worker)


def strict(value: object) -> object:
    """Through text and back; NaN or Infinity fail on either way."""

    def fail(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(dumps(value), parse_constant=fail)


def printed(show, look: views.Look, *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(look, console)
    return console.file.getvalue()


def fires(run, code: str = "miou-stall", severity: Severity = Severity.WARNING, **more: object) -> None:
    alert = AlertChanged(
        fingerprint=code,
        code=code,
        severity=severity,
        state=AlertState.FIRING,
        since=float(len(run.told)),
        cause=NASTY,
        evidence={"epoch": 3, "lr": 1e-3, "norm": None, "what": "x"},
        action="None.",
        advice="Look.",
    )
    run.tell(alert.model_copy(update=more))


STEP = Progress(
    time=0.0,
    step=25,
    epoch=3,
    step_in_epoch=5,
    loss=None,
    grad_norm=None,
    lr=1e-3,
    images_per_second=7.5,
    p99_step_seconds=0.1,
    nonfinite=("loss",),
)

# --- status --------------------------------------------------------------------------------------------------------


def test_status_has_its_keys_at_every_point_of_a_run(tmp_path, run, a_run):
    empty = a_run()
    for story in (empty, run):
        figures = strict(views.status(look(tmp_path, story)))
        assert set(STATUS_KEYS) <= set(figures)
        assert figures["best"] is None
        assert figures["worker_pid"] is None
        assert figures["firing"] == []
    run.trains(1, 0.5)
    fires(run)
    figures = strict(views.status(look(tmp_path, run, progress=STEP)))
    assert set(STATUS_KEYS) <= set(figures)
    assert (figures["attempt"], figures["epoch"], figures["step"], figures["lr"], figures["amp"]) == (
        1,
        3,
        25,
        1e-3,
        "off",
    )
    assert figures["firing"] == ["miou-stall"]
    assert figures["best"]["epoch"] == 1


def test_a_loss_that_is_not_finite_is_null(tmp_path, run):
    assert strict(views.status(look(tmp_path, run, progress=STEP)))["loss"] is None


@pytest.mark.parametrize(
    ("daemon", "worker", "state"),
    [(True, True, "starting"), (True, False, "starting"), (False, True, "unwatched"), (False, False, "interrupted")],
)
def test_the_state_tells_a_watched_run_from_one_that_nobody_watches(tmp_path, run, daemon, worker, state):
    assert views.status(look(tmp_path, run, daemon=daemon, worker=worker))["state"] == state


@pytest.mark.parametrize(
    ("event", "state"),
    [(RunFinished(), "finished"), (GaveUp(reason="spent"), "gave-up"), (DaemonStopped(reason="SIGINT"), "stopped")],
)
def test_a_run_that_is_over_says_how(tmp_path, run, event, state):
    run.tell(event)
    assert views.status(look(tmp_path, run))["state"] == state


def test_a_run_between_two_attempts_is_recovering(tmp_path, run):
    run.ends(Outcome.UNSTABLE, cause=Cause.NAN_LOSS)
    assert views.status(look(tmp_path, run, daemon=True))["state"] == "recovering"


def test_health_is_that_of_the_gravest_alert(tmp_path, run):
    health = lambda: views.status(look(tmp_path, run, daemon=True))["health"]  # noqa: E731
    assert health() == "healthy"
    fires(run, "best-disagrees", Severity.INFO)
    assert health() == "healthy"
    fires(run, "miou-stall", Severity.WARNING)
    assert health() == "degraded"
    fires(run, "nan-loss", Severity.CRITICAL)
    assert health() == "unhealthy"
    assert views.status(look(tmp_path, run, daemon=True))["reason"].startswith("nan-loss: ")


def test_status_reads_for_a_person_with_every_line_named(tmp_path, run):
    run.trains(1, 0.5)
    fires(run)
    words = printed(views.print_status, look(tmp_path, run, progress=STEP))
    for name in ("run", "state", "attempt", "progress", "best by test", "firing"):
        assert f"\n{name} " in f"\n{words}"
    assert "loss not finite" in words


# --- best ----------------------------------------------------------------------------------------------------------


def test_best_has_its_keys_with_and_without_a_score(tmp_path, run):
    nothing = {"by_test": None, "by_val": None, "gap": None, "gap_low": None, "gap_high": None}
    assert strict(views.best(look(tmp_path, run))) == nothing
    first = run.trains(1, test=0.4, val=0.6)
    run.trains(2, test=0.5, val=0.5, interval=(0.45, 0.6), gain=run.over(first, 0.1, 0.05, 0.2), skipped=1)
    found = strict(views.best(look(tmp_path, run)))
    assert found["by_test"] == {
        "epoch": 2,
        "attempt": 1,
        "miou": 0.5,
        "miou_low": 0.45,
        "miou_high": 0.6,
        "images": 3,
        "skipped_images": 1,
        "gain": {"against_attempt": 1, "against_epoch": 1, "difference": 0.1, "low": 0.05, "high": 0.2},
        "path": str(tmp_path / "checkpoints" / "checkpoint_epoch2.pth"),
        "policy": None,
        "per_image_foreground_dice": None,
        "worst_images": [],
    }
    assert (found["by_val"]["epoch"], found["by_val"]["miou"]) == (1, 0.6)
    assert found["gap"] == pytest.approx(0.1)


def test_best_says_in_words_what_choosing_by_val_gives_away(tmp_path, run):
    assert "no epoch has a score yet" in printed(views.print_best, look(tmp_path, run))
    run.trains(1, test=0.4, val=0.6)
    run.trains(2, test=0.5, val=0.5)
    assert "10.00 points of test mIoU" in printed(views.print_best, look(tmp_path, run))


# --- alerts --------------------------------------------------------------------------------------------------------


def test_alerts_have_their_keys_in_order_of_their_beginning_and_pending_ones_stay_out(tmp_path, run):
    fires(run, "nan-loss", Severity.CRITICAL, drill="nan-loss@30")
    fires(run, "slow-start", state=AlertState.PENDING)
    fires(run, "single-class", state=AlertState.WITHDRAWN)
    fires(run, "miou-stall", state=AlertState.RESOLVED)
    told = strict(views.alerts(look(tmp_path, run)))
    assert [alert["code"] for alert in told] == ["nan-loss", "miou-stall"]
    for alert in told:
        assert set(ALERT_KEYS) <= set(alert)
    assert told[0]["drill"] == "nan-loss@30"
    assert told[0]["evidence"] == {"epoch": 3, "lr": 1e-3, "norm": None, "what": "x"}
    assert told[0]["since"].endswith("Z")
    assert told[0]["cause"] == NASTY  # JSON carries the message as it is


def test_an_alert_that_fired_stays_told_when_it_begins_again_and_goes_before_it_fires(tmp_path, run):
    fires(run, "miou-stall")
    fires(run, "miou-stall", state=AlertState.RESOLVED, cause="of the first time")
    for state in (AlertState.PENDING, AlertState.WITHDRAWN):
        fires(run, "miou-stall", state=state, cause="of the second time")
        [alert] = views.alerts(look(tmp_path, run))
        assert (alert["state"], alert["cause"]) == ("resolved", "of the first time")
        assert "of the first time" in printed(views.print_alerts, look(tmp_path, run), width=200)
        assert "of the first time" in views.happened(run.history)[0]


def test_alerts_print_as_blocks_that_no_message_breaks_or_colours(tmp_path, run):
    assert printed(views.print_alerts, look(tmp_path, run)) == "no alerts\n"
    fires(run)
    lines = printed(views.print_alerts, look(tmp_path, run)).splitlines()
    assert len(lines) == 5
    assert "[red]markup[/red]" in lines[1]
    assert "\x1b" not in "".join(lines)


# --- the end -------------------------------------------------------------------------------------------------------


def test_every_epoch_that_ever_was_has_a_row_with_what_marks_it(run):
    run.trains(1, 0.5)
    run.trains(2, 0.6)
    run.trains(3, None, verdict="not-finite")
    run.moves(1, 3)
    rows = views.epoch_rows(run.history)
    assert [row[:2] for row in rows] == [("1", "1"), ("2", "1"), ("3", "1")]
    assert rows[0][-1] == ""
    assert "test" in rows[1][-1]
    assert "val" in rows[1][-1]
    assert "superseded" in rows[2][-1]
    assert "not-finite" in rows[2][-1]
    assert rows[2][2:6] == ("-", "-", "-", "-")
