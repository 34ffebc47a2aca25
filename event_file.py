"""One TensorBoard event file, written record by record. Knows nothing about what the records say; no torch.

A record a second needs neither the queue nor the thread of `EventFileWriter`, whose errors surface at a later call.
"""

from __future__ import annotations

import io
import os
import secrets
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from .durable import append_whole, leads_to


class EventFile:
    """A new file in `directory`, which is made where it is missing. Raises OSError when the disk refuses."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}"
        self._path = directory / name
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.add_event(Event(wall_time=now, file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        """A whole record or none: TensorBoard reads no further than to a torn one."""
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append_whole(self._descriptor, record.getvalue())

    def purge_from(self, step: int) -> None:
        """TensorBoard drops what earlier files hold from this step on. Works only where every file begins so."""
        session = SessionLog(status=SessionLog.START)
        self.add_event(Event(wall_time=time.time(), step=step, session_log=session))

    def in_place(self) -> bool:
        """Whether anybody can still read what is written: the directory may have been deleted or replaced."""
        return leads_to(self._path, self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
