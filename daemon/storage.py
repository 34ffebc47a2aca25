"""What is done when the disk refuses: stop, wait until it takes a file again, and start again from what lies on it.

Never retried in place: after a write or an fsync that failed nobody knows what the disk holds, and a second fsync may
say that all is well (https://lwn.net/Articles/752063/). Knows nothing about what is written.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty

from ..durable import write_atomic
from ..errors import SegwatchError
from .inbox import Inbox, Interrupted

log = logging.getLogger(__name__)
PROBE = ".disk-probe"
PROBE_BYTES = 256 << 10
"""More than the daemon ever writes at once."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
SHORT_LIFE_SECONDS = 60.0
LIVES = 5
"""Starts in a row that may fail at once although the disk takes a file in between: then it is no fault of the disk."""

DiskError = OSError | sqlite3.Error


class StorageError(SegwatchError):
    """The disk refuses for no reason that waiting would mend (EX_IOERR)."""

    exit_code = 74


def free_bytes(directory: Path) -> int:
    """What this user may still write there. Raises OSError when the directory is gone."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


class Pauses:
    """Counts how often the disk refused, and waits."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._began = clock()
        self._short_lives = 0

    def wait(self, error: DiskError, inbox: Inbox, say: Callable[[str], None]) -> int | None:
        """Return when the disk takes a file again, or the number of a signal that came before.

        Raises StorageError when the disk takes files and the daemon fails all the same, again and again.
        """
        self._short_lives = self._short_lives + 1 if self._clock() - self._began < SHORT_LIFE_SECONDS else 1
        if self._short_lives > LIVES:
            raise StorageError(
                f"the disk refused {self._short_lives} times in a row; last: {error}",
                where=self._directory,
                remedy="see daemon.log and dmesg; the worker trains on, and `segwatch run` takes it up again",
            ) from error
        log.error("the disk refused, so this daemon starts again from what lies on it", exc_info=error)
        say(f"the disk refuses ({error}): nothing is decided until it takes a file again; training goes on")
        seconds = FIRST_WAIT_SECONDS
        while True:
            if (number := _signal_within(seconds, inbox)) is not None:
                return number
            if takes_files(self._directory):
                self._began = self._clock()
                return None
            self._short_lives = 0  # it is the disk, beyond doubt: wait as long as it takes
            seconds = min(2 * seconds, LONGEST_WAIT_SECONDS)


def takes_files(directory: Path) -> bool:
    """Whether a file can be written, flushed, named and removed."""
    probe = directory / PROBE
    try:
        write_atomic(probe, lambda file: _ignore(file.write(bytes(PROBE_BYTES))))
        probe.unlink()
    except OSError as error:
        log.debug("not yet: %s", error)
        return False
    return True


def _ignore(_written: int) -> None:
    """What `write` returns."""


def _signal_within(seconds: float, inbox: Inbox) -> int | None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            message = inbox.get(timeout=left)
        except Empty:
            break
        if isinstance(message, Interrupted):
            return message.signal
    return None
