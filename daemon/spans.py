"""Moments and spans of time as people write and read them. Knows no clock but the one that it is given, no run."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

SPAN = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def stamp(moment: float | None = None) -> str:
    """UTC, to the second, as ISO 8601 has it."""
    return datetime.fromtimestamp(time.time() if moment is None else moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `5 h 02 min`, `2 d 3 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def parse_span(text: str) -> float:
    """Seconds of `90s`, `30m`, `8h`, `2d`, `1w`, `1h30m`, or a plain 0. Raises ValueError for anything else."""
    plain = text.strip().lower()
    if plain == "0":
        return 0.0
    if not SPAN.fullmatch(plain):
        raise ValueError(f"{text!r} is no span of time: write 30m, 8h, 2d or 1h30m")
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([smhdw])", plain))


def parse_since(text: str, now: float) -> float:
    """A moment: a span before `now`, or a date, with a time where one is given.

    One without a time zone is UTC, as in everything that segwatch prints. Raises ValueError for anything else.
    """
    try:
        return now - parse_span(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no moment: write 2h, 3d, 2026-11-22 or 2026-11-22T03:00 (UTC)") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
