"""`segwatch stop`: ends the daemon of a run and whatever it left behind. Returns only when nothing runs any more."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from ..errors import SegwatchError
from ..trainer.contract import SPEC, attempt_dir
from .diagnosing import spec_of
from .history import History
from .process import Identity, WorkerLock, find_worker, stop
from .rundir import RunDir
from .store import read_events
from .worker import known_worker

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
    """End a worker that no daemon watches; whether there was one. Raises SegwatchError when it stays."""
    worker = None if WorkerLock(run.path).free() else _worker_of(run)
    if worker is None:
        return False
    say(f"worker (pid {worker.pid}): asked to stop")
    stop(worker, grace_seconds=PATIENCE_SECONDS).join()
    if not _gone(worker, PATIENCE_SECONDS):
        raise SegwatchError(f"the worker (pid {worker.pid}) does not stop", where=run.path)
    return True


def _worker_of(run: RunDir) -> Identity | None:
    """Who holds the worker's lock: the worker, or the replay of an incident."""
    history = History.of(read_events(run.path))
    attempt = history.current
    if attempt is None:
        return None
    if attempt.spawned is not None:
        known = known_worker(attempt.spawned)
        if known.alive():
            return known
    found = find_worker(attempt_dir(run.path, attempt.number) / SPEC)
    if found is None and history.incidents:
        found = find_worker(spec_of(run.path, history.incidents[-1].number))
    return found


def _gone(identity: Identity, seconds: float) -> bool:
    pause = threading.Event()
    for _ in range(round(seconds / POLL_SECONDS)):
        if not identity.alive():
            return True
        pause.wait(POLL_SECONDS)
    return not identity.alive()
