"""Faults of the standby, and of the daemon while it hands over: a slower start at worst, never a second worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal

import psutil
import pytest
from segwatch.daemon.process import Identity

from .matrix import fault
from .promises import assert_record_is_whole
from .test_daemon import EVERY, Crashed, crash, crash_place, until  # noqa: F401 - a fixture

HAND_OVER = {"openat", "write", "rename", "close", "sendto", "recvfrom", "sendmsg", "pwrite64", "fsync"}


def heirs(run) -> list[int]:
    """The attempts whose worker is the standby that was named for it."""
    found = []
    for attempt in run.history.attempts:
        named = run.run_dir / "attempts" / f"{attempt.number:03d}" / "standby.json"
        if named.exists() and json.loads(named.read_text())["pid"] == attempt.spawned.pid:
            found.append(attempt.number)
    return found


def starts(run) -> list[int]:
    """How many workers each attempt has had."""
    journals = sorted((run.run_dir / "attempts").glob("*/journal.jsonl"))
    return [journal.read_text().count('"kind":"started"') for journal in journals]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@fault(
    "standby-daemon-killed-at-hand-over",
    area="Standby",
    fault="SIGKILL of the daemon at any system call of a hand-over, then started again",
    promise="P3 P4 P5 P6",
    provoked="`strace -e inject=CALL:signal=KILL:when=n` from the hand-over to the record of the new worker",
)
def test_wherever_the_daemon_is_killed_while_it_hands_over_there_is_one_worker(crash_place, provoked):  # noqa: F811
    runs = crash(crash_place, 1 if EVERY in os.environ else 4, by="hand_over_runs.py")
    _, undisturbed, codes = next(runs)
    assert codes == [0]
    assert heirs(undisturbed) == [2]
    wanted, broken, seen = undisturbed.summary(), [], set()
    for name, crashed, codes in runs:
        provoked()
        seen.add(name.rsplit("-", 1)[0])
        try:
            assert codes == [-signal.SIGKILL, 0]
            assert crashed.summary() == wanted
            assert starts(crashed) == [1, 1]
            assert_record_is_whole(crashed)
        except AssertionError as error:
            broken.append(f"{name}: {str(error)[:1000]}")
    assert broken == []
    assert seen >= HAND_OVER


def children(child, name: str) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(child.pid).children():
        with contextlib.suppress(psutil.Error):  # it is dead already, and not yet reaped
            found += [one] if any(name in word for word in one.cmdline()) else []
    return found


@fault(
    "standby-killed",
    area="Standby",
    fault="the standby is killed, and then the worker",
    promise="P4 P7",
    provoked="SIGKILL to the standby in training, each time there is one; then SIGKILL of the worker at step 20",
)
def test_a_dead_standby_costs_training_nothing(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=6)
    daemon.scenario(standby="ready", faults={"1:20": "kill"}, step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: bool(history.attempts) and history.attempts[0].spawned is not None)
    while running.poll() is None and daemon.history.attempts[0].ended is None:
        for standby in children(running, "fake_standby"):
            standby.kill()
            provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert heirs(daemon) == []
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3, 4, 5, 6]
    assert [incident.opened.cause for incident in daemon.history.incidents] == ["worker-crashed"]
    nothing_else_broke(daemon)


@fault(
    "standby-hung",
    area="Standby",
    fault="the standby stands still when it is handed the spec",
    promise="P4 P7",
    provoked="a standby that is suspended (SIGSTOP) once it said that it is ready; the worker killed at step 20",
)
def test_a_standby_that_does_not_answer_is_ended_and_a_worker_started(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=6)
    daemon.scenario(standby="deaf", faults={"1:20": "kill"}, step_seconds=0.1)
    running = daemon.start()
    until(lambda: children(running, "fake_standby"))
    [deaf] = [Identity.of(standby.pid) for standby in children(running, "fake_standby")]
    provoked()
    daemon.until(lambda history: len(history.attempts) == 2 and history.attempts[1].spawned is not None)
    until(lambda: not deaf.alive())
    code, output = daemon.finish(running)
    assert code == 0, output
    assert "the standby did not take over" in (daemon.run_dir / "daemon.log").read_text()
    assert heirs(daemon) == []
    assert starts(daemon) == [1, 1]
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3, 4, 5, 6]
    nothing_else_broke(daemon)
