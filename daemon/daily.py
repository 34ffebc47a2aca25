"""The daily digest: once a day, at a time of day, what the last day came to. Knows nothing about how it is sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from ..plain import one_line
from .alerts import duration
from .events import AlertChanged, AlertState, EpochCommitted, Event, IncidentOpened, ScoreRecorded
from .history import History
from .quiet import last_time
from .words import figure, percent

log = logging.getLogger(__name__)
DAY_SECONDS = 86400.0
NAMED = 10
"""Alerts and incidents of a day that are told one by one."""


class Facts(Protocol):
    def since(self, moment: float) -> Iterator[tuple[float, Event]]: ...


class Told(Protocol):
    def tell_digest(self, moment: float, fact: str, words: str, lines: Sequence[str]) -> None: ...


class DailyDigest:
    """`look` as often as one likes: it tells at most once a day."""

    def __init__(
        self, at: str, facts: Facts, history: History, outbox: Told, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._at = at
        self._facts = facts
        self._history = history
        self._outbox = outbox
        self._clock = clock
        self._told = 0.0

    def look(self) -> None:
        """A day that was missed, as no daemon was there, is told late; of several only the last."""
        if not self._at:
            return
        due = last_time(self._at, self._clock())
        begun = self._history.created_at
        if due <= self._told or begun is None or begun >= due:
            return
        self._told = due
        try:
            day = [event for moment, event in self._facts.since(due - DAY_SECONDS) if moment < due]
            words, lines = day_in_words(day, self._history)
            self._outbox.tell_digest(due, f"day {datetime.fromtimestamp(due).astimezone():%Y-%m-%d}", words, lines)
        except Exception:  # boundary: no fault in telling ends the watching (promise P7)
            log.exception("the daily digest is not told")


def day_in_words(day: Sequence[Event], history: History) -> tuple[str, list[str]]:
    """A title, and a line for each thing worth one: what happened on the `day`, and how the run stands now."""
    epoch = _last_epoch(history)
    best = history.best.get("test")
    title = f"daily digest: epoch {epoch} of {history.epochs_wanted}"
    title += f", best test mIoU {percent(best.miou)}" if best else ", no score yet"
    trained = sum(isinstance(event, EpochCommitted) for event in day)
    lines = [f"trained: {_epochs(trained)} in the last day{_left(history, trained)}"]
    if best is not None:
        lines.append(
            f"best by test: epoch {best.epoch.epoch}, mIoU {figure(best.epoch.scores['test'])}{_gain(day, history)}"
        )
    if history.unscored:
        lines.append(f"to score: {_epochs(len(history.unscored))}")
    lines += _incidents(day, history)
    lines += _alerts(day)
    firing = [f"{alert.severity.upper()} {alert.code}" for alert in history.firing()]
    lines.append("firing now: " + (", ".join(firing[:NAMED]) or "nothing"))
    return title, lines


def _last_epoch(history: History) -> int:
    standing = history.lineage()
    return standing[-1].epoch if standing else 0


def _left(history: History, trained: int) -> str:
    """At the pace of the day, roll-backs included."""
    left = history.epochs_wanted - _last_epoch(history)
    if history.finished or left <= 0:
        return "; all are trained"
    return f"; {left} to go, {duration(left * DAY_SECONDS / trained)} at this pace" if trained else f"; {left} to go"


def _gain(day: Sequence[Event], history: History) -> str:
    """What the best has gained over that of a day ago, among the epochs that stand."""
    scored = {(event.attempt, event.epoch) for event in day if isinstance(event, ScoreRecorded)}
    before = max((miou for epoch, miou in history.scored_lineage() if epoch.key not in scored), default=None)
    best = history.best.get("test")
    if before is None or best is None:
        return ""
    return (
        f", {100 * (best.miou - before):+.2f} points in a day" if best.miou > before else ", no better than a day ago"
    )


def _incidents(day: Sequence[Event], history: History) -> Iterator[str]:
    opened = [event for event in day if isinstance(event, IncidentOpened)]
    answers = {incident.number: history.answer_to(incident) for incident in history.incidents}
    for event in opened[-NAMED:]:
        answer = answers.get(event.number)
        done = one_line(answer.because) if answer else "training went on" if not event.fatal else "no restart yet"
        drill = f" [DRILL {event.drill}]" if event.drill else ""
        yield f"incident {event.number:03d}: {event.cause}{drill} in epoch {event.epoch} -> {done}"
    if len(opened) > NAMED:
        yield f"({len(opened) - NAMED} earlier incidents: segwatch alerts)"


def _alerts(day: Sequence[Event]) -> Iterator[str]:
    told = [event for event in day if isinstance(event, AlertChanged)]
    for state, words in ((AlertState.FIRING, "alerts that fired"), (AlertState.RESOLVED, "alerts that are over")):
        codes = [event.code for event in told if event.state is state]
        counted = [f"{code} x {codes.count(code)}" if codes.count(code) > 1 else code for code in dict.fromkeys(codes)]
        if counted:
            yield f"{words}: {', '.join(counted)}"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
