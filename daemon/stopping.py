"""`segwatch stop`: ends the daemon of a run and whatever it left behind. Returns only when nothing runs any more."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from ..errors import SegwatchError
from ..trainer.contract import attempt_dir
from .diagnosing import spec_of
from .farewell import note_asked
from .history import History
from .process import Identity, WorkerLock, find_worker, stop
from .rundir import RunDir
from .store import EVENTS, read_events
from .worker import known_worker, running_worker

PATIENCE_SECONDS = 90.0
POLL_SECONDS = 0.2


def stop_run(run: RunDir, say: Callable[[str], None]) -> None:
    """Ask the daemon, wait for it, then end a worker that has no daemon. Raises SegwatchError when something stays."""
    holder = run.holder()
    if holder is not None and holder.alive() is None:
        raise SegwatchError(f"the daemon runs on {holder.host}", where=run.path, remedy="stop it there")
    found = False
    if holder is not None and holder.alive():
        found = True
        daemon = Identity(holder.pid, holder.create_time, holder.boot)
        say(f"daemon (pid {daemon.pid}): asked to stop; its worker saves at the next step boundary")
        daemon.send(signal.SIGTERM, group=False)
        if not _gone(daemon, PATIENCE_SECONDS):
            say("still there: asked again, without waiting for the worker to save")
            daemon.send(signal.SIGTERM, group=False)
            if not _gone(daemon, PATIENCE_SECONDS):
                raise SegwatchError(f"the daemon (pid {daemon.pid}) does not stop", where=run.path)
    found = stop_worker(run, say) or found
    say("stopped" if found else "nothing runs here")


def stop_worker(run: RunDir, say: Callable[[str], None]) -> bool:
    """End a worker that no daemon watches, and what one has left behind; whether there was any. Raises SegwatchError
    when it stays.
    """
    if not (run.path / EVENTS).exists():
        return False
    history, lock = History.of(read_events(run.path)), WorkerLock(run.path)
    found = _end_worker(run, history, lock, say)
    return _end_left_behind(history, lock, say) or found


def _end_worker(run: RunDir, history: History, lock: WorkerLock, say: Callable[[str], None]) -> bool:
    """The worker, or the replay of an incident that has its lock."""
    attempt = history.current
    worker = None if attempt is None else running_worker(run.path, attempt, lock)
    if attempt is not None and worker is not None:
        directory = attempt_dir(run.path, attempt.number)
        note_asked(directory, by_hand=True)  # or the next daemon takes its end for an incident
        if not _leaves_in_time(worker, run, say):
            note_asked(directory, killed=True, by_hand=True)
        return True
    replay = None
    if history.incidents and not lock.free():
        replay = find_worker(spec_of(run.path, history.incidents[-1].number))
    if replay is not None:
        _leaves_in_time(replay, run, say)
    return replay is not None


def _leaves_in_time(worker: Identity, run: RunDir, say: Callable[[str], None]) -> bool:
    """Ask it and wait until it is gone; False where it had to be killed. Raises SegwatchError when it stays."""
    say(f"worker (pid {worker.pid}): asked to stop")
    began = time.monotonic()
    stop(worker, grace_seconds=PATIENCE_SECONDS).join()
    if not _gone(worker, PATIENCE_SECONDS):
        raise SegwatchError(f"the worker (pid {worker.pid}) does not stop", where=run.path)
    return time.monotonic() - began < PATIENCE_SECONDS


def _end_left_behind(history: History, lock: WorkerLock, say: Callable[[str], None]) -> bool:
    """What a worker that is gone has started, and what may hold the device."""
    found = False
    for attempt in history.attempts[-2:]:
        if lock.free() or attempt.spawned is None:
            continue
        known = [Identity.of(pid) for pid in lock.end_holders(known_worker(attempt.spawned))]
        ended = [identity for identity in known if identity is not None]
        if ended:
            found = True
            say(f"processes that attempt {attempt.number} left behind were killed: {[each.pid for each in ended]}")
        for identity in ended:
            _gone(identity, PATIENCE_SECONDS)
    return found


def _gone(identity: Identity, seconds: float) -> bool:
    pause = threading.Event()
    for _ in range(round(seconds / POLL_SECONDS)):
        if not identity.alive():
            return True
        pause.wait(POLL_SECONDS)
    return not identity.alive()
