"""Writes incidents/NNN/postmortem.md without anyone asking, and again whenever something new is known of the incident.

What stands on a page is `postmortem`'s to say. Only the newest incidents that are not settled are looked at with every
epoch, so that a fact costs the same however long the run is and however often it broke.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from heapq import nlargest
from pathlib import Path

from ..durable import write_text
from ..trainer.diagnosis import STATE
from .events import (
    AttemptEnded,
    AttemptPlanned,
    AttemptStarted,
    Diagnosed,
    EpochCommitted,
    EpochMoved,
    Event,
    GaveUp,
    IncidentOpened,
    ProbationEnded,
    RunFinished,
    ScoreRecorded,
)
from .history import History
from .ledger import next_fatal, undoings
from .markdown import code
from .members import Incident
from .pictures import Pictures
from .postmortem import PAGE, PICTURE, PICTURE_LOG, Postmortem, gather, incident_dir, page
from .probation import Stage
from .recording import Fact
from .undoing import changes_for

log = logging.getLogger(__name__)
NEWEST = 2
"""The last incident, and the one before it, which the last one has ended."""
OVER = frozenset({Stage.RESOLVED, Stage.FAILED, Stage.ENDED_ON_PROBATION})


OFTEN = AttemptStarted | EpochCommitted | EpochMoved | ScoreRecorded
"""What comes by hundreds where no daemon watched for long: the pages follow once a round."""


class Postmortems:
    """A sink and a summary: one page per incident, written at once where it matters, else at the end of a round."""

    def __init__(self, run_dir: Path, history: History) -> None:
        self._run_dir = run_dir
        self._history = history
        self._pictures = Pictures(PICTURE_LOG)
        past = [incident.number for incident in history.incidents if incident.opened.fatal]
        fatal = {incident.number for incident in history.open_incidents() if incident.opened.fatal}
        self._open = {*past[-NEWEST:], *fatal}
        """Those of which something more may become known. Of what training is past, only of the newest: the next one
        to break ends what an incident cost, and its answer was scored or is no more."""
        self._due: set[int] = set()
        """Of which something became known since their page was written."""
        self._tell_of_state = {number for number in past if self._tells_of_state(number)}
        """Those whose page lists the training state, which retention removes."""

    def handle(self, moment: float, event: Event) -> None:
        del moment
        self._due |= self._concerned(event)
        if not isinstance(event, OFTEN):
            self._write_what_is_due()
        match event:
            case IncidentOpened(fatal=True):
                self._draw(event.number)
            case Diagnosed() if event.onset_step is not None:
                self._draw(event.incident)
            case _:
                pass

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """Each page once, however many facts were missed."""
        concerned = {number for _, event in facts for number in self._concerned(event)}
        self._write(concerned)
        for number in sorted(concerned):
            directory = incident_dir(self._run_dir, number)
            if self._incident(number).opened.fatal and not (directory / PICTURE).exists():
                self._draw(number)

    def refresh(self, sequence: int, events_bytes: int) -> None:
        """The end of a round."""
        del sequence, events_bytes
        self._write_what_is_due()

    def close(self) -> None:
        self._pictures.wait()
        self._write_what_is_due()

    def _write_what_is_due(self) -> None:
        self._due |= self._drawn() | self._without_state()
        self._write(self._due)
        self._due.clear()  # after it: what the disk refused is due again

    def _concerned(self, event: Event) -> set[int]:
        """The incidents of which this fact may tell something new."""
        match event:
            case IncidentOpened():
                if event.fatal:
                    self._open.add(event.number)
                return {event.number, *self._followed()}
            case Diagnosed():
                return {event.incident}
            case AttemptPlanned():
                answered = set() if event.incident is None else {event.incident}
                return answered | self._followed() | self._undone()
            case ProbationEnded():
                tried = set() if event.incident is None else {event.incident}
                return tried | self._followed() | self._undone()
            case AttemptStarted() | AttemptEnded() | EpochCommitted() | EpochMoved() | ScoreRecorded():
                return self._followed()
            case GaveUp() | RunFinished():
                return set(self._open)
            case _:
                return set()

    def _followed(self) -> set[int]:
        """Those whose page may change with every epoch, and those that training has come past since it was written.

        A run that breaks faster than it recovers leaves many open; all but the newest wait for their own facts.
        """
        still_open = {incident.number for incident in self._history.open_incidents()}
        return set(nlargest(NEWEST, self._open)) | (self._open - still_open)

    def _drawn(self) -> set[int]:
        """Whose picture was drawn meanwhile, or could not be."""
        return {int(directory.name) for directory in self._pictures.done()}

    def _without_state(self) -> set[int]:
        return {one for one in self._tell_of_state if not (incident_dir(self._run_dir, one) / STATE).exists()}

    def _tells_of_state(self, number: int) -> bool:
        path = incident_dir(self._run_dir, number) / PAGE
        return path.exists() and code(STATE) in path.read_text(encoding="utf-8", errors="replace")

    def _undone(self) -> set[int]:
        """The incidents whose remedy was taken back: followed again, until it is known what that has cost."""
        undone = set(undoings(self._history))
        self._open |= undone
        return undone

    def _write(self, numbers: Iterable[int]) -> None:
        for number in sorted(numbers):
            directory = incident_dir(self._run_dir, number)
            if not directory.is_dir():  # somebody has cleared it away
                self._open.discard(number)
                self._tell_of_state.discard(number)
                continue
            incident = self._incident(number)
            known = gather(self._run_dir, self._history, incident, no_picture=self._pictures.unavailable)
            text = page(known)
            path = directory / PAGE
            if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
                write_text(path, text)
            if STATE in known.present:
                self._tell_of_state.add(number)
            else:
                self._tell_of_state.discard(number)
            if _settled(known):
                self._open.discard(number)

    def _draw(self, number: int) -> None:
        directory = incident_dir(self._run_dir, number)
        if directory.is_dir():
            self._pictures.draw(directory)

    def _incident(self, number: int) -> Incident:
        return next(one for one in reversed(self._history.incidents) if one.number == number)


def _settled(known: Postmortem) -> bool:
    """Whether nothing but an undoing can change the page any more: also where a figure will never be known."""
    row, history = known.row, known.history
    if not row.fatal:
        return True
    if row.stage not in OVER:
        return False
    score_may_come = row.answer is not None and history.attempts[-1].number == row.answer.attempt
    time_may_come = row.answer is not None and next_fatal(history, known.incident) is None
    changes = changes_for(history, row.number)
    open_figures = (
        row.miou_after is None and score_may_come,
        row.seconds_lost is None and time_may_come,
        not known.measured.pace_is_settled,
        row.undoing_seconds is None and changes[-1].attempt == history.attempts[-1].number,
    )
    return not any(open_figures)
