"""`segwatch evaluate RUN` around the fakes: gaps are filled with the facts of a daemon, and no worker is started."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon import looking, scorer
from segwatch.daemon.events import AlertState
from segwatch.daemon.filling import Filled, as_json, fill, say
from segwatch.daemon.history import History
from segwatch.daemon.rundir import RunDir
from segwatch.errors import ConfigError, RunHeldError, SegwatchError

HERE = Path(__file__).parent


def fill_in(daemon, console: Console | None = None) -> tuple[Filled, History]:
    command = (sys.executable, str(HERE / "fake_evaluator.py"), str(daemon.place / "scenario.json"))
    return fill(RunDir(daemon.run_dir), console or Console(quiet=True), evaluator_command=command)


def words_of(daemon, filled: Filled, history: History) -> str:
    with (daemon.place / "said.txt").open("w") as file:
        say(RunDir(daemon.run_dir), filled, history, Console(width=200, file=file))
    return (daemon.place / "said.txt").read_text()


def asked(daemon) -> list[str]:
    return (daemon.run_dir / "asked.txt").read_text().split()


def rows(daemon) -> list[tuple[str, str, str, str]]:
    return [(row["epoch"], row["split"], row["miou"], row["verdict"]) for row in daemon.rows()]


def fail_all(daemon) -> None:
    """A run of two epochs, trained to its end, that has no score at all."""
    daemon.configure(epochs=2)
    daemon.scenario(die=["1:1", "1:2"])
    assert daemon.run()[0] == 1
    assert {verdict for _, _, _, verdict in rows(daemon)} == {"failed"}


def test_a_run_without_gaps_is_left_as_it_is_and_no_evaluator_is_started(daemon):
    assert daemon.run()[0] == 0
    before = {path: path.read_bytes() for path in daemon.run_dir.glob("*.*") if path.suffix in {".csv", ".jsonl"}}
    filled, history = fill_in(daemon)
    assert (filled.scored, filled.restored, filled.failed, filled.exit_code) == ((), 0, (), 0)
    assert {path: path.read_bytes() for path in before} == before
    assert len(asked(daemon)) == 3
    assert "nothing was missing: all 3 epochs are scored on val and test" in words_of(daemon, filled, history)


def test_epochs_that_could_not_be_scored_are_scored_and_the_run_is_as_if_they_always_were(daemon):
    fail_all(daemon)
    daemon.scenario(miou=[0.3, 0.6])
    filled, history = fill_in(daemon)
    assert filled.scored == ((1, 1), (1, 2))
    assert filled.exit_code == 0
    assert [(epoch, split) for epoch, split, _, _ in rows(daemon)] == [
        (epoch, split) for epoch in "12" for split in ("val", "test")
    ]
    assert {verdict for _, _, _, verdict in rows(daemon)} == {"ok"}
    best = daemon.run_dir / "best_test.pth"
    assert best.samefile(daemon.run_dir / "checkpoints" / "checkpoint_epoch2.pth")
    assert list((daemon.run_dir / "tensorboard" / "eval").iterdir())
    assert history.finished
    assert not [alert for alert in daemon.history.alerts.values() if alert.state is AlertState.FIRING]
    assert "epoch 2" in (daemon.run_dir / "report.md").read_text()
    assert "2 epochs scored, nothing missing" in words_of(daemon, filled, history)
    again, _ = fill_in(daemon)
    assert again.scored == ()


def test_epochs_committed_after_the_daemon_died_are_found_and_scored_without_a_worker(daemon):
    daemon.configure(epochs=4)
    daemon.scenario(step_seconds=0.02)
    child = daemon.start()
    daemon.until(lambda history: bool(history.epochs))
    child.kill()
    child.wait()
    worker = daemon.worker_identity()
    daemon.until(lambda _: not worker.alive())
    attempts = len(daemon.history.attempts)
    filled, history = fill_in(daemon)
    assert set(history.epochs) == {(1, 1), (1, 2), (1, 3), (1, 4)}
    assert (1, 4) in filled.scored
    assert all(epoch.scored for epoch in history.epochs.values())
    assert len(history.attempts) == attempts
    assert not history.finished


def test_a_lost_report_is_written_again_without_a_second_row_where_its_weights_are_left(daemon):
    assert daemon.run()[0] == 0
    table = (daemon.run_dir / "results.csv").read_bytes()
    facts = len((daemon.run_dir / "events.jsonl").read_bytes().splitlines())
    evaluations = daemon.run_dir / "evaluations"
    (evaluations / "attempt001_epoch1_test.json").unlink()
    for file in (daemon.run_dir / "checkpoints").glob("checkpoint_epoch1.*"):
        file.unlink()
    (evaluations / "attempt001_epoch2_test.json").unlink()
    (evaluations / "attempt001_epoch3_val.npz").unlink()
    filled, history = fill_in(daemon)
    assert (filled.restored, filled.gone) == (2, ((1, 1),))
    assert (evaluations / "attempt001_epoch2_test.json").exists()
    assert (evaluations / "attempt001_epoch3_val.npz").exists()
    assert (daemon.run_dir / "results.csv").read_bytes() == table
    assert len((daemon.run_dir / "events.jsonl").read_bytes().splitlines()) == facts
    words = words_of(daemon, filled, history)
    assert "2 reports written again, nothing missing" in words
    assert "the report of epoch 1 of attempt 1 is gone for good, and its weights with it; its score is kept" in words


def test_an_epoch_that_still_cannot_be_scored_keeps_its_reason_and_the_exit_code_says_so(daemon):
    daemon.scenario(die=["1:2"])
    daemon.run()
    filled, history = fill_in(daemon)
    assert filled.exit_code == 1
    assert [(attempt, epoch) for attempt, epoch, _ in filled.failed] == [(1, 2)]
    assert "died" in filled.failed[0][2]
    assert "epoch 2 of attempt 1 could not be scored" in words_of(daemon, filled, history)
    assert json.loads(json.dumps(as_json(RunDir(daemon.run_dir), filled)))["failed"][0]["epoch"] == 2


@pytest.mark.parametrize(
    ("scenario", "error"), [({"unable": "no such device"}, ConfigError), ({"never_ready": True}, SegwatchError)]
)
def test_an_evaluator_that_cannot_work_fails_the_command_and_no_epoch(daemon, monkeypatch, scenario, error):
    monkeypatch.setattr(scorer, "RESTART_SECONDS", (0.0,))
    daemon.scenario(die=["1:2"])
    daemon.run()
    before = rows(daemon)
    daemon.scenario(**scenario)
    with pytest.raises(error):
        fill_in(daemon)
    assert [row for row in rows(daemon) if row[3] == "ok"] == [row for row in before if row[3] == "ok"]
    daemon.scenario()
    assert fill_in(daemon)[0].exit_code == 0


def test_a_run_that_a_daemon_watches_is_refused_with_75_since_that_scores_by_itself(daemon):
    daemon.configure(epochs=50)
    daemon.scenario(step_seconds=0.05)
    child = daemon.start()
    daemon.until(lambda history: history.daemon is not None)
    with pytest.raises(RunHeldError, match="every epoch is scored as soon as it is there") as caught:
        fill_in(daemon)
    assert caught.value.exit_code == 75
    assert str(child.pid) in str(caught.value)


def test_while_it_scores_nobody_takes_it_for_a_daemon_that_watches(daemon):
    assert daemon.run()[0] == 0
    run = RunDir(daemon.run_dir)
    run.hold(purpose="evaluate")
    try:
        assert not looking.look_at(run).daemon_alive
        code, output = daemon.run()  # in a process of its own
    finally:
        run.release()
    assert code == 75
    assert f"a process with pid {os.getpid()}" in output
    assert "fills in the scores of this run" in output


class Interrupting(Console):
    """Presses Ctrl-C when the first score is told."""

    def print(self, *words, **style) -> None:
        if words and " test: mIoU" in str(words[0]):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_scores_and_the_next_call_does_the_rest(daemon):
    fail_all(daemon)
    daemon.scenario()
    filled, history = fill_in(daemon, Interrupting(quiet=True))
    assert filled.exit_code == 130
    assert len(filled.scored) < 2
    assert "the same command goes on" in words_of(daemon, filled, history)
    rest, history = fill_in(daemon)
    assert rest.exit_code == 0
    assert {*filled.scored, *rest.scored} == {(1, 1), (1, 2)}
    assert history.finished
