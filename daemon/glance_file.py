"""Reads glance.json, or says that it is not the whole story. Quick to import: no models, no facts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GLANCE = "glance.json"
EVENTS = "events.jsonl"
FORMAT = 1
"""Of what stands in glance.json: one of another release is not read."""
LAST_LINES_BYTES = 64 << 10


def read_glance(run_dir: Path) -> dict[str, Any] | None:
    """What the daemon wrote last; `None` where it is missing, of another release, or no longer all that is known.

    A fact is a line of events.jsonl: that file must be as long as it was then, and end with the same fact.
    """
    try:
        written = json.loads((run_dir / GLANCE).read_bytes())
        size = (run_dir / EVENTS).stat().st_size
    except (OSError, ValueError):
        return None
    if not isinstance(written, dict) or written.get("format") != FORMAT or written.get("events_bytes") != size:
        return None
    if written.get("sequence") != _last_sequence(run_dir / EVENTS):
        return None
    figures = written.get("figures")
    return figures if isinstance(figures, dict) else None


def any_glance(run_dir: Path) -> dict[str, Any] | None:
    """The same of another run, to compare with: what it showed last, whether or not facts came since."""
    try:
        written = json.loads((run_dir / GLANCE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        return None
    figures = written.get("figures")
    return figures if isinstance(figures, dict) else None


def _last_sequence(events: Path) -> int | None:
    """The number of the last fact; a torn line behind it is none."""
    with events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - LAST_LINES_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
