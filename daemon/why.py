"""What `segwatch why` prints: the postmortem of an incident, composed from the facts, with the daemon dead or alive."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from ..errors import UsageError
from . import next_steps
from .history import History
from .members import Incident
from .postmortem import PAGE, PICTURE, Postmortem, as_json, gather, incident_dir, page
from .rundir import RunDir, shown
from .store import read_events

PICTURES = re.compile(r"!\[([^\]\n]*)\]\(([^)\n]*)\)")
"""A terminal shows none: their names do."""


def meant(run: Path | None, number: int | None, runs_dir: Path) -> tuple[Path | None, int | None]:
    """A lone number is an incident of the newest run, unless a run has that name."""
    if run is None or number is not None or not str(run).isdecimal():
        return run, number
    named = any(RunDir(path).exists for path in (run, runs_dir / run))
    return (run, None) if named else (None, int(str(run)))


def look(run: RunDir, number: int | None) -> Postmortem | None:
    """The incident of this number, or the newest; `None` where nothing ever went wrong. Raises UsageError."""
    history = History.of(read_events(run.path))
    if number is None and not history.incidents:
        return None
    return gather(run.path, history, find_incident(history, number, run), called=shown(run.path))


def find_incident(history: History, number: int | None, run: RunDir) -> Incident:
    """Raises UsageError that names those that there are."""
    known = {incident.number: incident for incident in history.incidents}
    if number is None and known:
        return known[max(known)]
    if number is None or number not in known:
        there = ", ".join(str(one) for one in sorted(known)) or "none"
        asked = "no incident" if number is None else f"no incident {number}"
        raise UsageError(f"{asked} in this run", where=run.path, remedy=f"incidents here: {there}")
    return known[number]


def print_why(run: RunDir, known: Postmortem, console: Console) -> None:
    """As a page on a terminal; as its markdown in a pipe, where a program or a pager may want it as it is."""
    text = page(known)
    if console.is_terminal:
        console.print(Markdown(PICTURES.sub(r"Picture: `\2`: \1", text)))
    else:
        console.print(text, soft_wrap=True, highlight=False, markup=False, end="")
    directory = incident_dir(run.path, known.incident.number)
    for name in (PAGE, PICTURE):
        if (directory / name).exists():
            console.print(str(directory / name), soft_wrap=True, highlight=False, markup=False)
    then = next_steps.block(next_steps.command("best", run.path))
    console.print(then, soft_wrap=True, highlight=False, markup=False)


def why_json(known: Postmortem | None) -> dict[str, Any]:
    """Empty for a run in which nothing went wrong."""
    return {} if known is None else as_json(known)
