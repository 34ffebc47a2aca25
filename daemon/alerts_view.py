"""`segwatch alerts` for a person at 3 a.m. and for programs: what, evidence, what was done, what to do.

Knows where alerts are read from, not when one fires.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ..durable import dumps
from ..plain import one_line
from . import next_steps
from .alert_book import AlertBook, Told
from .evidence import evidence_words
from .rundir import RunDir, shown
from .spans import duration, stamp

POLL_SECONDS = 0.5
OVER_SHOWN = 20
"""Alerts that are over, the newest ones; `--since` shows older ones."""
SEVERITIES = ("info", "warning", "critical")
STYLES = {"info": "bold cyan", "warning": "bold yellow", "critical": "bold red"}
INCIDENT = "incident:"
"""What the fingerprint of such an alert begins with; its number follows."""
KEYS = ("code", "severity", "state", "since", "cause", "evidence", "action", "advice", "drill", "fingerprint")


@dataclass(frozen=True)
class Wanted:
    """Which alerts somebody asks for."""

    since: float | None = None
    """Those that changed from then on."""
    severity: str = "info"
    """And are at least so grave."""

    def __call__(self, told: Told) -> bool:
        moment, alert = told
        grave = SEVERITIES.index(alert["severity"]) >= SEVERITIES.index(self.severity)
        return grave and (self.since is None or moment >= self.since)


def as_json(book: AlertBook, wanted: Wanted) -> list[dict[str, Any]]:
    """Every alert that fires or fired, newest state of each, in order of its beginning."""
    book.read_on()
    return [alert_json(told, book) for told in book.alerts() if wanted(told)]


def alert_json(told: Told, book: AlertBook) -> dict[str, Any]:
    moment, alert = told
    attended = book.attended(alert)
    until = attended["silenced_until"]
    return {
        **{name: alert.get(name) for name in KEYS},
        "since": stamp(alert["since"]),
        "changed": stamp(moment),
        "acknowledged_by": attended["acknowledged_by"],
        "silenced_until": None if until is None else stamp(until),
    }


def show(run: RunDir, wanted: Wanted, console: Console, now: float) -> None:
    """What is over first, what fires last: that is what stands above the prompt."""
    book = AlertBook(run.path)
    book.read_on()
    told = book.alerts()
    if not told:
        console.print("no alerts: nothing has gone wrong so far")
        return
    asked = [each for each in told if wanted(each)]
    firing = [each for each in asked if each[1]["state"] == "firing"]
    over = [each for each in asked if each[1]["state"] != "firing"]
    newest = over if wanted.since is not None else over[-OVER_SHOWN:]
    if len(newest) < len(over):
        _print(console, f"{len(over) - len(newest)} older ones are over: --since {stamp(over[0][0])[:10]} shows all\n")
    for each in [*newest, *firing]:
        console.print(block(each, book, run, now), soft_wrap=True, highlight=False)
    _print(console, _closing(told, asked, firing))
    _print(console, next_steps.block(_then(run, [*newest, *firing])))


def _then(run: RunDir, told: Sequence[Told]) -> str:
    """The story of the last of them that has one."""
    prints = [alert["fingerprint"] for _, alert in told]
    incidents = [each.removeprefix(INCIDENT) for each in prints if each.startswith(INCIDENT)]
    return next_steps.command("why", run.path, incidents[-1]) if incidents else next_steps.command("status", run.path)


def follow(
    run: RunDir, wanted: Wanted, console: Console, *, json: bool, enough: Callable[[], bool] = lambda: False
) -> None:
    """Prints what there is, then what comes, until Ctrl-C or until it is `enough`. With `json`, one object a line."""
    book, pause = AlertBook(run.path), threading.Event()
    while True:
        for told in filter(wanted, book.read_on()):
            if json:
                console.out(dumps(alert_json(told, book)), highlight=False)
            else:
                console.print(block(told, book, run, told[0]), soft_wrap=True, highlight=False)
        if enough():
            return
        pause.wait(POLL_SECONDS)


def block(told: Told, book: AlertBook, run: RunDir, now: float) -> Text:
    """One alert: a headline, and what a person asks next in the order in which they ask it."""
    moment, alert = told
    fires = alert["state"] == "firing"
    text = Text()
    text.append(
        f"{alert['state'].upper()} {alert['severity']} {alert['code']}", STYLES[alert["severity"]] if fires else ""
    )
    text.append(f" [DRILL {one_line(alert['drill'])}]" if alert.get("drill") else "")
    if fires:
        text.append(f"  since {stamp(alert['since'])} ({duration(now - alert['since'])})\n")
    else:
        text.append(f"  {stamp(moment)}, over after {duration(moment - alert['since'])}\n")
    for name, words in _answers(alert, book, run, now):
        text.append(f"    {name:9} ", "dim")
        text.append(f"{one_line(words)}\n")
    return text


def _answers(alert: dict[str, Any], book: AlertBook, run: RunDir, now: float) -> Iterator[tuple[str, str]]:
    yield "what", alert["cause"]
    yield "evidence", evidence_words(alert["evidence"])
    yield "done", alert["action"]
    yield "to do", alert["advice"]
    if alert["state"] != "firing":
        return
    attended = book.attended(alert)
    notes = [f"acknowledged by {attended['acknowledged_by']}"] if attended["acknowledged_by"] else []
    if (until := attended["silenced_until"]) is not None and until > now:
        notes.append(f"silenced until {stamp(until)}")
    yield "noted", ", ".join(notes) or f"by nobody yet: `segwatch ack {shown(run.path)} {alert['fingerprint']}`"


def _closing(told: Sequence[Told], asked: Sequence[Told], firing: Sequence[Told]) -> str:
    counts = [(grave, sum(alert["severity"] == grave for _, alert in firing)) for grave in reversed(SEVERITIES)]
    words = ", ".join(f"{count} {grave}" for grave, count in counts if count)
    closing = f"{len(firing)} firing{f' ({words})' if words else ''}, {len(asked) - len(firing)} over"
    left_out = len(told) - len(asked)
    if left_out:
        still = sum(alert["state"] == "firing" for _, alert in told) - len(firing)
        closing += f"; {left_out} not asked for" + (f", {still} of them firing" if still else "")
    return closing


def _print(console: Console, words: str) -> None:
    console.print(words, soft_wrap=True, highlight=False, markup=False)
