"""What a worker was told of its end, kept for whoever sees that end: the daemon that told it may be gone by then."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ..durable import write_json
from ..trainer.contract import SPEC, Cause
from .events import Evidence, Outcome

ASKED = "asked.json"
CONDEMNED = "condemned"
"""Note of the attempt whose worker the daemon ends, and why."""


@dataclass(frozen=True)
class Condemned:
    """Why the daemon itself ends a worker."""

    outcome: Outcome
    cause: Cause
    message: str
    evidence: Evidence


_CONDEMNED = TypeAdapter(Condemned)


def note_condemned(note: Callable[[str, str], None], attempt: int, why: Condemned) -> None:
    """Before it is ended. Raises as `Recorder.record` does."""
    note(CONDEMNED, f"{attempt}:{_CONDEMNED.dump_json(why).decode()}")


def noted_condemned(noted: Callable[[str], str | None], attempt: int) -> Condemned | None:
    number, _, why = (noted(CONDEMNED) or "").partition(":")
    return _CONDEMNED.validate_json(why) if number == str(attempt) else None


def note_asked(attempt: Path, *, killed: bool = False, by_hand: bool = False) -> None:
    """Before the worker of this directory is asked to leave, and again with `killed` where it had to be killed.
    `by_hand` says that a person stopped it while no daemon watched.

    A file and no fact: whoever stops a worker without a daemon records none. A disk that has no room for it mostly has
    room for another name of a file that is there, and to be asked is told by the name alone.
    """
    path = attempt / ASKED
    try:
        write_json(path, {"killed": killed, "by_hand": by_hand})
    except OSError:
        with contextlib.suppress(OSError):  # then its end counts as an incident, which costs less than one that is lost
            os.link(attempt / SPEC, path)


def was_asked(attempt: Path) -> bool:
    return (attempt / ASKED).exists()


def was_killed_on_request(attempt: Path) -> bool:
    try:
        return json.loads((attempt / ASKED).read_bytes()).get("killed") is True
    except (FileNotFoundError, ValueError, AttributeError):
        return False
