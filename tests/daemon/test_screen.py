"""What a person sees while a run goes on: nothing of the panel may hide another part of it."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console
from segwatch.daemon.events import (
    AttemptPlanned,
    AttemptStarted,
    EpochCommitted,
    IncidentOpened,
    RunCreated,
    ScoreRecorded,
)
from segwatch.daemon.history import History
from segwatch.daemon.screen import Panel, PlainScreen
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Drill, Phase, Progress


def a_run() -> History:
    history = History()
    plan = AttemptPlanned(
        attempt=1,
        lr=1e-3,
        amp=Amp.OFF,
        batch_size=4,
        accumulate=1,
        resume_from=None,
        resume_epoch=0,
        resume_step=0,
        because="the run begins",
    )
    started = AttemptStarted(attempt=1, lr=1e-3, amp=Amp.OFF, device="cpu", parameters=1, steps_per_epoch=10)
    for event in (RunCreated(config_hash="x", epochs=5, class_names=("a", "b")), plan, started):
        history.apply(0.0, event)
    return history


def drawn(panel: Panel, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(panel)
    return console.file.getvalue().splitlines()


def test_the_panel_shows_epoch_step_loss_speed_time_left_scores_and_alerts_on_lines_of_their_own():
    panel = Panel(a_run())
    panel.observe(
        Progress(
            time=0,
            step=12,
            epoch=2,
            step_in_epoch=2,
            loss=0.5,
            grad_norm=1,
            lr=1e-3,
            images_per_second=4.0,
            p99_step_seconds=0.1,
        )
    )
    bar, training, scores, alerts = drawn(panel)
    assert set(bar.strip()) <= set("━╸╺ ")
    assert training == "attempt 1, epoch 2/5, step 12   loss 0.5000   lr 0.001   4.0 images/s   left 38 s   training"
    assert scores == "test mIoU: none yet"
    assert alerts == "alerts: none"


def test_a_loss_that_is_not_finite_is_a_dash_and_a_long_loading_shows_its_share():
    panel = Panel(a_run())
    panel.observe(Phase(time=0, phase="loading", done=37, total=48))
    assert drawn(panel)[1] == "loading 37/48"


def test_plain_lines_carry_markup_and_names_as_they_are():
    console = Console(file=io.StringIO(), width=80)
    screen = PlainScreen(console)
    screen.handle(0.0, EpochCommitted(attempt=1, epoch=3, step=30, manifest="m", sha256="s", finite=True))
    incident = IncidentOpened(
        number=1,
        attempt=1,
        cause=Cause.WORKER_CRASHED,
        step=3,
        epoch=1,
        message="[red]KeyError[/red]: 'x'",
        drill=Drill.parse("crash@4"),
        fatal=True,
    )
    screen.handle(0.0, incident)
    first, second = console.file.getvalue().splitlines()
    assert first.endswith("epoch 3 committed (step 30)")
    assert "[DRILL crash@4]" in second
    assert second.endswith("[red]KeyError[/red]: 'x'")


@pytest.mark.parametrize(
    ("terminal", "shape"), [(False, r"2026-11-22T03:00:01Z epoch 3 .*\n"), (True, r"\d\d:\d\d:01 epoch 3 .*\n")]
)
def test_what_is_kept_says_the_day_in_utc_and_a_terminal_the_time_of_day(terminal, shape):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
    committed = EpochCommitted(attempt=1, epoch=3, step=30, manifest="m", sha256="s", finite=True)
    moment = datetime(2026, 11, 22, 3, 0, 1, tzinfo=UTC).timestamp()
    PlainScreen(console).handle(moment, committed)
    assert re.fullmatch(shape, console.file.getvalue())


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_lost_terminal_ends_nothing(monkeypatch):
    looked_away = []
    monkeypatch.setattr("segwatch.daemon.terminal.look_away", lambda: looked_away.append(True))
    PlainScreen(Console(file=Gone())).say("the worker stands still")
    assert looked_away == [True]


def test_the_panel_shows_the_last_and_the_best_score_with_their_intervals():
    history = a_run()
    for epoch, miou in ((1, 0.6), (2, 0.5)):
        history.apply(
            0.0, EpochCommitted(attempt=1, epoch=epoch, step=epoch, manifest="m.json", sha256="s", finite=True)
        )
        for split in ("val", "test"):
            score = ScoreRecorded(
                attempt=1,
                epoch=epoch,
                step=epoch,
                split=split,
                verdict="ok",
                miou=miou,
                fwiou=miou,
                pixel_accuracy=miou,
                mean_accuracy=miou,
                mean_dice=miou,
                miou_low=miou - 0.1,
                miou_high=miou + 0.05,
                images=16,
                skipped_images=1,
                seconds=0.1,
                checkpoint_sha256="s",
            )
            history.apply(0.0, score)
    assert drawn(Panel(history), width=160)[2] == (
        "test mIoU 50.00 % (95 %: 40.0-55.0 over 16 images, 1 skipped), epoch 2   "
        "best 60.00 % (95 %: 50.0-65.0 over 16 images, 1 skipped), epoch 1"
    )
