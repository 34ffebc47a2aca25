"""Pending, firing, resolved: turns what holds now into what has changed, and writes alerts.log for 3 a.m."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..durable import LineLog
from ..plain import one_line
from .alert import Alert
from .events import AlertChanged, AlertState, Event
from .evidence import evidence_words as evidence_words  # noqa: PLC0414 - who tells of alerts knows it from here
from .spans import duration as duration  # noqa: PLC0414
from .spans import stamp as stamp  # noqa: PLC0414

TAIL_LINES = 1000
OVER = frozenset({AlertState.RESOLVED, AlertState.WITHDRAWN})
TOLD = frozenset({AlertState.FIRING, AlertState.RESOLVED})
"""What a person hears of. An alert that never fired was no news, and that it is gone is none either."""


def changes(known: Mapping[str, AlertChanged], now: Iterable[Alert], moment: float) -> list[AlertChanged]:
    """What to record so that `known` (by fingerprint) becomes `now`. Nothing is repeated while nothing changes."""
    holding = {alert.fingerprint: alert for alert in now}
    changed = [
        record
        for alert in holding.values()
        if not alert.inhibited and (record := _advance(known.get(alert.fingerprint), alert, moment)) is not None
    ]
    for fingerprint, old in known.items():
        if old.state not in OVER and fingerprint not in holding:
            over = AlertState.RESOLVED if old.state is AlertState.FIRING else AlertState.WITHDRAWN
            changed.append(old.model_copy(update={"state": over}))
    return changed


def _advance(old: AlertChanged | None, alert: Alert, moment: float) -> AlertChanged | None:
    state = AlertState.PENDING if alert.pending else AlertState.FIRING
    again = old is None or old.state in OVER
    if old is not None and not again:
        if old.state is AlertState.FIRING:
            state = AlertState.FIRING  # once it fires it stays so until it no longer holds
        if old.state is state and old.action == alert.action:
            return None
    return AlertChanged(
        fingerprint=alert.fingerprint,
        code=alert.code,
        severity=alert.severity,
        state=state,
        since=moment if old is None or again else old.since,
        cause=alert.cause,
        evidence=alert.evidence,
        action=alert.action,
        advice=alert.advice,
        drill=alert.drill,
    )


class AlertLog:
    """alerts.log: one block per change, appended."""

    def __init__(self, run_dir: Path) -> None:
        self._log = LineLog(run_dir / "alerts.log", fsync=False, follow=True)

    def handle(self, moment: float, event: Event) -> None:
        if block := self._block(moment, event):
            self._log.append(*block)

    def catch_up(self, facts: Iterable[tuple[float, Event]]) -> None:
        """A daemon may have died between the log and its note that the log was written: the end of the log tells."""
        text = self._log.path.read_text(errors="replace") if self._log.in_place() else ""
        written = set(text.splitlines()[-TAIL_LINES:])
        for moment, event in facts:
            if not written.issuperset(self._block(moment, event)):
                self.handle(moment, event)

    @staticmethod
    def _block(moment: float, event: Event) -> list[str]:
        if isinstance(event, AlertChanged) and event.state in TOLD:
            return alert_lines(event, moment)
        return []

    def close(self) -> None:
        self._log.close()


def alert_lines(alert: AlertChanged, moment: float, *, whole: bool = False) -> list[str]:
    """The block of one alert, as of `moment`: what, cause, evidence, action, advice.

    A resolved one takes a single line, since its block stands above in the log, unless the `whole` is wanted.
    """
    drill = f" [DRILL {one_line(alert.drill)}]" if alert.drill else ""
    head = f"{stamp(moment)} {alert.state.upper():8} {alert.severity.upper():8} {alert.code}{drill}"
    if alert.state is AlertState.RESOLVED:
        head += f": over after {duration(moment - alert.since)}"
        if not whole:
            return [f"{head}. It was: {one_line(alert.cause)}"]
    return [
        head,
        f"    cause:    {one_line(alert.cause)}",
        f"    evidence: {one_line(evidence_words(alert.evidence))}",
        f"    action:   {one_line(alert.action)}",
        f"    advice:   {one_line(alert.advice)}",
    ]
