"""The messages that reach the supervisor. Signal handlers, watcher, scheduler and reapers put; one thread takes."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from ..evaluator.report import Answer


@dataclass(frozen=True)
class Look:
    """Something may have changed on disk, or it is time to look anyway."""


@dataclass(frozen=True)
class Housekeep:
    """Time for retention: what is rare and may take a moment."""


@dataclass(frozen=True)
class Interrupted:
    signal: int


@dataclass(frozen=True)
class WorkerExited:
    attempt: int
    returncode: int | None
    """As subprocess has it, negative for a signal; `None` for an adopted worker, whose code nobody can read."""


@dataclass(frozen=True)
class DiagnosisExited:
    incident: int
    returncode: int


@dataclass(frozen=True)
class EvaluatorSaid:
    generation: int
    answer: Answer


@dataclass(frozen=True)
class EvaluatorExited:
    generation: int
    returncode: int


Message = Look | Housekeep | Interrupted | WorkerExited | DiagnosisExited | EvaluatorSaid | EvaluatorExited
Inbox = SimpleQueue[Message]
LOOK_SECONDS = 0.5
"""How long a foreground loop waits for a message before it looks round."""


def next_message(inbox: Inbox) -> Message | None:
    """The next one, or `None` where it is time to look round."""
    try:
        return inbox.get(timeout=LOOK_SECONDS)
    except Empty:
        return None


class Inboxes:
    """One inbox after another: what was meant for an earlier owner is dropped, but a signal is handed on."""

    def __init__(self) -> None:
        self._present: Inbox | None = None

    def fresh(self) -> Inbox:
        old, self._present = self._present, Inbox()
        hear_signals(self._present)
        with contextlib.suppress(Empty):
            while old is not None:
                message = old.get_nowait()
                if isinstance(message, Interrupted):
                    self._present.put(message)
        return self._present


def hear_signals(inbox: Inbox) -> None:
    """From here on Ctrl-C and SIGTERM interrupt nothing: they wait in the inbox as messages."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: inbox.put(Interrupted(received)))
