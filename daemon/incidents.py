"""`incidents/NNN/`: one directory per thing that went wrong, numbered once, with the facts for other programs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import ValidationError

from ..durable import sync_directory, write_json
from ..trainer.contract import Cause
from .events import Evidence, IncidentOpened
from .history import History

INCIDENT = "incident.json"


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
    if directory is not None and (run_dir / directory).is_dir():
        place = run_dir / directory
    else:
        place = _begun(run_dir, history, (attempt, cause, step)) or _next_free(run_dir)
    incident = IncidentOpened(
        number=int(place.name),
        attempt=attempt,
        cause=cause,
        step=step,
        epoch=epoch,
        message=message,
        evidence=evidence,
        drill=history.drill_behind(attempt, cause, step),
        fatal=fatal,
    )
    if place.exists():
        write_json(place / INCIDENT, incident.model_dump(mode="json"))
        return incident
    beginning = place.with_name(f".{place.name}.tmp")
    beginning.mkdir(exist_ok=True)
    write_json(beginning / INCIDENT, incident.model_dump(mode="json"))
    beginning.rename(place)
    sync_directory(place.parent)
    return incident


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


def _next_free(run_dir: Path) -> Path:
    base = run_dir / "incidents"
    base.mkdir(exist_ok=True)
    number = max((int(path.name) for path in base.iterdir() if path.name.isdecimal()), default=0) + 1
    return base / f"{number:03d}"
