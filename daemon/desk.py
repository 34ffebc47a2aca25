"""Takes what people asked for out of requests/ and makes facts of it. Knows nothing about who is notified, or how."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from ..plain import one_line
from .events import AlertAcknowledged, AlertsSilenced, AlertState, Event, SilenceEnded
from .history import History
from .wishes import REQUESTS, Wish, waiting

log = logging.getLogger(__name__)


class Desk:
    """Asked at each look of the daemon; while nothing waits, that costs one stat."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def facts(self, history: History, now: float) -> Iterator[Event]:
        """What follows from the wishes that wait, and from silences whose time is over.

        A wish is removed once its facts are recorded, that is when the next fact is asked for. A daemon that dies in
        between takes it again: the same facts say nothing new.
        """
        if (self._run_dir / REQUESTS).exists():
            for path, wish in waiting(self._run_dir):
                if isinstance(wish, ValueError):
                    log.warning("%s cannot be carried out: %s", one_line(path.name), wish)
                    path.replace(path.with_suffix(".refused"))
                    continue
                yield from list(_facts(wish, history))
                path.unlink(missing_ok=True)
        over = [code for code, (_, silence) in history.attention.silenced.items() if silence.until <= now]
        yield from (SilenceEnded(code=code) for code in over)


def _facts(wish: Wish, history: History) -> Iterator[Event]:
    attention = history.attention
    if wish.kind == "ack":
        for fingerprint, since in (wish.since or {}).items():
            alert = history.alerts.get(fingerprint)
            holds = alert is not None and alert.state is AlertState.FIRING and alert.since == since
            if alert is not None and holds and attention.seen(alert) is None:
                yield AlertAcknowledged(fingerprint=fingerprint, since=since, by=wish.by)
        return
    assert wish.until is not None
    if wish.until > wish.asked:
        known = attention.silenced.get(wish.what)
        if known is None or known[1].until != wish.until:
            yield AlertsSilenced(code=wish.what, until=wish.until, by=wish.by)
    elif wish.what in attention.silenced:
        yield SilenceEnded(code=wish.what)
