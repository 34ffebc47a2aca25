"""What a standby is told, and the few words between it and the daemon. No torch.

They speak over a pair of sockets, one message at a time. The standby: READY. The daemon: STAND_UP; the standby: UP, and
from then on it does not die with the daemon. The daemon: an Order, and with it the worker's lock; the standby: TAKEN,
once its output goes to the log. Then the daemon hangs up, and the end of the line is the start. Whoever has no order at
the end of the line leaves instead: a daemon that dies, at whatever point, has started it or has not, never half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..section import Record

READY = b"ready"
STAND_UP = b"stand up"
UP = b"up"
TAKEN = b"taken"
MESSAGE_BYTES = 1 << 16
"""The longest message holds two paths."""

HEIR = "standby.json"
"""Beside a spec: the process that was asked to take it over, for the command line of a standby names no spec."""

Entry = Literal["worker", "diagnose"]
MODULES: dict[Entry, str] = {"worker": "segwatch.trainer.__main__", "diagnose": "segwatch.trainer.diagnose"}
"""What can be run: modules whose `main([spec])` returns an exit code."""


class Order(Record):
    """What to become."""

    entry: Entry
    spec: Path
    log: Path
    """Where standard output and error go from then on."""
