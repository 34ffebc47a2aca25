"""Every alert of a run that a person heard of, read from events.jsonl without its models: `segwatch alerts` is quick.

Only the lines that tell of alerts are parsed, a few in a hundred. Read on, it hands out what came since. Knows nothing
about how an alert is printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..durable import read_lines
from ..errors import SegwatchError
from .glance_file import EVENTS
from .wishes import Wish, waiting

MARKS = (b'"kind": "alert', b'"kind": "silence-ended"')
"""In the lines that are parsed, as `durable.dumps` writes them."""
TOLD = frozenset({"firing", "resolved"})
Told = tuple[float, dict[str, Any]]
"""When it changed, and the alert as it was then."""


class AlertBook:
    """Raises SegwatchError where no run is."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = run_dir / EVENTS
        if not self._path.exists():
            raise SegwatchError(f"no run here: it has no {EVENTS}", where=run_dir, remedy="name a run's directory")
        self._offset = 0
        self._sequence = 0
        self._told: dict[str, Told] = {}
        self._acknowledged: dict[str, tuple[float, str]] = {}
        """By fingerprint: since when the alert holds that was seen, and by whom."""
        self._silenced: dict[str, float] = {}

    def read_on(self) -> list[Told]:
        """The changes since the last call, oldest first; each is handed out once. A pending alert is no news."""
        if self._path.exists() and self._path.stat().st_size < self._offset:
            self._offset = 0  # written anew, from the database: what is known is passed over by its number
        return [told for body in self._bodies() if (told := self._take(body)) is not None]

    def alerts(self) -> list[Told]:
        """The last state of each alert, in order of their beginning."""
        return sorted(self._told.values(), key=lambda told: told[1]["since"])

    def attended(self, alert: dict[str, Any]) -> dict[str, Any]:
        """`acknowledged_by` and `silenced_until`, wishes that no daemon has taken up yet included."""
        since, by = self._acknowledged.get(alert["fingerprint"], (None, None))
        seen_by, until = (by if since == alert["since"] else None), self._silenced.get(alert["code"])
        for _, wish in waiting(self._run_dir):
            if isinstance(wish, Wish) and wish.kind == "ack":
                if (wish.since or {}).get(alert["fingerprint"]) == alert["since"]:
                    seen_by = seen_by or wish.by
            elif isinstance(wish, Wish) and wish.what == alert["code"]:
                until = wish.until if wish.until is not None and wish.until > wish.asked else None
        return {"acknowledged_by": seen_by, "silenced_until": until}

    def _bodies(self) -> Iterator[dict[str, Any]]:
        while True:
            lines, end = read_lines(self._path, self._offset)
            if end == self._offset:
                return
            self._offset = end
            for line in lines:
                if any(mark in line for mark in MARKS):
                    try:
                        body = json.loads(line)
                        fresh = body["seq"] > self._sequence
                    except (ValueError, KeyError, TypeError):
                        continue  # torn by a crash; the daemon that followed told it again
                    if fresh:
                        self._sequence = body["seq"]
                        yield body

    def _take(self, body: dict[str, Any]) -> Told | None:
        match body:
            case {"kind": "alert", "state": state} if state in TOLD:
                self._told[body["fingerprint"]] = told = (float(body["time"]), body)
                return told
            case {"kind": "alert-acknowledged"}:
                self._acknowledged[body["fingerprint"]] = body["since"], body["by"]
            case {"kind": "alerts-silenced"}:
                self._silenced[body["code"]] = body["until"]
            case {"kind": "silence-ended"}:
                self._silenced.pop(body["code"], None)
        return None
