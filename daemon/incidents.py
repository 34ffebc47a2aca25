"""`incidents/NNN/`: one directory per thing that went wrong, numbered once, with the facts for other programs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import ValidationError

from ..durable import next_number, takes_name, write_json
from ..trainer.contract import Cause
from .events import Evidence, IncidentOpened
from .history import History

INCIDENT = "incident.json"
BEGUN = ".daemon.tmp"
"""The next incident while it has no number yet; what a daemon that was killed left there is written over."""


def open_incident(
    run_dir: Path,
    history: History,
    *,
    attempt: int,
    cause: Cause,
    step: int,
    epoch: int,
    message: str,
    evidence: Evidence,
    fatal: bool,
    directory: str | None,
) -> IncidentOpened:
    """Number it, by the directory that the worker made for it or by the next free one, and write incident.json.

    A daemon may die before the fact is recorded: whoever opens it again finds the directory of the first.
    """
    incident = IncidentOpened(
        number=0,
        attempt=attempt,
        cause=cause,
        step=step,
        epoch=epoch,
        message=message,
        evidence=evidence,
        drill=history.drill_behind(attempt, cause, step),
        fatal=fatal,
    )
    if directory is not None and (run_dir / directory).is_dir():
        place: Path | None = run_dir / directory
    else:
        place = _begun(run_dir, history, (attempt, cause, step))
    if place is not None:
        return _written(incident, place, int(place.name))
    return _numbered(incident, run_dir / "incidents")


def _numbered(incident: IncidentOpened, incidents: Path) -> IncidentOpened:
    """With the next free number, whatever the worker numbers at the same moment."""
    begun = incidents / BEGUN
    while True:
        place = next_number(incidents)
        begun.mkdir(exist_ok=True)
        numbered = _written(incident, begun, int(place.name))
        if takes_name(begun, place):
            return numbered


def _written(incident: IncidentOpened, place: Path, number: int) -> IncidentOpened:
    numbered = incident.model_copy(update={"number": number})
    write_json(place / INCIDENT, numbered.model_dump(mode="json"))
    return numbered


def _begun(run_dir: Path, history: History, what: tuple[int, Cause, int]) -> Path | None:
    """The directory of this very incident, made by a daemon that did not live to record it."""
    known = {incident.number for incident in history.incidents}
    for path in sorted((run_dir / "incidents").glob(f"[0-9]*/{INCIDENT}")):
        if int(path.parent.name) not in known:
            with contextlib.suppress(ValidationError):
                made = IncidentOpened.model_validate_json(path.read_bytes())
                if (made.attempt, made.cause, made.step) == what:
                    return path.parent
    return None
