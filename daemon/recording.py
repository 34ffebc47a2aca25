"""One path for every fact: durable first, then into the history, then to those who show it.

A sink that fails is told of in the log and left out of that one fact: showing never stops watching.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from .events import AlertChanged, Event
from .history import History
from .store import Store

log = logging.getLogger(__name__)
DELIVERED = "delivered"
Fact = tuple[float, Event]
"""When it was recorded, and what."""


class Sink(Protocol):
    """Shows facts to somebody: a file, TensorBoard, the terminal."""

    def handle(self, moment: float, event: Event) -> None: ...

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """Show what a daemon that died recorded and may or may not have shown, without showing anything twice."""

    def close(self) -> None: ...


class Recorder:
    def __init__(self, store: Store, history: History, sinks: Sequence[Sink]) -> None:
        self._store = store
        self._sinks = sinks
        self.history = history
        self.news = True
        """Whether a fact came that may change which alerts hold."""

    def record(self, event: Event) -> float:
        """Raises OSError or sqlite3.Error when the fact cannot be made durable: then nothing may be built on it."""
        moment = self._store.append(event)
        self.history.apply(moment, event)
        self.news = self.news or not isinstance(event, AlertChanged)
        self._deliver(moment, event)
        return moment

    def catch_up(self) -> None:
        """Hand out again what a daemon that died may have recorded and not shown."""
        facts = list(self._store.events(after=int(self._store.noted(DELIVERED) or 0)))
        for sink in self._sinks if facts else ():
            with _at_the_boundary(sink, "catch up"):
                sink.catch_up(facts)
        self.delivered()

    def delivered(self) -> None:
        """Note that everything recorded so far was shown."""
        if self._store.noted(DELIVERED) != str(self._store.sequence):
            self._store.note(DELIVERED, str(self._store.sequence))

    def note(self, key: str, value: str) -> None:
        self._store.note(key, value)

    def noted(self, key: str) -> str | None:
        return self._store.noted(key)

    def close(self) -> None:
        for sink in self._sinks:
            with _at_the_boundary(sink, "close"):
                sink.close()
        self._store.close()

    def _deliver(self, moment: float, event: Event) -> None:
        for sink in self._sinks:
            with _at_the_boundary(sink, f"show {event.kind}"):
                sink.handle(moment, event)


@contextmanager
def _at_the_boundary(sink: Sink, what: str) -> Iterator[None]:
    """No fault in showing stops watching (promise P7): it is told in daemon.log with its traceback."""
    try:
        yield
    except Exception:
        log.exception("%s could not %s", type(sink).__name__, what)
