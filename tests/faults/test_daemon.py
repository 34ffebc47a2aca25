"""Faults of the daemon: it may die anywhere and be started again; the run comes out the same."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from segwatch.daemon.process import Identity
from segwatch.daemon.rundir import RunDir

from ..watched import POLL_SECONDS, Watched
from .matrix import fault
from .promises import assert_record_is_whole

HERE = Path(__file__).parent
EVERY = "SEGWATCH_EVERY_SYSCALL"
"""Set by `make faults`: every call. `make check` takes every 23rd of each name."""


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(round(Watched.deadline_seconds / POLL_SECONDS)):
        if holds():
            return
        pause.wait(POLL_SECONDS)
    raise AssertionError("the deadline passed before it held")


class Crashed(Watched):
    """A run that crash_runs.py has made."""

    def summary(self) -> tuple:
        """What must be the same however often its daemon was killed."""
        history = self.history
        incidents = [(i.opened.cause, i.opened.step, i.opened.fatal) for i in history.incidents]
        attempts = [(a.plan.lr, a.plan.resume_epoch, a.ended and a.ended.outcome) for a in history.attempts]
        alerts = sorted((alert.code, alert.state.value) for alert in history.alerts.values())
        best = [(self.run_dir / f"best_{split}.pth").read_text() for split in ("test", "val")]
        standing = [epoch.key for epoch in history.lineage()]
        return self.results(), incidents, attempts, alerts, best, standing, history.finished

    def results(self) -> str:
        return (self.run_dir / "results.csv").read_text()


@pytest.fixture
def crash_place(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: SIGKILL leaves the page cache, so a disk would only be slower."""
    memory = Path("/dev/shm")
    place = memory / f"segwatch-{os.getpid()}" if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path
    yield place
    shutil.rmtree(place, ignore_errors=True)


def crash(place: Path, *arguments: int, by: str = "crash_runs.py") -> Iterator[tuple[str, Crashed, list[int]]]:
    """First the undisturbed run, then each crashed one; its place is removed behind it."""
    command = [sys.executable, str(HERE / by), str(place), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        for line in driver.stdout:
            told = json.loads(line)
            here = Path(told["place"])
            yield here.name, Crashed(here), told["codes"]
            shutil.rmtree(here)
        errors = driver.stderr.read()
    assert driver.returncode == 0, errors


def assert_crashes_change_nothing(place: Path, stride: int, times: int, provoked) -> None:
    runs = crash(place, stride, times)
    _, undisturbed, codes = next(runs)
    assert codes == [0]
    assert_record_is_whole(undisturbed)
    wanted, broken, seen = undisturbed.summary(), [], set()
    for name, crashed, codes in runs:
        provoked()
        seen.add(name.rsplit("-", 1)[0])
        try:
            assert codes[-1] == 0, f"exit codes {codes}"
            assert crashed.summary() == wanted
            assert_record_is_whole(crashed)
        except AssertionError as error:
            broken.append(f"{name}: {str(error)[:1000]}")
    assert broken == []
    assert seen >= {"openat", "write", "pwrite64", "rename", "fsync", "fdatasync", "unlink", "mkdir"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@fault(
    "daemon-killed-at-a-syscall",
    area="Daemon",
    fault="SIGKILL of the daemon at any system call that changes state, then started again",
    promise="P1 P3 P4 P5 P6",
    provoked="`strace -e inject=CALL:signal=KILL:when=n`, each call and n until no hit, over a NaN and a roll-back",
)
def test_wherever_the_daemon_is_killed_the_same_run_comes_out(crash_place, provoked):
    assert_crashes_change_nothing(crash_place, 1 if EVERY in os.environ else 23, 1, provoked)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@fault(
    "daemon-killed-twice",
    area="Daemon",
    fault="the daemon that takes over is killed as well",
    promise="P1 P3 P4 P5 P6",
    provoked="as above, the successor at the same call, then a third",
)
def test_a_successor_may_die_too(crash_place, provoked):
    assert_crashes_change_nothing(crash_place, 13 if EVERY in os.environ else 61, 2, provoked)


KILLS = ("pwrite64:when=120", "rename:when=9", "fsync:when=14", "unlink:when=20", "write:when=60")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@fault(
    "daemon-killed-whole",
    area="Daemon",
    fault="the whole daemon, with its threads, is killed again and again over one run",
    promise="P1 P3 P4 P5 P6",
    provoked="`strace` around `segwatch run`, five kills in one run with a NaN and a crash",
)
def test_one_run_survives_one_daemon_after_the_other(daemon, tmp_path, provoked, nothing_else_broke):
    daemon.configure(epochs=8, extra="undo = false")
    daemon.scenario(faults={"1:10": "nan", "2:18": "crash"}, miou=[0.3, 0.4, 0.5], step_seconds=0.1)
    for kill in KILLS:
        name, when = kill.split(":")
        trace = ["-qq", "-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:{when}"]
        code, output = daemon.finish(daemon.start_under(["strace", *trace]))
        assert code == -signal.SIGKILL, output
        provoked()
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6), (3, 7), (3, 8)]
    assert [i.opened.cause for i in daemon.history.incidents] == ["nan-loss", "worker-crashed"]
    nothing_else_broke(daemon)


PARTING = "select value from notes where key = 'parting'"


def is_asked_to_part(daemon) -> bool:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.run_dir}/state.db?mode=ro", uri=True)) as database:
        return database.execute(PARTING).fetchone() == ("2",)


@pytest.mark.parametrize("adopted", [False, True])
@fault(
    "daemon-killed-while-worker-parts",
    area="Daemon",
    fault="the daemon is killed after it asked the worker to leave for other settings; somebody kills the worker too",
    promise="P3 P4 P6",
    provoked="SIGKILL to both in a step of 30 s, the worker before or after the next daemon has adopted it",
)
def test_a_worker_killed_while_it_parts_is_an_incident_whichever_daemon_sees_it(
    daemon, adopted, provoked, nothing_else_broke
):
    daemon.configure(epochs=8)
    slow = {f"2:{step}": "slow" for step in (13, 17, 21)}  # the first steps of the epochs in which it may be asked
    daemon.scenario(faults={"1:6": "nan", **slow}, miou=[0.3], step_seconds=0.1, slow_seconds=30)
    config = daemon.place / "run.toml"
    config.write_text(config.read_text().replace("hang_floor_seconds = 2.0", "hang_floor_seconds = 120"))
    first = daemon.start()
    daemon.until(lambda history: len(history.attempts) == 2 and history.attempts[1].started is not None)
    until(lambda: is_asked_to_part(daemon))
    first.send_signal(signal.SIGSTOP)  # it must not see the worker die
    if not adopted:
        daemon.worker_identity().send(signal.SIGKILL)
    first.kill()
    daemon.finish(first)
    second = daemon.start()
    if adopted:
        assert any("adopted the worker of attempt 2" in line for line in second.stdout)
        daemon.worker_identity().send(signal.SIGKILL)
    provoked()
    code, output = daemon.finish(second)
    assert code == 0, output
    assert [(i.opened.cause, i.opened.attempt) for i in daemon.history.incidents] == [
        ("nan-loss", 1),
        ("worker-crashed", 2),
    ]
    assert any(attempt.plan.undoes == "lower-lr" for attempt in daemon.history.attempts), "it is taken back later"
    nothing_else_broke(daemon)


HOLD = (
    "import sys; from pathlib import Path; from segwatch.daemon.rundir import RunDir; RunDir(Path(sys.argv[1])).hold()"
)

# --- whose process is it? ----------------------------------------------------------------------------------------

INNOCENT = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"


def retell_spawned(daemon, **changes: object) -> None:
    """The recorded worker becomes another: in events.jsonl and in state.db."""
    path, lines = daemon.run_dir / "events.jsonl", []
    for line in path.read_text().splitlines():
        fact = json.loads(line)
        lines.append(json.dumps({**fact, **changes} if fact["kind"] == "attempt-spawned" else fact) + "\n")
    path.write_text("".join(lines))
    (daemon.run_dir / "state.db").unlink()


@pytest.mark.parametrize("how", ["reboot", "pid-reuse"])
@fault(
    "daemon-stranger-with-the-pid",
    area="Daemon",
    fault="the worker's pid is a stranger's: after a reboot, or reused",
    promise="P4",
    provoked="a process with the recorded pid and the worker's lock, of another boot id or create time",
)
def test_a_stranger_is_never_signalled(daemon, how, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.2)
    first = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    worker = daemon.worker_identity()
    first.kill()
    first.wait()
    worker.send(signal.SIGKILL)
    until(lambda: not worker.alive())
    command = [sys.executable, "-c", INNOCENT, str(daemon.run_dir / "worker.lock")]
    innocent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert innocent.stdout.readline() == b"held\n"
    known = Identity.of(innocent.pid)
    other = {"boot": "another"} if how == "reboot" else {"create_time": known.create_time - 100}
    retell_spawned(daemon, **{"pid": known.pid, "create_time": known.create_time, "boot": known.boot, **other})
    provoked()
    code, output = daemon.run()
    assert code == 1, output
    assert "not by a worker of this run" in output
    segwatch = Path(sys.executable).with_name("segwatch")
    assert "nothing runs here" in daemon.finish(daemon.spawn([segwatch, "stop", "runs/run"]))[1]
    assert innocent.poll() is None, "it was no worker of ours"
    innocent.communicate(b"\n")
    code, output = daemon.run()
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    nothing_else_broke(daemon)


@fault(
    "daemon-second",
    area="Daemon",
    fault="a second daemon on the same run",
    promise="P4",
    provoked="three `segwatch run` at once",
)
def test_of_many_daemons_one_watches(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.5)
    told = [daemon.finish(child) for child in [daemon.start() for _ in range(3)]]
    provoked(2)
    assert sorted(code for code, _ in told) == [0, 75, 75]
    assert all("already watches this run" in output for code, output in told if code == 75)
    assert len(daemon.history.attempts) == 1
    nothing_else_broke(daemon)


@pytest.mark.parametrize("noted", [True, False])
@fault(
    "daemon-locks-deleted",
    area="Daemon",
    fault="somebody deletes worker.lock behind a dead daemon, or daemon.lock under a living one",
    promise="P4",
    provoked="`unlink`; the worker's pid noted, and not yet noted; then the next daemon",
)
def test_a_worker_whose_lock_was_deleted_is_adopted_and_stays_alone(night, noted, provoked):
    night.lose_daemon()
    if not noted:
        events = night.world.run.path / "events.jsonl"
        lines = [line for line in events.read_text().splitlines(keepends=True) if "attempt-spawned" not in line]
        events.write_text("".join(lines))
        (night.world.run.path / "state.db").unlink()
    (night.world.run.path / "worker.lock").unlink()
    provoked()
    night.begin_daemon()
    for _ in range(5):
        night.tick()  # a second worker beside the first is refused by the world
    night.trains(12)
    assert night.world.spawned == [1]
    assert night.over


@fault(
    "daemon-locks-deleted",
    area="Daemon",
    fault="somebody deletes worker.lock behind a dead daemon, or daemon.lock under a living one",
    promise="P4",
    provoked="`unlink`; the worker's pid noted, and not yet noted; then the next daemon",
)
def test_a_daemon_whose_lock_was_deleted_still_holds_its_run(tmp_path, provoked):
    run = RunDir(tmp_path / "run")
    run.hold()
    (run.path / "daemon.lock").unlink()
    provoked()
    second = [sys.executable, "-c", HOLD, str(run.path)]
    refused = subprocess.run(second, capture_output=True, text=True, check=False)
    assert f"a process with pid {os.getpid()} on" in refused.stderr
    assert run.holder().pid == os.getpid()
    run.release()


# --- signals, and the terminal -----------------------------------------------------------------------------------


@fault(
    "daemon-sighup",
    area="Daemon",
    fault="SIGHUP",
    promise="P7",
    provoked="sent to the daemon before the loop, in training and while it scores",
)
def test_a_hang_up_ends_nothing(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1, score_seconds=0.3)
    running = daemon.start()
    for epochs in (0, 1, 2):
        daemon.until(lambda history, epochs=epochs: len(history.epochs) >= epochs)
        running.send_signal(signal.SIGHUP)
        provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert len(daemon.history.attempts) == 1
    nothing_else_broke(daemon)


@fault(
    "daemon-terminal-gone",
    area="Daemon",
    fault="the terminal goes",
    promise="P7",
    provoked="the live panel on a pseudo-terminal that is closed after epoch 1: SIGHUP, and EIO on each write",
)
def test_without_its_terminal_the_watch_goes_on(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1)
    ours, theirs = os.openpty()
    running = daemon.start_on(theirs)
    os.close(theirs)
    reader = threading.Thread(target=drain, args=(ours,), daemon=True)
    reader.start()
    daemon.until(lambda history: len(history.epochs) >= 1)
    os.close(ours)
    provoked()
    assert running.wait(daemon.deadline_seconds) == 0
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (1, 3)]
    nothing_else_broke(daemon)


def drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while select.select([terminal], [], [], 0.1) and os.read(terminal, 4096):
            pass


@fault(
    "daemon-ctrl-c-twice",
    area="Daemon",
    fault="Ctrl-C, and again",
    promise="P4",
    provoked="SIGINT twice while the worker is in a step of 400 s",
)
def test_the_second_ctrl_c_does_not_wait(daemon, provoked, nothing_else_broke):
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("stop_grace_seconds = 5", "stop_grace_seconds = 500"))
    daemon.scenario(faults={"1:7": "slow"}, slow_seconds=400)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    running.send_signal(signal.SIGINT)
    for line in running.stdout:
        if "stopping:" in line:
            break
    running.send_signal(signal.SIGINT)
    provoked()
    assert daemon.finish(running)[0] == 130
    assert not daemon.worker_identity().alive()
    code, output = daemon.run()
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert daemon.history.incidents == []
    nothing_else_broke(daemon)


def lock_is_there(daemon) -> bool:
    return (daemon.run_dir / "daemon.json").exists()


def recovering(daemon) -> bool:
    return known(daemon) and len(daemon.history.attempts) == 3


def scoring_alone(daemon) -> bool:
    return known(daemon) and bool(daemon.history.attempts) and daemon.history.attempts[-1].ended is not None


def known(daemon) -> bool:
    return (daemon.run_dir / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("when", "scenario"),
    [
        (lock_is_there, {}),
        (recovering, {"faults": {"1:6": "crash", "2:6": "crash"}}),
        (scoring_alone, {"score_seconds": 2.0}),
    ],
    ids=["starting", "recovering", "evaluating"],
)
@fault(
    "daemon-stopped-at-a-bad-moment",
    area="Daemon",
    fault="stopped while it starts, while it recovers, while the evaluator works",
    promise="P1 P4 P5",
    provoked="SIGTERM at `daemon.json`, in a back-off of 300 s, in the score of an epoch",
)
def test_a_stop_is_quick_and_nothing_is_lost(daemon, when, scenario, provoked, nothing_else_broke):
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("backoff_seconds = 0.05", "backoff_seconds = 300"))
    daemon.scenario(**scenario)
    running = daemon.start()
    until(lambda: when(daemon))
    running.terminate()
    provoked()
    assert running.wait(20) == 143
    code, output = daemon.run()
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert len(daemon.history.incidents) == len(scenario.get("faults", {}))
    nothing_else_broke(daemon)
