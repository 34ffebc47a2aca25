"""Faults of the worker: it dies, stands still, lies or forgets; the daemon goes on from the last good state."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from segwatch.daemon.events import Outcome
from segwatch.daemon.inbox import Interrupted
from segwatch.daemon.stopping import stop_worker

from .matrix import fault

SAME = (1e-3, "off", 4)
FLOOD_BYTES = 100 << 20


def settings(daemon) -> list[tuple]:
    return [(a.plan.lr, a.plan.amp.value, a.plan.batch_size) for a in daemon.history.attempts]


def ended(daemon, attempt: int = 1):
    return daemon.history.attempts[attempt - 1].ended


def worker_log(daemon, attempt: int = 1) -> str:
    return (daemon.run_dir / "attempts" / f"{attempt:03d}" / "worker.log").read_text()


def assert_resumed_once(daemon, code: int, output: str) -> None:
    """A second attempt with nothing changed, and every epoch of the run."""
    assert code == 0, output
    assert settings(daemon) == [SAME] * 2
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]


@fault(
    "worker-sigkill",
    area="Worker",
    fault="SIGKILL in training",
    promise="P4",
    provoked="`os.kill(pid, SIGKILL)` after epoch 1",
)
def test_a_killed_worker_is_resumed_once_with_nothing_changed(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    os.kill(daemon.worker_identity().pid, signal.SIGKILL)
    provoked()
    assert_resumed_once(daemon, *daemon.finish(running))
    assert "signal SIGKILL" in daemon.alerts_log()
    nothing_else_broke(daemon)


@fault(
    "worker-host-oom",
    area="Worker",
    fault="the host's out-of-memory killer, in mid-save",
    promise="P2 P4",
    provoked="SIGKILL from outside between weights and manifest; no exit record",
)
def test_what_the_oom_killer_leaves_half_saved_is_never_scored(daemon, provoked, nothing_else_broke):
    daemon.scenario(before_manifest={"1:2": 60})
    running = daemon.start()
    weights = daemon.run_dir / "checkpoints" / "checkpoint_epoch2.state.pth"
    daemon.until(lambda _: weights.exists())
    os.kill(daemon.worker_identity().pid, signal.SIGKILL)
    provoked()
    assert_resumed_once(daemon, *daemon.finish(running))
    assert daemon.scored_epochs() == [(1, 1), (2, 2), (2, 3)]
    assert "out-of-memory killer (dmesg)" in daemon.alerts_log()
    nothing_else_broke(daemon)


@fault(
    "worker-segfault",
    area="Worker",
    fault="segmentation fault in training",
    promise="P4",
    provoked="`faulthandler._sigsegv()` in a step",
)
def test_a_segfault_is_an_exit_code_to_the_daemon(daemon, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": "segv"})
    assert_resumed_once(daemon, *daemon.run())
    provoked()
    assert "signal SIGSEGV" in daemon.alerts_log()
    nothing_else_broke(daemon)


@pytest.mark.parametrize("kind", ["lock", "stop"])
@fault(
    "worker-hang",
    area="Worker",
    fault="the worker stands still: a lock that nobody releases, SIGSTOP",
    promise="P4",
    provoked="a second `Lock.acquire()`; SIGSTOP",
)
def test_a_worker_that_stands_still_leaves_its_stacks_and_is_replaced(daemon, kind, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": kind})
    assert_resumed_once(daemon, *daemon.run())
    provoked()
    assert ended(daemon).outcome is Outcome.HUNG
    assert "most recent call first" in worker_log(daemon)
    assert "take_step" in worker_log(daemon), "the stacks say where it stood"
    assert daemon.alerts_log().count("FIRING   CRITICAL worker-hung") == 1
    nothing_else_broke(daemon)


@fault(
    "worker-slow-but-legal",
    area="Worker",
    fault="a first step, a save and an evaluation longer than the limit for a step",
    promise="P1 P7",
    provoked="each 2.5 s long under `hang_floor_seconds = 2`",
)
def test_slow_is_not_hung(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=1)
    daemon.scenario(faults={"1:1": "slow"}, slow_seconds=2.5, slow_save={"1:1": 2.5}, score_seconds=2.5)
    code, output = daemon.run()
    provoked(3)
    assert code == 0, output
    assert len(daemon.history.attempts) == 1
    assert daemon.alerts_log() == ""
    nothing_else_broke(daemon)


@fault(
    "worker-import-error",
    area="Worker",
    fault="torch cannot be imported",
    promise="P4",
    provoked="the real `segwatch run` with a torch that raises ImportError",
)
def test_what_fails_at_import_is_tried_once_and_said(daemon, tmp_path_factory, monkeypatch, provoked):
    broken = tmp_path_factory.mktemp("broken")
    (broken / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    code, output = daemon.finish(daemon.spawn([Path(sys.executable).with_name("segwatch"), "run", "run.toml"]))
    provoked()
    assert code == 78, output
    assert len(daemon.history.attempts) == 1
    assert "libcudart.so.12" in output
    assert daemon.alerts_log().count("gave-up") == 1


@fault(
    "worker-crash-loop",
    area="Worker",
    fault="every attempt crashes at the same step",
    promise="P4 P5",
    provoked="an exception at step 6 of each of four attempts, then the daemon started again",
)
def test_a_crash_loop_backs_off_gives_up_once_and_stays_down(daemon, provoked, nothing_else_broke):
    daemon.scenario(faults={f"{attempt}:6": "crash" for attempt in range(1, 9)})
    code, output = daemon.run()
    assert code == 1, output
    provoked(len(daemon.history.attempts))
    assert settings(daemon) == [SAME] * 4, "three restarts are the budget for one cause"
    assert [attempt.plan.delay_seconds for attempt in daemon.history.attempts] == [0, 0, 0.05, 0.1]
    assert daemon.run()[0] == 1, "it stays down"
    assert len(daemon.history.attempts) == 4
    assert daemon.alerts_log().count("CRITICAL gave-up") == 1
    nothing_else_broke(daemon)


@fault(
    "worker-nan-weights-unsaid",
    area="Worker",
    fault="NaN weights in a checkpoint whose manifest says finite",
    promise="P1 P2",
    provoked="the evaluator finds logits that are not finite in epoch 2",
)
def test_a_checkpoint_that_lies_about_nan_is_never_gone_back_to(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=4)
    daemon.scenario(verdicts={"1:2": "not-finite"}, step_seconds=0.15)
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert ended(daemon).outcome is Outcome.UNSTABLE
    assert daemon.history.attempts[1].plan.resume_epoch == 1
    told = {row["verdict"] for row in daemon.rows() if (row["attempt"], row["epoch"]) == ("1", "2")}
    assert told == {"not-finite"}, "no plausible score for a broken network"
    nothing_else_broke(daemon)


@fault(
    "worker-wrong-lr",
    area="Worker",
    fault="the restored state brings the old learning rate back",
    promise="P5",
    provoked="attempt 2 echoes 1e-3 where 5e-4 was ordered",
)
def test_a_remedy_that_is_not_in_force_has_failed(daemon, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": "nan"}, echo_lr={"2": 1e-3}, step_seconds=0.05)
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert ended(daemon, 2).outcome is Outcome.REMEDY_FAILED
    assert [lr for lr, _, _ in settings(daemon)] == [1e-3, 5e-4, 5e-4]
    nothing_else_broke(daemon)


@fault(
    "worker-orphaned-child",
    area="Worker",
    fault="a child of the worker outlives it and holds the device",
    promise="P4",
    provoked="a process with the worker's lock in its hands; then SIGKILL of the worker alone, and a stop",
)
def test_what_a_dead_worker_left_behind_is_killed_before_the_next_one_starts(daemon, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": "orphan"})
    code, output = daemon.run()
    provoked()
    assert_resumed_once(daemon, code, output)
    assert "processes that attempt 1 left behind were killed" in output
    assert daemon.orphan is None
    nothing_else_broke(daemon)


@pytest.mark.parametrize("how", ["interrupt", "stop", "next daemon"])
@fault(
    "worker-orphaned-child",
    area="Worker",
    fault="a child of the worker outlives it and holds the device",
    promise="P4",
    provoked="a process with the worker's lock in its hands; then SIGKILL of the worker alone, and a stop",
)
def test_what_was_left_behind_in_a_back_off_is_ended_and_is_no_second_incident(night, how, provoked):
    """The next attempt is planned and has no worker yet: nobody else is to blame for the lock, or to be asked."""
    night.trains(1)
    night.world.worker_dies(-signal.SIGKILL)
    night.until(lambda: night.world.worker is not None)
    night.world.worker_dies(-signal.SIGKILL, leaves_child=True)
    provoked()
    night.until(lambda: night.plan.attempt == 3)
    assert night.plan.delay_seconds > 0
    if how == "interrupt":
        night.world.daemon.inbox.put(Interrupted(signal.SIGTERM))
        night.tick()
        assert night.world.daemon.exit_code == 143
        assert night.world.left_behind is None
    night.lose_daemon()
    if how == "stop":
        told: list[str] = []
        assert stop_worker(night.world.run, told.append)
        assert "processes that attempt 2 left behind were killed" in told[-1]
        assert night.world.left_behind is None
    night.begin_daemon()
    night.until(lambda: night.world.worker is not None)
    assert night.world.left_behind is None
    assert night.world.spawned == [1, 2, 3]
    assert len(night.history.incidents) == 2


@pytest.mark.parametrize(("kind", "attempts"), [("torn", 2), ("halves", 1)])
@fault(
    "worker-torn-line",
    area="Worker",
    fault="a journal line torn in half",
    promise="P1 P3",
    provoked="half a line and SIGKILL; a line in two writes 0.3 s apart",
)
def test_half_a_line_is_no_fact_and_stops_nothing(daemon, kind, attempts, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": kind})
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert settings(daemon) == [SAME] * attempts
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    nothing_else_broke(daemon)


@fault(
    "worker-long-journal",
    area="Worker",
    fault="100 MB of journal at once, and why the worker left behind it",
    promise="P3",
    provoked="100 MB of progress lines in one step, then a NaN",
)
def test_the_last_line_of_a_long_journal_is_heard(daemon, provoked, nothing_else_broke):
    daemon.scenario(faults={"1:6": "flood"}, flood_bytes=FLOOD_BYTES)
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert (daemon.run_dir / "attempts" / "001" / "journal.jsonl").stat().st_size > FLOOD_BYTES
    opened = daemon.history.incidents[0].opened
    assert (opened.cause, opened.step, opened.evidence["lr"]) == ("nan-loss", 6, 1e-3)
    assert [lr for lr, _, _ in settings(daemon)] == [1e-3, 5e-4]
    nothing_else_broke(daemon)


@fault(
    "worker-journal-deleted",
    area="Worker",
    fault="the journal is deleted in mid-run",
    promise="P1 P7",
    provoked="`unlink` after epoch 1, with 3 s of training to come under a limit of 2 s",
)
def test_a_deleted_journal_is_begun_anew_and_nobody_counts_as_hung(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=4)
    daemon.scenario(step_seconds=0.25)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    (daemon.run_dir / "attempts" / "001" / "journal.jsonl").unlink()
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert len(daemon.history.attempts) == 1
    assert daemon.alerts_log() == ""
    nothing_else_broke(daemon)
