"""The standby takes a worker's place, and where it cannot, nobody notices but the clock."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from segwatch.daemon import standby as standby_module
from segwatch.daemon.process import Identity, WorkerLock, find_worker
from segwatch.daemon.standby import DEATHS, Standby
from segwatch.trainer.contract import WORKER_LOCK_FD

from .test_process import DEADLINE_SECONDS, until

SLEEPER = f"""
import os, signal, socket, sys
from segwatch.trainer.standby import await_order, end_with_daemon
end_with_daemon(wanted=True)
line = socket.socket(fileno=os.dup(0))
order = await_order(line)
print(order.entry, order.spec, os.environ[{WORKER_LOCK_FD!r}], os.getsid(0) == os.getpid(), os.read(0, 1), flush=True)
print("in error", file=sys.stderr, flush=True)
signal.pause()
"""
DEAF = """
import signal, socket
line = socket.socket(fileno=0)
line.send(b"ready")
signal.pause()
"""
RUDE = """
import socket
line = socket.socket(fileno=0)
line.send(b"ready")
line.recv(100)
line.send(b"what?")
line.recv(100)
"""


class Place:
    """An attempt's directory, and the standby that may get it."""

    def __init__(self, path: Path, script: str) -> None:
        self.lock = WorkerLock(path)
        self.spec = path / "attempts" / "001" / "spec.json"
        self.spec.parent.mkdir(parents=True)
        self.log = self.spec.with_name("worker.log")
        self.words = path / "standby.log"
        self.standby = Standby(self.words, command=(sys.executable, "-c", script))

    def begin(self) -> Identity:
        self.standby.tend()
        until(lambda: self.standby.ready)
        return self.waiting

    @property
    def waiting(self) -> Identity:
        return Identity.of(self.standby._child.pid)

    def hand_over(self, lock: int):
        return self.standby.hand_over("diagnose", self.spec, self.log, lock)


@pytest.fixture
def place(tmp_path):
    places = []

    def make(script: str = SLEEPER) -> Place:
        places.append(Place(tmp_path, script))
        return places[-1]

    yield make
    for made in places:
        made.standby.close()
        if (left := find_worker(made.spec)) is not None:
            left.send(signal.SIGKILL)


def test_who_takes_over_is_what_a_started_worker_is(place):
    """Its own session, the spec, the lock and nobody else's copy of it, its words in a file, nothing to read."""
    here = place()
    waiting, lock = here.begin(), here.lock.acquire()
    child = here.hand_over(lock)
    until(lambda: here.log.exists() and "in error" in here.log.read_text())
    first = here.log.read_text().splitlines()[0].split(" ")
    held = first.pop(2)
    assert first == ["diagnose", str(here.spec), "True", "b''"]
    assert (Path(f"/proc/{child.pid}/fd") / held).readlink().name == "worker.lock"
    assert (child.pid, find_worker(here.spec)) == (waiting.pid, waiting)
    assert not here.standby.ready, "it is nobody's standby any more"
    assert not here.lock.free()
    here.standby.close()
    assert waiting.alive()
    child.kill()
    child.wait()
    until(here.lock.free)
    assert find_worker(here.spec) is None


def test_a_standby_that_waits_is_no_worker(place):
    here = place()
    waiting = here.begin()
    assert here.lock.free()
    assert find_worker(here.spec) is None
    assert psutil.Process(waiting.pid).cpu_percent(0.2) == 0.0
    here.standby.close()
    until(lambda: not waiting.alive())


@pytest.mark.parametrize("how", ["not-started", "dead", "deaf", "rude"])
def test_without_one_that_answers_the_caller_keeps_the_lock_and_starts_one_itself(place, monkeypatch, how):
    monkeypatch.setattr(standby_module, "ANSWER_SECONDS", 0.1)
    here = place({"deaf": DEAF, "rude": RUDE}.get(how, SLEEPER))
    waiting = None if how == "not-started" else here.begin()
    if how == "dead":
        waiting.send(signal.SIGKILL)
        until(lambda: not waiting.alive())
    lock = here.lock.acquire()
    assert here.hand_over(lock) is None
    os.fstat(lock)  # still open
    until(lambda: waiting is None or not waiting.alive())
    assert find_worker(here.spec) is None
    os.close(lock)
    assert here.lock.free(), "and nobody else has it"


def test_one_that_dies_is_replaced_and_three_deaths_are_the_end_of_it(place):
    here = place("raise SystemExit(3)")
    for _ in range(DEATHS):
        here.standby.tend()
        dying = here.standby._child
        dying.wait(DEADLINE_SECONDS)
    here.standby.tend()
    here.standby.tend()
    assert here.standby._child is None


def test_no_room_for_the_name_of_the_heir_is_told_and_the_lock_let_go(place):
    here = place()
    waiting, lock = here.begin(), here.lock.acquire()
    here.spec.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        here.hand_over(lock)
    assert here.lock.free()
    assert waiting.alive()


def test_an_heir_of_another_boot_or_a_torn_name_is_nobody(tmp_path):
    me = Identity.of(os.getpid())
    heir = tmp_path / "standby.json"
    for text in ('{"pid": 1', "[]", "{}", json.dumps({**vars(me), "boot": "another"})):
        heir.write_text(text)
        assert find_worker(tmp_path / "spec.json") is None
    heir.write_text(json.dumps(vars(me)))
    assert find_worker(tmp_path / "spec.json") == me


# --- in a run ------------------------------------------------------------------------------------------------------


def heir_of(daemon, attempt: int) -> int | None:
    path = daemon.run_dir / "attempts" / f"{attempt:03d}" / "standby.json"
    return json.loads(path.read_text())["pid"] if path.exists() else None


def standby_of(child, *, besides: int) -> Identity:
    """The standby of this daemon, once it waits; `besides` was one, and is a worker by now."""
    found = []

    def waits() -> bool:
        others = [process for process in psutil.Process(child.pid).children() if process.pid != besides]
        found.extend(Identity.of(one.pid) for one in others if any("fake_standby" in word for word in one.cmdline()))
        return bool(found)

    until(waits)
    return found[0]


def test_a_killed_worker_is_followed_by_its_standby_which_trains_on_without_a_daemon(daemon):
    """P4, P6: the hand-over, the daemon killed, the next one finds the worker; a stop leaves neither of them."""
    daemon.configure(epochs=50)
    daemon.scenario(standby="ready", faults={"1:30": "kill"}, step_seconds=0.05)
    first = daemon.start()
    history = daemon.until(lambda history: len(history.attempts) == 2 and history.attempts[1].spawned is not None)
    heir = history.attempts[1].spawned.pid
    assert heir == heir_of(daemon, 2)
    assert heir_of(daemon, 1) is None, "the first worker is started as ever"
    again = standby_of(first, besides=heir)
    first.kill()
    first.wait()
    until(lambda: not again.alive())
    assert daemon.worker_identity().alive()
    second = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 9)
    again = standby_of(second, besides=heir)
    second.terminate()
    assert daemon.finish(second)[0] == 143
    assert not again.alive()
    assert not daemon.worker_identity().alive()
    assert [attempt.number for attempt in daemon.history.attempts] == [1, 2]
    assert len(daemon.history.incidents) == 1
