"""`run_with_fakes.py`, with a watch in hand: loop.txt and told.txt in the working directory hold, in seconds, how long
each round of the real loop took and how long each fact kept it in the outbox.

Without the waits that every daemon has on a busy machine, for the disk and for a free core: what is left is its own
work and whatever it waits for of others, such as an endpoint.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "daemon"))

import run_with_fakes
from segwatch.daemon.outbox import Outbox
from segwatch.daemon.store import Store
from segwatch.daemon.supervisor import Supervisor

messages, look, handle = Supervisor._messages, Supervisor._look, Outbox.handle
SCHEDSTAT = Path("/proc/thread-self/schedstat")
began = [0.0]
on_disk = [0.0]
in_call = [False]


def now() -> float:
    """Goes on unless this thread waits for the disk or, where Linux tells it, for a core."""
    waited = int(SCHEDSTAT.read_text().split()[1]) / 1e9 if SCHEDSTAT.exists() else 0.0
    return time.monotonic() - on_disk[0] - waited


def disk(call: Callable) -> Callable:
    def timed(*arguments):
        if in_call[0]:  # the store calls fsync: not twice
            return call(*arguments)
        in_call[0], start = True, now()
        try:
            return call(*arguments)
        finally:
            in_call[0] = False
            on_disk[0] += now() - start

    return timed


def waited(supervisor):
    found = messages(supervisor)
    began[0] = now()
    return found


def looked(supervisor):
    look(supervisor)
    note("loop.txt", now() - began[0])


def handled(outbox, moment, event):
    start = now()
    handle(outbox, moment, event)
    note("told.txt", now() - start)


def note(name, seconds):
    with Path(name).open("a") as file:
        file.write(f"{seconds}\n")


Supervisor._messages, Supervisor._look, Outbox.handle = waited, looked, handled
Store.append_all, Store.note, os.fsync = disk(Store.append_all), disk(Store.note), disk(os.fsync)

if __name__ == "__main__":
    sys.exit(run_with_fakes.main())
