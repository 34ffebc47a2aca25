"""`segwatch run --log-format json`: one JSON object a line, for programs that collect logs.

Facts come whole, with a `text` as a person would read it; whatever else is printed comes line by line as its `text`.
Knows nothing about what is printed, or when.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, TextIO

from ..plain import one_line
from ..trainer.contract import JournalLine
from .events import AlertChanged, AlertState, Event, GaveUp, IncidentOpened, Severity
from .recording import Fact
from .screen import Terminal, nobody_may_look
from .words import sentence

LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "error"}
WIDTH = 1000
"""A table is broken into lines by its own rows alone."""


def line_of(kind: str, text: str, *, level: str = "info", moment: float | None = None, **more: Any) -> str:
    """One line: ASCII, so that no collector stumbles over an encoding."""
    told = {"time": time.time() if moment is None else moment, "level": level, "kind": kind, "text": one_line(text)}
    return json.dumps(told | more, allow_nan=False)


class _Lines(io.TextIOBase):
    """Takes what a console prints, and passes each of its lines on as an object."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            if line.strip():
                self._stream.write(line_of("text", line) + "\n")
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def tell_object(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonConsole(Terminal):
    """A console whose every line is an object. Never a terminal: nothing is drawn in place or in colour."""

    def __init__(self, stream: TextIO) -> None:
        self._lines = _Lines(stream)
        super().__init__(file=self._lines, width=WIDTH, force_terminal=False, no_color=True, color_system=None)

    def tell_object(self, line: str) -> None:
        """A line that is an object already."""
        with nobody_may_look():
            self._lines.tell_object(line)


class JsonScreen:
    """A sink of facts: each is one object, with all that was recorded of it."""

    def __init__(self, console: JsonConsole) -> None:
        self._console = console

    def handle(self, moment: float, event: Event) -> None:
        text = sentence(event) or _short(event)
        fact = {key: value for key, value in event.model_dump(mode="json").items() if key not in {"kind", "text"}}
        self._console.tell_object(line_of(event.kind, text, level=level_of(event), moment=moment, fact=fact))

    def progress(self, line: JournalLine) -> None:
        """Too fleeting for a log; journal.jsonl holds every line."""

    def say(self, text: str) -> None:
        self._console.tell_object(line_of("text", text))

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """What happened while nobody looked is for `segwatch alerts` and events.jsonl."""

    def close(self) -> None:
        """Nothing is kept open."""


def _short(event: Event) -> str:
    """What the text format has no line for."""
    if isinstance(event, AlertChanged):
        return f"alert {event.state.value}: {event.code}"
    return event.kind.replace("-", " ")


def level_of(event: Event) -> str:
    match event:
        case AlertChanged():
            return LEVELS[event.severity] if event.state is AlertState.FIRING else "info"
        case GaveUp():
            return "error"
        case IncidentOpened():
            return "error" if event.fatal else "warning"
        case _:
            return "info"


class JsonFormatter(logging.Formatter):
    """For daemon.log: what is logged, with its traceback as one text."""

    def format(self, record: logging.LogRecord) -> str:
        told = line_of(
            "log", record.getMessage(), level=record.levelname.lower(), moment=record.created, logger=record.name
        )
        if record.exc_info is None:
            return told
        return json.dumps(json.loads(told) | {"traceback": self.formatException(record.exc_info)})
