"""What best and the end of a run say to other programs: the promised keys, and JSON that every parser reads."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from segwatch.daemon import views
from segwatch.daemon.events import AlertChanged, AlertState, Severity
from segwatch.daemon.rundir import RunDir
from segwatch.data.resolved import ResolvedData
from segwatch.durable import dumps

NASTY = 'a "quoted"\nline [red]markup[/red] \x1b[31m ü'


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=5)
    return run


def look(tmp_path, run) -> views.Look:
    return views.Look(RunDir(tmp_path), run.history)


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


def test_best_says_in_words_what_choosing_by_val_gives_away(tmp_path, run, monkeypatch):
    data = ResolvedData(root=tmp_path, scale=1.0, classes=(), splits={"train": (), "val": (), "test": ()})
    monkeypatch.setattr(views, "frozen_data", lambda _run: data)
    assert "no epoch has a score yet" in printed(views.print_best, look(tmp_path, run))
    run.trains(1, test=0.4, val=0.6)
    run.trains(2, test=0.5, val=0.5)
    assert "10.00 points of test mIoU" in printed(views.print_best, look(tmp_path, run))


# --- the end -------------------------------------------------------------------------------------------------------


def test_an_alert_that_fired_stays_told_when_it_begins_again_and_goes_before_it_fires(run):
    fires(run, "miou-stall")
    fires(run, "miou-stall", state=AlertState.RESOLVED, cause="of the first time")
    for state in (AlertState.PENDING, AlertState.WITHDRAWN):
        fires(run, "miou-stall", state=state, cause="of the second time")
        assert "of the first time" in views.happened(run.history)[0]


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
