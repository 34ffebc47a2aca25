"""One path for every fact: durable first, then into the history, then to those who show it.

A sink that fails is told of in the log and catches up later: showing never stops watching, and nothing stays untold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from .events import AlertChanged, Event
from .history import History
from .store import Store

log = logging.getLogger(__name__)
DELIVERED = "delivered"
AGAIN_SECONDS = 2.0
"""Before a sink that failed is tried again; doubles each time."""
AGAIN_LIMIT_SECONDS = 300.0
Fact = tuple[float, Event]
"""When it was recorded, and what."""


class Sink(Protocol):
    """Shows facts to somebody: a file, TensorBoard, the terminal."""

    def handle(self, moment: float, event: Event) -> None: ...

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """Show what a daemon that died recorded and may or may not have shown, without showing anything twice."""

    def close(self) -> None: ...


class Summary(Protocol):
    """What all facts together come to, kept on disk for those who only look: once a round, however many facts came."""

    def refresh(self, sequence: int, events_bytes: int) -> None:
        """Write it anew where facts came: `sequence` is the number of the last one."""


class Recorder:
    def __init__(
        self,
        store: Store,
        history: History,
        sinks: Sequence[Sink],
        *,
        summaries: Sequence[Summary] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._summaries = summaries
        self._folded = store.sequence
        """The last fact that the history knows; one that the disk took only in part it does not."""
        self._sinks = sinks
        self._clock = clock
        self._missed: dict[int, list[Fact]] = {}
        """By the position of a sink that failed: the facts that it may not have shown."""
        self._tried_at = 0.0
        self._again_seconds = AGAIN_SECONDS
        self._shown = 0
        """The last fact that every sink has shown."""
        self.history = history
        self.news = True
        """Whether a fact came that may change which alerts hold."""

    def record(self, event: Event) -> float:
        """Raises OSError or sqlite3.Error when the fact cannot be made durable: then nothing may be built on it."""
        return self.record_all([event])[0]

    def record_all(self, events: Sequence[Event]) -> list[float]:
        """Several facts at once: all are durable before the first is built on. Raises as `record` does."""
        moments = self._store.append_all(events)
        for moment, event in zip(moments, events, strict=True):
            self.history.apply(moment, event)
        self._folded = self._store.sequence
        self.news = self.news or not all(isinstance(event, AlertChanged) for event in events)
        for moment, event in zip(moments, events, strict=True):
            self._deliver(moment, event)
        return moments

    def catch_up(self) -> None:
        """Hand out again what a daemon that died may have recorded and not shown."""
        self._shown = int(self._store.noted(DELIVERED) or 0)
        facts = list(self._store.events(after=self._shown))
        if facts:
            self._missed = {place: list(facts) for place in range(len(self._sinks))}
        self._show_what_was_missed()
        self.delivered()

    def delivered(self) -> None:
        """Note that everything recorded so far was shown; a sink that failed is tried again now and then."""
        if self._missed and self._clock() - self._tried_at >= self._again_seconds:
            self._show_what_was_missed()
        self._sum_up()  # first: what a daemon that dies here has noted as shown, nobody shows again
        if not self._missed:
            self._shown = self._store.sequence
        if self._store.noted(DELIVERED) != str(self._shown):
            self._store.note(DELIVERED, str(self._shown))

    def _show_what_was_missed(self) -> None:
        self._tried_at = self._clock()
        for place, facts in list(self._missed.items()):
            with _at_the_boundary(self._sinks[place], f"show {len(facts)} facts that it missed"):
                self._sinks[place].catch_up(facts)
                del self._missed[place]
        self._again_seconds = min(2 * self._again_seconds, AGAIN_LIMIT_SECONDS) if self._missed else AGAIN_SECONDS

    def _sum_up(self) -> None:
        if self._folded != self._store.sequence:
            return
        for summary in self._summaries:
            with _at_the_boundary(summary, "be refreshed"):
                summary.refresh(self._store.sequence, self._store.log_bytes)

    def note(self, key: str, value: str) -> None:
        self._store.note(key, value)

    def noted(self, key: str) -> str | None:
        return self._store.noted(key)

    def close(self) -> None:
        if self._missed:
            self._show_what_was_missed()
        self._sum_up()
        for sink in self._sinks:
            with _at_the_boundary(sink, "close"):
                sink.close()
        self._store.close()

    def _deliver(self, moment: float, event: Event) -> None:
        for place, sink in enumerate(self._sinks):
            fact = moment, event
            if place in self._missed:
                self._missed[place].append(fact)
                continue
            self._missed[place] = [fact]
            with _at_the_boundary(sink, f"show {event.kind}"):
                sink.handle(moment, event)
                del self._missed[place]
            if place in self._missed:
                self._tried_at = self._clock()


@contextmanager
def _at_the_boundary(sink: object, what: str) -> Iterator[None]:
    """No fault in showing stops watching (promise P7): it is told in daemon.log with its traceback."""
    try:
        yield
    except Exception:
        log.exception("%s could not %s", type(sink).__name__, what)
