"""daemon.log: what the daemon itself has to say, bounded on the disk. Knows nothing about what is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ..rotating import LIMIT_BYTES, rotate_if_long


class BoundedHandler(WatchedFileHandler):
    """Begins a new file when this one is too long, or was rotated or deleted by somebody else."""

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__(path)
        self._path = path
        self._limit_bytes = limit_bytes

    def emit(self, record: logging.LogRecord) -> None:
        try:
            rotate_if_long(self._path, self._limit_bytes)
        except OSError:  # a log that cannot be moved is better long than silent
            self.handleError(record)
        with suppress(OSError):  # nor opened anew, where the disk is gone: who watches is told that it refuses
            super().emit(record)


@contextmanager
def log_to(path: Path, formatter: logging.Formatter | None = None) -> Iterator[None]:
    """What the daemon itself has to say goes to this file; libraries only when something is wrong."""
    handler = BoundedHandler(path)
    handler.setFormatter(formatter or logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    levels = {"segwatch": logging.INFO, "apscheduler": logging.WARNING, "watchdog": logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger, level in loggers.items():
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
