"""Faults of watching: file events, the scheduler and the clock only shorten the wait; the look carries the promise."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .matrix import fault

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def trains_to_its_end(broken, provoked, nothing_else_broke) -> None:
    code, output = broken.run()
    assert code == 0, output
    assert broken.times() > 0, "the fault did not happen"
    provoked(broken.times())
    assert [epoch for _, epoch in broken.scored_epochs()] == [1, 2, 3]
    assert len(broken.history.attempts) == 1
    nothing_else_broke(broken)


@fault(
    "inotify-overflow",
    area="Watching",
    fault="the inotify queue overflows",
    promise="P1 P7",
    provoked="more files than `fs.inotify.max_queued_events` appear while the daemon is suspended (SIGSTOP)",
)
def test_epochs_are_found_behind_an_overflow_of_the_queue(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=4)
    daemon.scenario(step_seconds=0.15)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    checkpoints = daemon.run_dir / "checkpoints"
    files = int(QUEUE.read_text()) // 2 + 500
    running.send_signal(signal.SIGSTOP)
    try:
        for number in range(files):
            (checkpoints / f"stranger{number}.tmp").touch()
    finally:
        running.send_signal(signal.SIGCONT)
    code, output = daemon.finish(running)
    assert code == 0, output
    assert "Inotify queue overflowed" in (daemon.run_dir / "daemon.log").read_text()
    provoked()
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3, 4]
    assert len(list(checkpoints.glob("stranger*"))) == files, "what is not ours is left alone"
    nothing_else_broke(daemon)


@fault(
    "inotify-watch-limit",
    area="Watching",
    fault="fs.inotify.max_user_watches is reached",
    promise="P7",
    provoked="ENOSPC from the observer's start",
)
def test_without_a_watch_the_scan_finds_everything_and_the_log_says_so(broken, provoked, nothing_else_broke):
    broken.faults = "no-watches"
    trains_to_its_end(broken, provoked, nothing_else_broke)
    assert "new checkpoints are found by the periodic scan" in (broken.run_dir / "daemon.log").read_text()


@fault(
    "watching-deaf",
    area="Watching",
    fault="polling only: no event ever comes, as on NFS; an exception in a handler; the scheduler's thread dead",
    promise="P7",
    provoked="each in a daemon of its own",
)
@pytest.mark.parametrize("faults", ["polling-only", "handler-raises", "scheduler-dies,polling-only"])
def test_the_look_alone_carries_the_promise(broken, provoked, nothing_else_broke, faults):
    broken.faults = faults
    trains_to_its_end(broken, provoked, nothing_else_broke)


@fault(
    "scheduler-dead-housekeeping",
    area="Watching",
    fault="the scheduler's thread is dead: nothing tells that retention is due",
    promise="P7",
    provoked="its main loop raises; retention has epochs to let go",
)
def test_without_a_scheduler_retention_still_makes_room(broken, provoked, nothing_else_broke):
    broken.faults = "scheduler-dies"
    broken.configure(epochs=8, extra="[checkpoints]\nkeep_epochs = 2")
    broken.scenario(step_seconds=0.05)
    running = broken.start()
    seen = broken.until(lambda history: len(history.epochs) >= 7 and len(history.unscored) <= 1)
    assert not seen.finished
    assert not (broken.run_dir / "checkpoints" / "checkpoint_epoch2.state.pth").exists()
    code, output = broken.finish(running)
    assert code == 0, output
    provoked(broken.times())
    nothing_else_broke(broken)


@fault(
    "clock-jump",
    area="Watching",
    fault="the wall clock jumps one hour ahead and back",
    promise="P7",
    provoked="time.time and the scheduler's clock shift by +1 h, -1 h and 0 every half second",
)
def test_a_clock_that_jumps_hangs_nobody_and_loses_nothing(broken, provoked, nothing_else_broke):
    broken.faults = "clock-jumps"
    broken.scenario(step_seconds=0.3)
    code, output = broken.run()
    assert code == 0, output
    provoked(broken.times())
    assert [epoch for _, epoch in broken.scored_epochs()] == [1, 2, 3]
    assert len(broken.history.attempts) == 1, "a jump was taken for a hang"
    assert "worker-hung" not in broken.alerts_log()
    nothing_else_broke(broken)
