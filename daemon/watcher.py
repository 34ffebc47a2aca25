"""File events and the clock's cadence, both as nudges. The promise is carried by the look itself, not by its trigger.

inotify loses events when its queue overflows, goes silent for ever when a directory is replaced and sees nothing on
NFS; APScheduler follows the wall clock. So the supervisor also looks by itself, and nothing depends on a message from
here.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from .inbox import Housekeep, Inbox, Look

HOUSEKEEP_SECONDS = 30.0
log = logging.getLogger(__name__)


class Nudge:
    """Puts at most one `Look` at a time into the inbox, however many files change."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._pending = threading.Event()

    def __call__(self) -> None:
        if not self._pending.is_set():
            self._pending.set()
            self._inbox.put(Look())

    def taken(self) -> None:
        self._pending.clear()


class _Handler(FileSystemEventHandler):
    def __init__(self, nudge: Nudge) -> None:
        self._nudge = nudge

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in {"created", "moved", "modified", "deleted"}:
            self._nudge()


class Watcher:
    """Watches directories and ticks, from threads of their own, until it is stopped."""

    def __init__(self, inbox: Inbox, nudge: Nudge, *, scan_seconds: float) -> None:
        self._nudge = nudge
        self._observer = Observer()
        self._scheduler = BackgroundScheduler(timezone="UTC")
        once = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler.add_job(nudge, "interval", seconds=scan_seconds, **once)
        self._scheduler.add_job(inbox.put, "interval", args=[Housekeep()], seconds=HOUSEKEEP_SECONDS, **once)

    def start(self, directories: list[Path]) -> None:
        """File events are a comfort: where the system has no watch left, the scan alone finds everything."""
        try:
            for directory in directories:
                self._observer.schedule(_Handler(self._nudge), str(directory), recursive=True)
            self._observer.start()
        except OSError as error:
            log.warning("no file events (%s): new checkpoints are found by the periodic scan", error)
        self._scheduler.start()

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
