"""Writes tensorboard/train. Knows nothing about what the numbers mean; no torch."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from ..event_file import EventFile

log = logging.getLogger(__name__)
AGAIN_SECONDS = 30.0


class Curves:
    """Scalars by global step. A failure costs points, never the training; a new file is tried a while later."""

    def __init__(self, directory: Path, *, from_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Points after `from_step` that an earlier attempt wrote are purged: this one writes them again."""
        self._directory = directory
        self._clock = clock
        self._failed_at = 0.0
        self._file: EventFile | None = None
        self._open(from_step)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """One point of each curve; `None` is no point."""
        if self._file is not None and not self._file.in_place():
            self.close()  # deleted or replaced: what goes on being written there, nobody can see
            self._open(step - 1)
        elif self._file is None and self._clock() - self._failed_at >= AGAIN_SECONDS:
            self._open(step - 1)
        if self._file is None:
            return
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
        try:
            self._file.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        except OSError as error:
            self._put_off(error)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self, from_step: int) -> None:
        try:
            self._file = EventFile(self._directory)
            self._file.purge_from(from_step + 1)
        except OSError as error:
            self._put_off(error)

    def _put_off(self, error: OSError) -> None:
        log.warning("no curves in TensorBoard for now: %s", error)
        self.close()
        self._failed_at = self._clock()
