"""Keeps worker.log short: its own standard output and error, which it holds open for days.

Only the process that writes can begin a new file without losing a line: a daemon that truncates from outside loses
what is written meanwhile, and may be dead. Knows nothing about what is written.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from ..rotating import LIMIT_BYTES, reopen_if_long

log = logging.getLogger("segwatch.trainer")
EVERY_SECONDS = 5.0
STANDARD_STREAMS = (1, 2)


def keep_short(path: Path, *, limit_bytes: int = LIMIT_BYTES, every_seconds: float = EVERY_SECONDS) -> threading.Event:
    """Look at it now and then, from a thread of its own, until the event that is returned is set or the process ends.

    A disk that refuses leaves the log as long as it is.
    """
    enough = threading.Event()

    def watch() -> None:
        while not enough.wait(every_seconds):
            try:
                if reopen_if_long(path, STANDARD_STREAMS, limit_bytes):
                    log.info("this log was longer than %d bytes; what stands before is in %s.*", limit_bytes, path.name)
            except OSError as error:
                log.warning("%s grows on: %s", path.name, error)
                return

    threading.Thread(target=watch, name="log", daemon=True).start()
    return enough
