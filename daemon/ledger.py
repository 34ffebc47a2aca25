"""PURE: what each incident of a run has cost, and what was done about it; beside it, what a plain loop would have lost.

A run's history and what its journals tell go in, one row per incident comes out. No clock, no file, no words.

The plain loop is `while true; do train; done` around the same worker. It goes on from the newest epoch checkpoint with
nothing changed, and notices only that a process has died. So it goes on from what happens once; what lies in precision,
data, learning rate or memory comes back at the same place for ever; a process that stands still is never noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from ..trainer.contract import Cause, Drill
from ..trainer.diagnosis import Finding
from .events import AttemptPlanned, ProbationEnded
from .history import History
from .measuring import Measured, furthest
from .members import Incident
from .policy import NUMERIC
from .probation import Stage, stage
from .undoing import TRIES, changes_for, tries

LASTING = frozenset({Finding.PRECISION, Finding.DATA, Finding.LEARNING_RATE, Finding.CAPACITY})
"""What comes back whenever the same steps are trained with the same settings."""


class Fate(StrEnum):
    """What becomes of a plain loop."""

    GOES_ON = "goes on"
    MAY_GO_ON = "may go on"
    """What it was is not known: at the least it loses what it would lose by going on."""
    FOR_EVER = "the same again, for ever"
    UNNOTICED = "never noticed"
    UNHARMED = "unharmed"
    SPARED = "would not have met it"
    """It broke because a remedy was taken back, of which the loop has none."""

    @property
    def ends_it(self) -> bool:
        return self in {Fate.FOR_EVER, Fate.UNNOTICED}


@dataclass(frozen=True)
class PlainLoop:
    """What it would have lost over one incident."""

    fate: Fate
    steps: int | None
    """To be trained again, or never trained at all where the incident ends it."""
    seconds: float | None
    """Until the steps are trained again; where it ends it, until the last thing that is known of the run."""


@dataclass(frozen=True)
class Undoing:
    """One try to do without the remedy."""

    plan: AttemptPlanned
    end: ProbationEnded | None
    """`None` while it is on trial."""
    stays: bool = False
    """Whether the remedy was put back for the rest of the run."""


@dataclass(frozen=True)
class Row:
    """One incident. Unknown is `None`."""

    number: int
    at: float
    cause: Cause
    drill: Drill | None
    attempt: int
    epoch: int
    step: int
    fatal: bool
    finding: Finding | None
    """`None` where nothing was replayed. Memory that ran out says itself what it was."""
    guessed: bool
    """Whether its remedy was guessed, since no finding says what helps."""
    answer: AttemptPlanned | None
    steps_lost: int | None
    """Trained, and thrown away by the restart; with those that taking its remedy back has cost."""
    seconds_lost: float | None
    """From the fault until the run was as far as ever before; until the next fault, where that came first. With what
    taking its remedy back has cost, as far as it is known."""
    undoing_steps: int
    """Of the steps lost, those of taking the remedy back and putting it back; an incident meanwhile has its own."""
    undoing_seconds: float | None
    """Of the seconds lost, likewise."""
    miou_before: float | None
    """Test mIoU of the epoch that was gone on from."""
    miou_after: float | None
    """That which decided the probation; without one, of the first epoch after the restart."""
    pace_before: float | None
    pace_after: float | None
    """Images a second."""
    stage: Stage
    probation: ProbationEnded | None
    undone: tuple[Undoing, ...]
    loop: PlainLoop


@dataclass(frozen=True)
class Totals:
    """Over all incidents."""

    incidents: int
    steps: int
    seconds: float
    known: bool
    """Whether every row is; otherwise the sums are the least that was lost."""
    loop_steps: int | None
    loop_seconds: float | None
    loop_ends: Row | None
    """The first incident that a plain loop does not get past. What comes after it, it never sees."""
    loop_exact: bool
    """Whether it is known of each that it would have gone on from it."""


def rows(history: History, measured: Mapping[int, Measured]) -> list[Row]:
    """One row per incident, in their order. `measured` is by number; an incident may be missing there."""
    undone = undoings(history)
    return [_row(history, i, measured.get(i.number, Measured()), measured, undone) for i in history.incidents]


def row(history: History, incident: Incident, measured: Mapping[int, Measured]) -> Row:
    """That of one incident; `measured` may hold no more than that of it and of the next fatal one."""
    return _row(history, incident, measured.get(incident.number, Measured()), measured, undoings(history))


def next_fatal(history: History, incident: Incident) -> Incident | None:
    """The one that ended a later attempt."""
    later = (i for i in history.incidents if i.opened.fatal and i.opened.attempt > incident.opened.attempt)
    return next(later, None)


def undoings(history: History) -> dict[int, list[Undoing]]:
    """By the incident whose remedy was taken back: the newest of this kind that is still in force."""
    found: dict[int, list[Undoing]] = {}
    for plan, cut in tries(history).made:
        if cut.plan.incident is None:
            continue
        end, known = history.tried.ends.get(plan.attempt), found.setdefault(cut.plan.incident, [])
        stays = end is not None and not end.passed and (not end.guessed or len(known) + 1 >= TRIES)
        known.append(Undoing(plan, end, stays))
    return found


def totals(ledger: Sequence[Row]) -> Totals:
    """The sums; those of a plain loop up to and with the incident that it does not get past."""
    fatal = [one for one in ledger if one.fatal]
    gone_on = list(takewhile(lambda one: not one.loop.fate.ends_it, fatal))
    ends = fatal[len(gone_on)] if len(gone_on) < len(fatal) else None
    counted = gone_on if ends is None else [*gone_on, ends]
    steps = _sum([one.loop.steps for one in counted])
    return Totals(
        incidents=len(ledger),
        steps=sum(one.steps_lost or 0 for one in ledger),
        seconds=sum(one.seconds_lost or 0.0 for one in ledger),
        known=all(one.steps_lost is not None and one.seconds_lost is not None for one in ledger),
        loop_steps=None if steps is None else round(steps),
        loop_seconds=_sum([one.loop.seconds for one in counted]),
        loop_ends=ends,
        loop_exact=all(one.loop.fate is not Fate.MAY_GO_ON for one in counted),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """Unknown as soon as one of them is."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _row(
    history: History,
    incident: Incident,
    here: Measured,
    measured: Mapping[int, Measured],
    undone: Mapping[int, Sequence[Undoing]],
) -> Row:
    opened, answer = incident.opened, history.answer_to(incident) if incident.opened.fatal else None
    diagnosis = history.diagnoses.get(incident.number)
    finding = None if diagnosis is None else diagnosis.finding
    probation = None if answer is None else history.tried.ends.get(answer.attempt)
    following = next_fatal(history, incident)
    until = None if following is None else measured.get(following.number, Measured()).fault_at
    before, after = _scores(history, answer, probation)
    undoing_steps = _undoing_steps(history, incident)
    own_steps, own_seconds = _steps_lost(history, incident, answer), _seconds_lost(incident, here, until)
    return Row(
        number=incident.number,
        at=incident.at,
        cause=opened.cause,
        drill=opened.drill,
        attempt=opened.attempt,
        epoch=opened.epoch,
        step=opened.step,
        fatal=opened.fatal,
        finding=Finding.CAPACITY if finding is None and opened.cause is Cause.OUT_OF_MEMORY else finding,
        guessed=answer is not None and answer.guessed,
        answer=answer,
        steps_lost=None if own_steps is None else own_steps + undoing_steps,
        seconds_lost=None if own_seconds is None else own_seconds + (here.undoing_seconds or 0.0),
        undoing_steps=undoing_steps,
        undoing_seconds=here.undoing_seconds,
        miou_before=before,
        miou_after=after,
        pace_before=here.pace_before,
        pace_after=here.pace_after,
        stage=stage(history, incident),
        probation=probation,
        undone=tuple(undone.get(incident.number, ())),
        loop=_plain_loop(history, incident, finding, here),
    )


def _steps_lost(history: History, incident: Incident, answer: AttemptPlanned | None) -> int | None:
    """For one that ended nothing, the step whose update was skipped."""
    if not incident.opened.fatal:
        return 1
    ended = history.attempt(incident.opened.attempt).ended
    return None if ended is None or answer is None else max(0, ended.step - answer.resume_step)


def _undoing_steps(history: History, incident: Incident) -> int:
    """Thrown away by the attempts that took its remedy back, or put it back."""
    lost = 0
    for plan in changes_for(history, incident.number):
        ended = history.attempt(plan.attempt - 1).ended
        lost += 0 if ended is None else max(0, ended.step - plan.resume_step)
    return lost


def _seconds_lost(incident: Incident, here: Measured, until: float | None) -> float | None:
    if not incident.opened.fatal:
        return 0.0
    over = until if here.caught_up_at is None else here.caught_up_at
    return None if here.fault_at is None or over is None else max(0.0, over - here.fault_at)


def _scores(
    history: History, answer: AttemptPlanned | None, probation: ProbationEnded | None
) -> tuple[float | None, float | None]:
    """Test mIoU before and after."""
    if probation is not None:
        return probation.miou_before, probation.miou
    if answer is None:
        return None, None
    keys = ((number, answer.resume_epoch) for number in range(answer.attempt - 1, 0, -1))
    before = next((history.epochs[key].miou("test") for key in keys if key in history.epochs), None)
    after = history.epochs.get((answer.attempt, answer.resume_epoch + 1))
    return before, None if after is None else after.miou("test")


# --- the plain loop ------------------------------------------------------------------------------------------------


def _plain_loop(history: History, incident: Incident, finding: Finding | None, here: Measured) -> PlainLoop:
    fate = _fate(history, incident, finding)
    ended = history.attempt(incident.opened.attempt).ended
    if fate is Fate.UNHARMED:
        return PlainLoop(fate, 1, 0.0)
    if fate is Fate.SPARED:
        return PlainLoop(fate, 0, 0.0)
    if ended is None:
        return PlainLoop(fate, None, None)
    if fate.ends_it:
        wanted = _steps_wanted(history)
        never = None if wanted is None else max(0, wanted - furthest(history, ended.attempt))
        to_the_end = None
        if here.fault_at is not None and history.last_at is not None:
            to_the_end = max(0.0, history.last_at - here.fault_at)
        return PlainLoop(fate, never, to_the_end)
    steps = max(0, ended.step - _newest_epoch_step(history, ended.attempt, ended.epoch))
    return PlainLoop(fate, steps, _seconds_again(history, incident, here, steps))


def _fate(history: History, incident: Incident, finding: Finding | None) -> Fate:
    cause, answer = incident.opened.cause, history.answer_to(incident)
    if not incident.opened.fatal:
        return Fate.UNHARMED  # the same worker skips the step
    if answer is not None and answer.puts_back is not None and (cause in NUMERIC or finding is Finding.PRECISION):
        return Fate.SPARED
    if cause in {Cause.WORKER_HUNG, Cause.MIOU_COLLAPSE}:
        return Fate.UNNOTICED
    if finding in LASTING:
        return Fate.FOR_EVER
    if incident.opened.drill is not None:
        return Fate.GOES_ON  # a fault on purpose is made once
    if cause is Cause.OUT_OF_MEMORY:
        return Fate.FOR_EVER
    if finding is Finding.TRANSIENT or (cause is Cause.WORKER_CRASHED and finding is not Finding.UNKNOWN):
        return Fate.GOES_ON
    return Fate.MAY_GO_ON


def _seconds_again(history: History, incident: Incident, here: Measured, steps: int) -> float | None:
    """A start like that of the restart, and the lost steps at the pace before."""
    answer, plan = history.answer_to(incident), history.attempt(incident.opened.attempt).plan
    spawned = None if answer is None else history.attempt(answer.attempt).spawned_at
    if spawned is None or here.trains_at is None or not here.pace_before:
        return None
    return max(0.0, here.trains_at - spawned) + steps * plan.batch_size * plan.accumulate / here.pace_before


def _newest_epoch_step(history: History, attempt: int, epoch: int) -> int:
    """Step of the newest epoch checkpoint that was there when an attempt ended; 0 before there was one."""
    for completed in range(epoch, 0, -1):
        for number in range(attempt, 0, -1):
            found = history.epochs.get((number, completed))
            if found is not None:
                return found.step
    return 0


def _steps_wanted(history: History) -> int | None:
    started = (one.started for one in reversed(history.attempts) if one.started is not None)
    newest = next(started, None)
    return None if newest is None else newest.steps_per_epoch * history.epochs_wanted
