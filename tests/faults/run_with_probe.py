"""`run_with_fakes.py`, with a watch in hand: loop.txt and told.txt in the working directory hold, in seconds, how long
each round of the real loop took and how long each fact kept it in the outbox."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "daemon"))

import run_with_fakes
from segwatch.daemon.outbox import Outbox
from segwatch.daemon.supervisor import Supervisor

messages, look, handle = Supervisor._messages, Supervisor._look, Outbox.handle
began = [0.0]


def waited(supervisor):
    found = messages(supervisor)
    began[0] = time.monotonic()
    return found


def looked(supervisor):
    look(supervisor)
    note("loop.txt", time.monotonic() - began[0])


def handled(outbox, moment, event):
    start = time.monotonic()
    handle(outbox, moment, event)
    note("told.txt", time.monotonic() - start)


def note(name, seconds):
    with Path(name).open("a") as file:
        file.write(f"{seconds}\n")


Supervisor._messages, Supervisor._look, Outbox.handle = waited, looked, handled

if __name__ == "__main__":
    sys.exit(run_with_fakes.main())
