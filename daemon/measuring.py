"""What the journals of a run tell of an incident: when training stood still, when it was past it, how fast it went.

Reads a few blocks of a journal, however long it is. Judges nothing, and knows nothing about remedies.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from ..trainer.contract import (
    JOURNAL,
    JOURNAL_LINE,
    CheckpointLine,
    Finished,
    JournalLine,
    Progress,
    Trouble,
    attempt_dir,
)
from .history import History
from .journal import tail
from .members import Attempt, Incident
from .undoing import changes_for

LINES_OF_PACE = 30
"""Progress lines, about one a second, whose median is the pace: the last ones before, the first ones after."""
LINES_LOOKED_AT = 20 * LINES_OF_PACE
"""For them: what stands between is a few words about phases and checkpoints."""
BEYOND = 1 << 62
"""A step that no run gets to."""


@dataclass(frozen=True)
class Measured:
    """Moments are seconds since the epoch; `None` is what no journal tells, or what has not happened yet."""

    fault_at: float | None = None
    """When training last got on, or said that it could not."""
    onset_at: float | None = None
    """When the step was done from which on norms or losses grew."""
    trains_at: float | None = None
    """When the attempt that answers had done its first step."""
    caught_up_at: float | None = None
    """When the run had as many steps behind it as ever before the fault."""
    pace_before: float | None = None
    """Images a second."""
    pace_after: float | None = None
    pace_is_settled: bool = True
    """Whether `pace_after` will be no other one."""
    undoing_seconds: float | None = 0.0
    """What the attempts took that did without the remedy, or put it back, until the run was as far as before them."""


def measure(run_dir: Path, history: History, incident: Incident, *, onset_step: int | None = None) -> Measured:
    """Read what the journals hold of an incident. Raises OSError."""
    opened = incident.opened
    journal = attempt_dir(run_dir, opened.attempt) / JOURNAL
    lines = tail(journal)
    attempt, answer = history.attempt(opened.attempt), history.answer_to(incident)
    onset_at = None if onset_step is None else moment_of_step(journal, onset_step)
    if answer is None or not opened.fatal:
        return Measured(
            fault_at=_fault_at(lines, attempt) if opened.fatal else incident.at,
            onset_at=onset_at,
            pace_before=_pace(lines, until=opened.step),
        )
    after = attempt_dir(run_dir, answer.attempt) / JOURNAL
    paces = _first_paces(after)
    goes_on = history.attempt(answer.attempt).ended is None
    return Measured(
        fault_at=_fault_at(lines, attempt),
        onset_at=onset_at,
        trains_at=moment_of_step(after, answer.resume_step + 1),
        caught_up_at=_caught_up_at(run_dir, history, opened.attempt, answer.attempt),
        pace_before=_pace(lines, until=opened.step),
        pace_after=statistics.median(paces) if paces else None,
        pace_is_settled=len(paces) == LINES_OF_PACE or not goes_on,
        undoing_seconds=_undoing_seconds(run_dir, history, incident),
    )


def moment_of_step(journal: Path, step: int) -> float | None:
    """When so many steps were done, to about a second; `None` where the journal does not get so far.

    The lines stand in order of their steps, so the place is found by halving: some 30 looks into a file of any size.
    """
    try:
        size = journal.stat().st_size
    except FileNotFoundError:
        return None
    with journal.open("rb") as file:
        place = bisect_left(range(size), step, key=lambda offset: _stepped(file, offset)[0])
        reached, moment = _stepped(file, place)
        return None if reached == BEYOND else moment


def _stepped(file: IO[bytes], offset: int) -> tuple[int, float]:
    """Step and moment of the first line behind `offset` that tells of a step; `BEYOND` where there is none."""
    for raw in _lines_behind(file, offset):
        try:
            line = JOURNAL_LINE.validate_json(raw)
        except ValidationError:  # torn, or none of ours: the next one tells
            continue
        if isinstance(line, Progress | CheckpointLine | Finished):
            return line.step, line.time
    return BEYOND, 0.0


def _lines_behind(file: IO[bytes], offset: int) -> Iterator[bytes]:
    """The lines that begin at `offset` or later."""
    file.seek(max(0, offset - 1))
    if offset:
        file.readline()
    return iter(file.readline, b"")


def _fault_at(lines: Sequence[JournalLine], attempt: Attempt) -> float | None:
    for line in reversed(lines):
        if isinstance(line, Progress | CheckpointLine) or (isinstance(line, Trouble) and line.fatal):
            return line.time
    return attempt.spawned_at


def _pace(lines: Sequence[JournalLine], *, until: int = BEYOND) -> float | None:
    told = [line.images_per_second for line in lines if isinstance(line, Progress) and line.step <= until]
    return statistics.median(told[-LINES_OF_PACE:]) if told else None


def _first_paces(journal: Path) -> list[float]:
    """Of the beginning, which stays as it is however long the attempt goes on."""
    paces: list[float] = []
    try:
        file = journal.open("rb")
    except FileNotFoundError:
        return paces
    with file:
        for raw in islice(_lines_behind(file, 0), LINES_LOOKED_AT):
            try:
                line = JOURNAL_LINE.validate_json(raw)
            except ValidationError:
                continue
            if isinstance(line, Progress):
                paces.append(line.images_per_second)
            if len(paces) == LINES_OF_PACE:
                break
    return paces


def _undoing_seconds(run_dir: Path, history: History, incident: Incident) -> float | None:
    """`None` while one of them is not as far yet, or was ended by an incident before it was."""
    total = 0.0
    for plan in changes_for(history, incident.number):
        began = history.attempt(plan.attempt).spawned_at
        over = _caught_up_at(run_dir, history, plan.attempt - 1, plan.attempt)
        if began is None or over is None:
            return None
        total += max(0.0, over - began)
    return total


def _caught_up_at(run_dir: Path, history: History, ended: int, answer: int) -> float | None:
    """When the run was as far as when an attempt had ended.

    Looked for until the next fatal incident: from there on the time counts as lost by that one.
    """
    highest = furthest(history, ended)
    later = (i.opened.attempt for i in history.incidents if i.opened.fatal and i.opened.attempt >= answer)
    last = min(later, default=len(history.attempts))
    for number in range(answer, last + 1):
        moment = moment_of_step(attempt_dir(run_dir, number) / JOURNAL, highest)
        if moment is not None:
            return moment
    return None


def furthest(history: History, attempt: int) -> int:
    """The most steps that the run had behind it when this attempt ended."""
    ends = (one.ended for one in history.attempts[:attempt])
    return max((ended.step for ended in ends if ended is not None), default=0)
