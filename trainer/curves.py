"""Writes tensorboard/train. Knows nothing about what the numbers mean; no torch.

The event file is written record by record: once a second needs neither the queue nor the thread of SummaryWriter.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

log = logging.getLogger(__name__)


class Curves:
    """Scalars by global step. A failure is logged once and ends the curves, never the training."""

    def __init__(self, directory: Path, *, from_step: int) -> None:
        """Points after `from_step` that an earlier attempt wrote are purged: this one writes them again."""
        self._records: RecordWriter | None = None
        now = time.time()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
            self._records = RecordWriter((directory / name).open("wb", buffering=0))
            self._append(Event(wall_time=now, file_version="brain.Event:2"))
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=now, step=from_step + 1, session_log=start))
        except OSError as error:
            self._give_up(error)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """One point of each curve; `None` is no point."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
        try:
            self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        if self._records is not None:
            try:
                self._records.close()
            except OSError as error:
                self._give_up(error)
            self._records = None

    def _append(self, event: Event) -> None:
        if self._records is not None:
            self._records.write(event.SerializeToString())

    def _give_up(self, error: OSError) -> None:
        log.warning("no more curves in TensorBoard for this attempt: %s", error)
        self._records = None
