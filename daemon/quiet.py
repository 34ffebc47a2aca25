"""PURE: hours in which nobody wants to be disturbed, and times of day. Knows nothing about what is told, or to whom.

All times of day are those of the machine's own time zone: a person writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated

from pydantic import AfterValidator

_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_HOURS = re.compile(f"{_TIME}-{_TIME}")
LEAST_PAUSE_SECONDS = 60.0
"""In the hour that a clock which is set back has twice, the end of the quiet may lie behind."""


@dataclass(frozen=True)
class QuietHours:
    """From one time of day to another, over midnight where the end comes before the start."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> QuietHours | None:
        """`22:00-07:00`; `None` for an empty text. Raises ValueError, which does not repeat the text."""
        if not text:
            return None
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError('two times of day, such as "22:00-07:00", or "" for none')
        first, second, third, fourth = (int(part) for part in found.groups())
        if (first, second) == (third, fourth):
            raise ValueError('quiet hours that begin when they end are none: write ""')
        return cls(time(first, second), time(third, fourth))

    def end_of(self, moment: float) -> float | None:
        """When the quiet at `moment` ends, both in seconds since the epoch; `None` when it is not quiet."""
        now = datetime.fromtimestamp(moment)  # noqa: DTZ006 - local time is what was written
        for day in (now.date() - timedelta(days=1), now.date()):
            start, end = datetime.combine(day, self.start), datetime.combine(day, self.end)
            if end <= start:
                end += timedelta(days=1)
            if start <= now < end:
                return max(end.timestamp(), moment + LEAST_PAUSE_SECONDS)
        return None


def last_time(at: str, moment: float) -> float:
    """When it was last `at`, such as `08:00`, as of `moment`."""
    now = datetime.fromtimestamp(moment)  # noqa: DTZ006 - local time is what was written
    today = datetime.combine(now.date(), time.fromisoformat(at))
    return (today if today <= now else today - timedelta(days=1)).timestamp()


def _hours(text: str) -> str:
    QuietHours.parse(text)
    return text


def _time_of_day(text: str) -> str:
    if text and not re.fullmatch(_TIME, text):
        raise ValueError('a time of day, such as "08:00", or "" for none')
    return text


Hours = Annotated[str, AfterValidator(_hours)]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]
