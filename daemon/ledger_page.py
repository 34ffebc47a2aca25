"""The ledger of a run in words: its rows and sums for the report, and the lines that each postmortem takes from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..durable import read_text
from ..trainer.diagnosis import DIAGNOSIS, Diagnosis, Finding
from . import ledger
from .alerts import duration
from .history import History
from .ledger import Fate, PlainLoop, Row, Totals, Undoing
from .measuring import Measured, measure
from .members import Incident
from .words import percent

COLUMNS = (
    "incident",
    "what",
    "verdict",
    "remedy",
    "steps lost",
    "time lost",
    "test mIoU",
    "images/s",
    "outcome",
    "undone",
    "a plain loop",
)
DIAGNOSIS_LIMIT_BYTES = 4 << 20
HOW_COUNTED = (
    "Steps lost were trained and thrown away by the restart. Time lost runs from the fault until the run was as far as "
    "ever before it, or until the next fault; it is read from the journals, to about a second. What it cost to take a "
    "remedy back, and to put it back, is counted with the incident that it was for."
)
ASSUMPTION = (
    "A plain loop is `while true; do train; done` around the same worker, which leaves by itself when its numbers "
    "break. It is assumed to go on from the newest epoch checkpoint with nothing changed, and to notice only that a "
    "process has died: what happens once costs it the steps since that checkpoint and a start; what lies in precision, "
    "data, learning rate or memory comes back at the same place for ever; a process that stands still, and scores that "
    "collapse, are never noticed. A trainer that does not check its numbers would do worse: it trains on with NaN."
)


@dataclass(frozen=True)
class Account:
    """The rows of the ledger, under COLUMNS, and the sentences below it."""

    rows: Sequence[tuple[str, ...]]
    words: Sequence[str]


def account(run_dir: Path, history: History) -> Account | None:
    """`None` for a run without incidents. Raises OSError."""
    if not history.incidents:
        return None
    rows = ledger.rows(history, measured(run_dir, history, history.incidents))
    where = "Each incident has its page: incidents/NNN/postmortem.md, or `segwatch why RUN N`."
    return Account([cells(row) for row in rows], [*sums(ledger.totals(rows)), HOW_COUNTED, ASSUMPTION, where])


def measured(run_dir: Path, history: History, incidents: Sequence[Incident]) -> dict[int, Measured]:
    """What the journals tell of each of them, by number. Raises OSError."""
    found = {}
    for incident in incidents:
        diagnosis = history.diagnoses.get(incident.number)
        onset = None if diagnosis is None else diagnosis.onset_step
        found[incident.number] = measure(run_dir, history, incident, onset_step=onset)
    return found


def read_diagnosis(incident_dir: Path) -> Diagnosis | None:
    """The whole answer of the replay; `None` where there was none, or where its file is not one any more."""
    try:
        return Diagnosis.model_validate_json(read_text(incident_dir / DIAGNOSIS, limit=DIAGNOSIS_LIMIT_BYTES))
    except (OSError, ValueError):  # a ValidationError and a UnicodeDecodeError are ValueErrors
        return None


def cells(row: Row) -> tuple[str, ...]:
    drill = f" [DRILL {row.drill}]" if row.drill else ""
    return (
        f"{row.number:03d}",
        f"{row.cause}{drill}, attempt {row.attempt}, epoch {row.epoch}, step {row.step}",
        verdict(row),
        remedy(row),
        _count(row.steps_lost),
        _seconds(row.seconds_lost),
        f"{percent(row.miou_before)} -> {percent(row.miou_after)}" if row.fatal else "-",
        f"{_pace(row.pace_before)} -> {_pace(row.pace_after)}" if row.fatal else "-",
        str(row.stage),
        "; ".join(undoing_words(one) for one in row.undone) or "-",
        loop_words(row.loop),
    )


def verdict(row: Row) -> str:
    """What a replay has found; that there was nothing to go by, where nobody knows."""
    if row.guessed and row.finding in {None, Finding.UNKNOWN}:
        return "unknown (guessed)"
    return "-" if row.finding is None else str(row.finding)


def remedy(row: Row) -> str:
    if row.answer is None:
        return "none: the step was skipped" if not row.fatal else "none"
    again = ", put back" if row.answer.puts_back is not None else ""
    only = " (guessed)" if row.guessed and row.finding not in {None, Finding.UNKNOWN} else ""
    return f"{row.answer.remedy}{again}{only}"


def undoing_words(one: Undoing) -> str:
    what = f"{one.plan.undoes} taken back in attempt {one.plan.attempt}"
    if one.end is None:
        return f"{what}: on trial"
    if one.end.passed:
        return f"{what}: went well"
    guess = " (guessed)" if one.end.guessed else ""
    return f"{what}: failed{guess}, put back {'for the rest of the run' if one.stays else 'until another try'}"


def loop_words(loop: PlainLoop) -> str:
    match loop.fate:
        case Fate.UNHARMED:
            return "the same"
        case Fate.SPARED:
            return str(loop.fate)
        case Fate.GOES_ON | Fate.MAY_GO_ON:
            least = "at least " if loop.fate is Fate.MAY_GO_ON else ""
            return f"{least}{_steps(loop.steps)}, {_seconds(loop.seconds)}"
        case Fate.FOR_EVER | Fate.UNNOTICED:
            return f"{loop.fate}: {_steps(loop.steps)} never trained"


def sums(total: Totals) -> Iterator[str]:
    """What all of it cost, and what it would have cost a plain loop."""
    least = "" if total.known else "at least "
    counted = "1 incident" if total.incidents == 1 else f"{total.incidents} incidents"
    yield f"Lost over {counted}: {least}{_steps(total.steps)} and {duration(total.seconds)}."
    took = "an unknown time" if total.loop_seconds is None else duration(total.loop_seconds)
    ends = total.loop_ends
    if ends is not None:
        least = "" if total.loop_exact else "at the best "
        yield (
            f"A plain loop would {least}have come to step {ends.step} and not beyond (incident {ends.number:03d}: "
            f"{ends.loop.fate}): {_steps(ends.loop.steps)} never trained, and {took} lost until the last that is known "
            "of this run."
        )
    elif total.loop_steps is not None:
        least = "" if total.loop_exact else "at least "
        yield f"A plain loop would have lost {least}{_steps(total.loop_steps)} and {took}."


def _steps(count: int | None) -> str:
    if count is None:
        return "an unknown number of steps"
    return "1 step" if count == 1 else f"{count} steps"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)


def _pace(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
