"""Real processes, started, found and stopped: never by a pid alone, and none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from queue import SimpleQueue
from threading import Event

import psutil
import pytest
from segwatch.daemon.process import Identity, WorkerLock, await_adopted, find_worker, myself, reap, spawn_worker, stop
from segwatch.trainer.contract import WORKER_LOCK_FD

DEADLINE_SECONDS = 20.0
OBEDIENT = "import signal, sys\nprint('ready', flush=True)\nsignal.pause()"
DEAF = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{OBEDIENT}"
WITH_LOADER = """
import signal, subprocess, sys
loader = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, close_fds=False)
loader.stdout.readline()
print(loader.pid, flush=True)
signal.pause()
"""


def until(holds) -> None:
    """Fails at the deadline; nothing is supposed to have happened just because time passed."""
    pause = Event()
    for _ in range(int(DEADLINE_SECONDS / 0.02)):
        if holds():
            return
        pause.wait(0.02)
    raise AssertionError("the deadline passed before it held")


@pytest.fixture
def children():
    """Start a script in a session of its own; returns it when it has said its first word."""
    started = []

    def start(script: str, *arguments: str, **more: object) -> tuple[subprocess.Popen[str], str]:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )
        started.append(child)
        return child, child.stdout.readline().strip()

    yield start
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


# --- identity ------------------------------------------------------------------------------------------------------


def test_a_process_is_its_pid_and_its_create_time(children):
    child, _ = children(OBEDIENT)
    identity = Identity.of(child.pid)
    assert identity.alive()
    assert identity == Identity.of(child.pid)
    assert not Identity(identity.pid, identity.create_time - 1).alive()
    assert myself() == Identity.of(os.getpid())


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_pid_that_belongs_to_another_process_now_is_never_signalled(children, monkeypatch, group, number):
    child, _ = children(OBEDIENT)
    sent = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    monkeypatch.setattr(os, "killpg", lambda *what: sent.append(what))
    stranger = Identity(child.pid, Identity.of(child.pid).create_time + 1)
    assert stranger.send(number, group=group) is False
    assert sent == []


def test_stopping_a_pid_that_belongs_to_another_process_now_does_nothing(children):
    child, _ = children(OBEDIENT)
    stop(Identity(child.pid, 1.0), grace_seconds=0.2, stacks=True).join(DEADLINE_SECONDS)
    assert child.poll() is None


def test_a_process_that_only_waits_to_be_reaped_is_not_alive(children):
    child, _ = children("print('ready')")
    identity = Identity.of(child.pid)
    until(lambda: not identity.alive())
    assert identity.send(signal.SIGTERM) is False
    child.wait()
    assert not identity.alive()
    assert Identity.of(child.pid) is None


# --- stopping ------------------------------------------------------------------------------------------------------


def test_who_obeys_is_asked_and_not_killed(children):
    child, _ = children(OBEDIENT)
    stop(Identity.of(child.pid), grace_seconds=DEADLINE_SECONDS).join(DEADLINE_SECONDS)
    assert child.wait(DEADLINE_SECONDS) == -signal.SIGTERM


def test_who_does_not_obey_within_the_grace_is_killed(children):
    child, _ = children(DEAF)
    stop(Identity.of(child.pid), grace_seconds=0.4).join(DEADLINE_SECONDS)
    assert child.wait(DEADLINE_SECONDS) == -signal.SIGKILL


def test_a_stop_reaches_what_the_worker_has_started(children):
    child, loader = children(WITH_LOADER, OBEDIENT)
    identity = Identity.of(int(loader))
    stop(Identity.of(child.pid), grace_seconds=0.4).join(DEADLINE_SECONDS)
    until(lambda: not identity.alive())


def test_a_loader_that_is_deaf_does_not_outlive_the_worker_that_obeyed(children):
    child, loader = children(WITH_LOADER, DEAF)
    identity = Identity.of(int(loader))
    try:
        stop(Identity.of(child.pid), grace_seconds=0.4).join(DEADLINE_SECONDS)
        until(lambda: not identity.alive())
    finally:
        identity.send(signal.SIGKILL, group=False)


def test_stacks_are_asked_for_before_the_end(children):
    script = (
        "import faulthandler, signal, sys\nfaulthandler.register(signal.SIGUSR1)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\nwhile True: signal.pause()"
    )
    child, _ = children(script, stderr=subprocess.PIPE)
    stop(Identity.of(child.pid), grace_seconds=0.2, stacks=True).join(DEADLINE_SECONDS)
    _, stacks = child.communicate(timeout=DEADLINE_SECONDS)
    assert "most recent call first" in stacks


# --- the lock ------------------------------------------------------------------------------------------------------


def test_the_lock_is_held_once_and_free_when_it_is_let_go(tmp_path):
    lock = WorkerLock(tmp_path)
    assert lock.free()
    descriptor = lock.acquire()
    assert WorkerLock(tmp_path).acquire() is None
    assert not lock.free()
    os.close(descriptor)
    assert lock.free()


HOLDER = """
import os, signal, sys
print(os.environ["SEGWATCH_LOCK_FD"], *sys.argv[1:], flush=True)
if os.fork():
    signal.pause()  # the worker; its child, the loader, goes on below
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pause()
"""


def test_the_lock_stays_held_until_the_last_process_that_inherited_it_is_gone(tmp_path):
    lock = WorkerLock(tmp_path)
    spec, log = tmp_path / "spec.json", tmp_path / "worker.log"
    worker = spawn_worker([sys.executable, "-c", HOLDER], spec, log, lock.acquire())
    identity = Identity.of(worker.pid)
    try:
        until(lambda: psutil.Process(worker.pid).children())
        [loader] = psutil.Process(worker.pid).children()
        assert not lock.free()
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        assert not identity.alive()
        assert not lock.free()  # the loader holds the device
        loader.kill()
        until(lock.free)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)


def test_a_worker_is_told_its_spec_and_its_lock_and_its_words_go_to_a_file(tmp_path):
    lock = WorkerLock(tmp_path)
    descriptor = lock.acquire()
    spec, log = tmp_path / "spec.json", tmp_path / "worker.log"
    script = f"import os, sys; print(os.environ[{WORKER_LOCK_FD!r}], sys.argv[1], os.getsid(0) == os.getpid())"
    told: SimpleQueue[int] = SimpleQueue()
    worker = spawn_worker([sys.executable, "-c", script], spec, log, descriptor)
    reap(worker, told.put)
    assert told.get(timeout=DEADLINE_SECONDS) == 0
    assert log.read_text() == f"{descriptor} {spec} True\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)  # the daemon keeps no copy, or a dead worker would seem alive
    assert lock.free()


def test_a_worker_that_cannot_be_started_does_not_keep_the_lock(tmp_path):
    lock = WorkerLock(tmp_path)
    with pytest.raises(FileNotFoundError):
        spawn_worker(["/nowhere/python"], tmp_path / "spec.json", tmp_path / "worker.log", lock.acquire())
    assert lock.free()


# --- finding -------------------------------------------------------------------------------------------------------


def test_a_worker_is_found_by_its_spec_and_not_by_a_name_that_only_begins_alike(tmp_path, children):
    spec = tmp_path / "attempts" / "001" / "spec.json"
    assert find_worker(spec) is None
    child, _ = children(OBEDIENT, str(spec))
    assert find_worker(spec) == Identity.of(child.pid)
    assert find_worker(tmp_path / "attempts" / "001" / "spec.jso") is None


def test_the_end_of_an_adopted_worker_is_told(children):
    child, _ = children(OBEDIENT)
    told = Event()
    await_adopted(Identity.of(child.pid), told.set)
    assert not told.is_set()
    child.kill()
    assert told.wait(DEADLINE_SECONDS)


def test_what_a_dead_worker_left_behind_with_the_lock_is_killed_and_nobody_else(tmp_path, children):
    """A worker killed from outside takes nobody along: its loader keeps the lock, and with it the GPU."""
    lock = WorkerLock(tmp_path)
    descriptor = lock.acquire()
    os.set_inheritable(descriptor, True)
    worker, loader = children(WITH_LOADER, OBEDIENT, pass_fds=(descriptor,))
    os.close(descriptor)
    bystander, _ = children(OBEDIENT)
    left, leader = Identity.of(int(loader)), Identity.of(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(DEADLINE_SECONDS)
    assert not lock.free()
    assert lock.end_holders(Identity.of(bystander.pid)) == []
    assert lock.end_holders(Identity(leader.pid, leader.create_time, boot="another")) == []
    assert lock.end_holders(leader) == [left.pid]
    until(lock.free)
    assert bystander.poll() is None
