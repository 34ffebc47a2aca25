"""`incidents/NNN/`: one directory per thing that went wrong, numbered once, with the facts for other programs."""

from __future__ import annotations

from pathlib import Path

from ..durable import write_json
from ..trainer.contract import Cause
from .events import Evidence, IncidentOpened
from .history import History


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
    """Number it, by the directory that the worker made for it or by the next free one, and write incident.json."""
    place = run_dir / directory if directory is not None and (run_dir / directory).is_dir() else _next_free(run_dir)
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
    write_json(place / "incident.json", incident.model_dump(mode="json"))
    return incident


def _next_free(run_dir: Path) -> Path:
    base = run_dir / "incidents"
    base.mkdir(exist_ok=True)
    number = max((int(path.name) for path in base.iterdir() if path.name.isdecimal()), default=0) + 1
    place = base / f"{number:03d}"
    place.mkdir()
    return place
