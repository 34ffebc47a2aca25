"""Starts, finds and stops process groups. Knows nothing about training, scores or policy.

Nothing is signalled on a pid alone: `identity` says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from ..trainer.contract import WORKER_LOCK, WORKER_LOCK_FD
from ..trainer.handover import HEIR
from .identity import NOBODY as NOBODY  # noqa: PLC0414 - who starts processes knows all of it from here
from .identity import Identity as Identity  # noqa: PLC0414
from .identity import myself as myself  # noqa: PLC0414

POLL_SECONDS = 0.2
STACKS_SECONDS = 2.0
# -P: what lies in the directory that segwatch was called from must not take the place of a package.
WORKER_COMMAND = (sys.executable, "-P", "-m", "segwatch.trainer")
EVALUATOR_COMMAND = (sys.executable, "-P", "-m", "segwatch.evaluator")


class WorkerLock:
    """`worker.lock` of a run: held from before a worker exists until nothing that it started is left."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / WORKER_LOCK

    def acquire(self) -> int | None:
        """An open, locked descriptor to hand to a worker, or `None` while somebody holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @property
    def exists(self) -> bool:
        """Whether its file is there: of one that was deleted nobody can see who holds it."""
        return self._path.exists()

    def free(self) -> bool:
        """Whether nobody holds it; can be asked on a disk that takes no file."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def end_holders(self, leader: Identity) -> list[int]:
        """Kill what a worker that is gone has left behind with the lock in its hands; returns the pids.

        Only what is in the session that the worker led *and* has the lock file open: a pid alone proves nothing.
        """
        if leader.reused:
            return []
        ended = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == leader.pid and str(self._path) in {f.path for f in process.open_files()}:
                    process.kill()
                    ended.append(process.pid)
        return ended


def spawn_worker(command: Sequence[str], spec: Path, log: Path, lock_descriptor: int) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own, with the lock in its hands and its words in a file.

    Never a pipe: a worker with a pipe dies with the daemon. The caller's copy of the lock is closed.
    """
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*command, str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock_descriptor,),
                env={**os.environ, WORKER_LOCK_FD: str(lock_descriptor), "PYTHONUNBUFFERED": "1"},
            )
    finally:
        os.close(lock_descriptor)


def find_worker(spec: Path) -> Identity | None:
    """The process that was started with this spec, for a daemon that died before it could note the pid."""
    if (heir := _heir_of(spec)) is not None and heir.alive():
        return heir
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(spec) in process.cmdline() and (found := Identity.of(process.pid)) and found.alive():
                return found
    return None


def _heir_of(spec: Path) -> Identity | None:
    """The standby that was asked to take this spec over, if one was."""
    try:
        return Identity(**json.loads(spec.with_name(HEIR).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def reap(process: subprocess.Popen[bytes], tell: Callable[[int], None]) -> None:
    """Tell the exit code of our own child, from a thread of its own."""
    threading.Thread(target=lambda: tell(process.wait()), name=f"reap-{process.pid}", daemon=True).start()


def await_adopted(identity: Identity, tell: Callable[[], None]) -> None:
    """Tell when a process that is not our child is gone; its exit code nobody can read."""
    pause = threading.Event()

    def watch() -> None:
        while identity.alive():
            pause.wait(POLL_SECONDS)
        tell()

    threading.Thread(target=watch, name=f"await-{identity.pid}", daemon=True).start()


def stop(identity: Identity, *, grace_seconds: float, stacks: bool = False) -> threading.Thread:
    """Ask, wait, then kill the whole group, from a thread: the loop goes on meanwhile.

    With `stacks`, SIGUSR1 first makes the worker write all its stacks to its log. One that was suspended (SIGSTOP, a
    debugger, Ctrl-Z in its terminal) hears nothing until it is continued.
    """
    pause = threading.Event()

    def gone_within(seconds: float) -> bool:
        for _ in range(max(1, round(seconds / POLL_SECONDS))):
            if not identity.alive():
                return True
            pause.wait(POLL_SECONDS)
        return not identity.alive()

    def carry_out() -> None:
        started = _started_by(identity)
        if stacks and identity.send(signal.SIGUSR1, group=False):
            gone_within(STACKS_SECONDS)
        identity.send(signal.SIGTERM)
        identity.send(signal.SIGCONT)  # after it: what was suspended must not train on in between
        if not gone_within(grace_seconds):
            identity.send(signal.SIGKILL)
        for left in started:  # the group was asked; what did not leave with its leader would hold the device for ever
            left.send(signal.SIGKILL, group=False)

    thread = threading.Thread(target=carry_out, name=f"stop-{identity.pid}", daemon=True)
    thread.start()
    return thread


def _started_by(identity: Identity) -> list[Identity]:
    """What a process has started and still runs, as it is now: afterwards nobody can tell."""
    if not identity.alive():
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(identity.pid).children(recursive=True)
        return [found for child in children if (found := Identity.of(child.pid)) is not None]
    return []
