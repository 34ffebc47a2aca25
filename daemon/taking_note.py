"""`segwatch ack` and `segwatch silence`: lays the wish into the run and says what will come of it."""

from __future__ import annotations

from ..errors import UsageError
from ..nearby import did_you_mean, nearest
from . import going_on, wishes
from .alert_book import AlertBook, Told
from .codes import ALERT_CODES
from .rundir import RunDir
from .spans import duration, stamp
from .wishes import Wish

LONGEST_SECONDS = 366 * 86400.0


def acknowledge(run: RunDir, what: str) -> str:
    """Take note of the firing alert with this fingerprint, or of all with this code; returns what to tell.

    Raises UsageError where none fires that is called so.
    """
    firing = _firing(run)
    found = {
        alert["fingerprint"]: alert["since"] for _, alert in firing if what in (alert["fingerprint"], alert["code"])
    }
    if not found:
        names = ", ".join(alert["fingerprint"] for _, alert in firing)
        raise UsageError(f"no alert called {what!r} fires in {run.path}", remedy=f"firing here: {names or 'nothing'}")
    wishes.place(run.path, Wish(kind="ack", what=what, asked=wishes.now(), by=wishes.asker(), since=found))
    return f"noted: {', '.join(found)}. No more notifications until it is over and begins anew{_when(run)}"


def silence(run: RunDir, code: str, seconds: float) -> str:
    """No notifications of a code for so long; 0 lifts it. Returns what to tell. Raises UsageError for no such code."""
    if code not in ALERT_CODES:
        near = did_you_mean(nearest(code, ALERT_CODES), after=" ")
        raise UsageError(f"{code!r} is no code of an alert", remedy=f"{near}there are: {', '.join(ALERT_CODES)}")
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"{duration(seconds)} is no time to be silent for", remedy="--for: at most a year; 0 ends a silence"
        )
    asked = wishes.now()
    wishes.place(run.path, Wish(kind="silence", what=code, asked=asked, by=wishes.asker(), until=asked + seconds))
    if seconds == 0:
        return f"{code} is told again{_when(run)}"
    until = f"until {stamp(asked + seconds)} ({duration(seconds)})"
    return f"no notifications of {code} {until}; what still fires then is told{_when(run)}"


def _firing(run: RunDir) -> list[Told]:
    book = AlertBook(run.path)
    book.read_on()
    return [told for told in book.alerts() if told[1]["state"] == "firing"]


def _when(run: RunDir) -> str:
    """A run without a daemon notifies nobody; what was asked for lies there until one comes."""
    holder = run.holder()
    watched = holder is not None and holder.purpose == "watch" and holder.alive() is not False
    return "" if watched else f". No daemon runs: `{going_on.command(run)}` takes it up"
