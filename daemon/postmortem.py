"""The postmortem of one incident: what the facts and the files beside them tell, as a page and as figures.

The facts are the truth and the page a view of them: it can be composed again at any moment, also of a run that nobody
watches. Knows nothing about when a page is written, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..plain import one_line, plain
from ..trainer.config import Amp
from ..trainer.contract import Cause
from ..trainer.diagnosis import BadFile, Diagnosis, Finding, FirstNonFinite, Replay
from . import ledger, ledger_page, next_steps
from .alerts import duration, evidence_words, stamp
from .events import AttemptPlanned
from .findings import advice_of_finding
from .history import History
from .ledger import Row
from .markdown import code, table
from .measuring import Measured, furthest
from .members import Incident
from .policy import NUMERIC
from .words import percent, probation_words

PAGE = "postmortem.md"
PICTURE = "steps.png"
PICTURE_LOG = "steps.log"
LOG_LIMIT_BYTES = 64 << 10
REPLAY_COLUMNS = ("from", "steps", "AMP", "result", "loss", "gradient norm", "took", "images of the last step")
LEFT_BEHIND = {
    "incident.json": "the facts, for other programs",
    "worker.json": "what the worker knew: the batch, and loss and gradient norm of its last steps",
    "batch.pt": "the batch that did it, and the random states",
    "state.pt": "weights, buffers, moments and scaler as the worker held them when it left",
    "diagnosis.json": "the replay, whole",
    "diagnosis.log": "what the replay said while it ran",
    "steps.log": "why there is no picture of the last steps",
}


@dataclass(frozen=True)
class Moment:
    """One line of the timeline."""

    at: float
    what: str


@dataclass(frozen=True)
class Postmortem:
    """All that is known of one incident."""

    run: str
    """How a command has to call it."""
    history: History
    incident: Incident
    row: Row
    measured: Measured
    diagnosis: Diagnosis | None
    """The whole of it; the history holds what was decided by."""
    present: frozenset[str]
    """The files of its directory."""
    no_picture: str = ""
    """Why there will be none of the last steps; empty where there is one, or one is being drawn."""


def gather(
    run_dir: Path, history: History, incident: Incident, *, called: str | None = None, no_picture: str = ""
) -> Postmortem:
    """Read what lies on the disk. `called` is the run as a command names it here: a page that is kept is read from
    anywhere, and has its whole path. Raises OSError.
    """
    directory = incident_dir(run_dir, incident.number)
    following = ledger.next_fatal(history, incident)
    asked = [incident] if following is None else [incident, following]
    measured = ledger_page.measured(run_dir, history, asked)
    present = frozenset(path.name for path in directory.iterdir()) if directory.is_dir() else frozenset()
    return Postmortem(
        run=called or str(run_dir),
        history=history,
        incident=incident,
        row=ledger.row(history, incident, measured),
        measured=measured[incident.number],
        diagnosis=ledger_page.read_diagnosis(directory),
        present=present,
        no_picture=no_picture or _why_not_drawn(directory, present),
    )


def _why_not_drawn(directory: Path, present: Collection[str]) -> str:
    """The last words of the process that was to draw; empty where there are none, or where it has drawn."""
    if PICTURE in present or PICTURE_LOG not in present:
        return ""
    with (directory / PICTURE_LOG).open("rb") as file:
        lines = file.read(LOG_LIMIT_BYTES).decode(errors="replace").split("\n")
    return next((one_line(line) for line in reversed(lines) if line.strip()), "")


def incident_dir(run_dir: Path, number: int) -> Path:
    return run_dir / "incidents" / f"{number:03d}"


def page(known: Postmortem) -> str:
    """The whole page as markdown."""
    opened, row = known.incident.opened, known.row
    drill = f" [DRILL {opened.drill}]" if opened.drill else ""
    parts = [
        f"# Incident {opened.number:03d}: {opened.cause}{drill} at step {opened.step}",
        f"**{_headline(known)}**",
        _as_sentence(opened.message),
        f"Evidence: {one_line(evidence_words(opened.evidence))}.",
        "## Timeline",
        table(("UTC", "from the fault", "what"), list(_timeline_rows(known))),
        *_picture(known),
        *_replay(known),
        "## Remedy",
        *_remedy(known),
        *(("## Afterwards", *_afterwards(known)) if row.fatal else ()),
        "## What it cost",
        "\n".join(f"- {line}" for line in _cost(row)),
        "## What lies here",
        "\n".join(f"- {code(name)}: {what}" for name, what in LEFT_BEHIND.items() if _lies_here(known, name)),
        *_again(known),
    ]
    return plain("\n\n".join(part for part in parts if part)) + "\n"


def as_json(known: Postmortem) -> dict[str, Any]:
    """The same for other programs. Unknown is null; moments are seconds since the epoch."""
    figures = asdict(known.row)
    for name in ("answer", "probation"):
        record = getattr(known.row, name)
        figures[name] = record and record.model_dump(mode="json")
    figures["undone"] = [
        {"plan": one.plan.model_dump(mode="json"), "end": one.end and one.end.model_dump(mode="json")}
        for one in known.row.undone
    ]
    figures["drill"] = None if known.row.drill is None else str(known.row.drill)
    return {
        **figures,
        "message": known.incident.opened.message,
        "evidence": known.incident.opened.evidence,
        "timeline": [{"at": moment.at, "time": stamp(moment.at), "what": moment.what} for moment in timeline(known)],
        "diagnosis": known.diagnosis and known.diagnosis.model_dump(mode="json"),
        "picture": PICTURE if PICTURE in known.present else None,
    }


# --- what happened -------------------------------------------------------------------------------------------------


def _headline(known: Postmortem) -> str:
    row = known.row
    if not row.fatal:
        return f"In epoch {row.epoch} of attempt {row.attempt}. The step was skipped, and training went on."
    found = f"verdict: {ledger_page.verdict(row)}" if row.finding or row.guessed else "nothing to replay"
    done = "no restart" if row.answer is None else f"remedy: {ledger_page.remedy(row)}"
    return f"In epoch {row.epoch} of attempt {row.attempt}; {found}; {done}; {row.stage}."


def timeline(known: Postmortem) -> list[Moment]:
    """What happened when, oldest first; what has no moment is not in it."""
    found = [Moment(at, one_line(what)) for at, what in _moments(known) if at is not None]
    return sorted(found, key=lambda moment: moment.at)


def _moments(known: Postmortem) -> Iterator[tuple[float | None, str]]:
    history, opened, measured = known.history, known.incident.opened, known.measured
    attempt = history.attempt(opened.attempt)
    yield attempt.spawned_at, f"attempt {attempt.number} began, {_from(attempt.plan)} ({_settings(attempt.plan)})"
    diagnosis = history.diagnoses.get(opened.number)
    if diagnosis is not None and diagnosis.onset_step is not None:
        yield measured.onset_at, f"onset: from step {diagnosis.onset_step} on loss or gradient norm was out of bounds"
    yield measured.fault_at, f"{opened.cause} at step {opened.step}: {opened.message}"
    if not opened.fatal:
        return
    if attempt.ended is not None:
        yield attempt.ended_at, f"attempt {attempt.number} was over ({attempt.ended.outcome})"
    if diagnosis is not None:
        yield history.tried.when.get(diagnosis), f"replayed: {diagnosis.finding}"
    if known.row.answer is not None:
        yield from _moments_of_answer(known, known.row.answer)


def _moments_of_answer(known: Postmortem, answer: AttemptPlanned) -> Iterator[tuple[float | None, str]]:
    history, measured, row = known.history, known.measured, known.row
    yield history.tried.when.get(answer), f"answer: attempt {answer.attempt}, {_from(answer)} ({_settings(answer)})"
    yield measured.trains_at, f"attempt {answer.attempt} had done its first step"
    highest = furthest(history, row.attempt)
    yield measured.caught_up_at, f"the run was as far as before the fault (step {highest})"
    if row.probation is not None:
        held = "the remedy has proved itself" if row.probation.passed else "the remedy did not hold"
        yield history.tried.when.get(row.probation), held
    for one in row.undone:
        yield history.tried.when.get(one.plan), f"attempt {one.plan.attempt}: {one.plan.undoes} taken back"
        if one.end is not None:
            how = "went well" if one.end.passed else "failed"
            yield history.tried.when.get(one.end), f"taking {one.plan.undoes} back {how}"


def _timeline_rows(known: Postmortem) -> Iterator[tuple[str, str, str]]:
    fault = known.measured.fault_at
    for moment in timeline(known):
        since = "" if fault is None else _since(moment.at - fault)
        yield stamp(moment.at), since, moment.what


def _since(seconds: float) -> str:
    if abs(seconds) < 0.5:
        return "0 s"
    return f"{'+' if seconds > 0 else '-'}{duration(abs(seconds))}"


def _from(plan: AttemptPlanned) -> str:
    if plan.resume_from is None:
        return "from the beginning"
    return f"from {plan.resume_from} (step {plan.resume_step})"


def _settings(plan: AttemptPlanned) -> str:
    out = "1 image" if len(plan.left_out) == 1 else f"{len(plan.left_out)} images"
    left = f", {out} left out" if plan.left_out else ""
    return f"lr {plan.lr:g}, AMP {plan.amp}, batch {plan.batch_size} x {plan.accumulate}{left}"


# --- the picture and the replay ------------------------------------------------------------------------------------


def _picture(known: Postmortem) -> Sequence[str]:
    if PICTURE in known.present:
        words = f"![loss, gradient norm and learning rate of the last steps before step {known.row.step}]({PICTURE})"
    elif known.no_picture:
        words = f"No picture: {known.no_picture}."
    elif not known.row.fatal:
        return ()
    else:
        words = (
            f"{code(PICTURE)} is drawn within a minute; where it is missing after that, {code(PICTURE_LOG)} says why."
        )
    return "## The last steps", words


def _replay(known: Postmortem) -> Iterator[str]:
    """What was repeated, and what it showed; that nothing was, and why."""
    found, whole = known.history.diagnoses.get(known.incident.number), known.diagnosis
    if not known.row.fatal:
        return
    yield "## Diagnosis"
    if found is None:
        yield _not_replayed(known)
        return
    took = f" (in {duration(found.seconds)}, on {one_line(whole.device)})" if whole and found.seconds >= 1 else ""
    yield f"**{found.finding}**{took}: {one_line(found.because).rstrip('.')}."
    if known.row.guessed:
        yield "So what follows is a guess."
    if whole is None:
        return
    if whole.replays:
        yield table(REPLAY_COLUMNS, replay_rows(whole.replays))
    if whole.first_nonfinite is not None:
        yield first_words(whole.first_nonfinite)
    for file in whole.files:
        yield from _bad_file(known, file)


def _not_replayed(known: Postmortem) -> str:
    cause = known.incident.opened.cause
    if cause is Cause.OUT_OF_MEMORY:
        return f"**{Finding.CAPACITY}**: memory ran out, which says itself what it was. Nothing was replayed."
    if cause not in NUMERIC and not known.row.guessed:
        return "Nothing was replayed: the process was lost, and nothing says that the numbers were not fine."
    if known.row.answer is None and known.history.gave_up is None:
        return "The replay has not come to its end yet."
    return "Nothing was replayed, so what follows is a guess." if known.row.guessed else "Nothing was replayed."


def replay_rows(replays: Sequence[Replay]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for replay in replays:
        last = replay.first_step + replay.steps - 1
        steps = str(replay.first_step) if replay.steps <= 1 else f"{replay.first_step} to {last}"
        result = replay.result if not replay.message else f"{replay.result}: {replay.message}"
        rows.append(
            (
                replay.start,
                steps,
                "off" if replay.amp is Amp.OFF else str(replay.amp),
                result,
                _figure(replay.loss),
                _figure(replay.grad_norm),
                f"{replay.seconds:.1f} s",
                ", ".join(Path(image).name for image in replay.images) or "-",
            )
        )
    return rows


def first_words(first: FirstNonFinite) -> str:
    """Where non-finite numbers came up."""
    largest = "" if first.largest is None else f"; the largest finite magnitude that went in was {first.largest:.4g}"
    where = "the loss itself" if first.layer == "loss" else f"the {first.tensor} of layer {code(first.layer)}"
    return f"First not finite, at step {first.step}: {where}{largest}."


def _bad_file(known: Postmortem, file: BadFile) -> Iterator[str]:
    mask = "" if file.mask is None else f", with its mask {code(file.mask)}"
    yield f"Bad file: {code(file.image)}{mask}: {one_line(file.what)}. Reproduced from {file.witnesses}."
    picture = None if file.picture is None else Path(file.picture).name
    if picture is not None and picture in known.present:
        yield f"![image and mask, with the values that do not belong marked]({picture})"


# --- what was done -------------------------------------------------------------------------------------------------


def _remedy(known: Postmortem) -> Iterator[str]:
    row, history = known.row, known.history
    if not row.fatal:
        yield "None was needed: the step was skipped, and training went on."
    elif row.answer is not None:
        guess = " This is a guess." if row.guessed else ""
        remedy = ledger_page.remedy(row)
        yield f"**{remedy}**, in force from attempt {row.answer.attempt} on. {one_line(row.answer.because)}.{guess}"
        if row.answer.warm_up_steps:
            yield f"The rate rose over the first {row.answer.warm_up_steps} steps."
    elif history.gave_up is not None:
        yield f"None: segwatch gave up. {one_line(history.gave_up.reason)}"
    else:
        yield "Not decided yet."
    advice = advice_of_finding(history, known.incident)
    if advice is not None:
        yield f"What you can do: {one_line(advice)}"


def _afterwards(known: Postmortem) -> Iterator[str]:
    """Whether the remedy held, and whether it is still needed."""
    row = known.row
    yield f"{str(row.stage).capitalize()}."
    if row.probation is not None:
        yield _as_sentence(probation_words(row.probation))
    for one in row.undone:
        came = "" if one.end is None else f" ({one_line(one.end.because)})"
        yield f"Undo: {ledger_page.undoing_words(one)}{came}."


def _cost(row: Row) -> Iterator[str]:
    if not row.fatal:
        yield "the update of one step"
        return
    unknown = "not known yet"
    yield f"steps lost: {unknown if row.steps_lost is None else row.steps_lost}"
    yield f"time lost: {unknown if row.seconds_lost is None else duration(row.seconds_lost)}"
    if row.undone:
        took = "" if row.undoing_seconds is None else f" and {duration(row.undoing_seconds)}"
        counted = "1 step" if row.undoing_steps == 1 else f"{row.undoing_steps} steps"
        yield f"of that by taking the remedy back: {counted}{took}"
    yield f"test mIoU: {percent(row.miou_before)} before, {percent(row.miou_after)} after"
    yield f"images/s: {_figure(row.pace_before, 3)} before, {_figure(row.pace_after, 3)} after"
    yield f"a plain `while true` loop: {ledger_page.loop_words(row.loop)} (the assumption stands in report.md)"


def _again(known: Postmortem) -> Iterator[str]:
    replayed = known.diagnosis is not None and known.diagnosis.replays
    if replayed or "batch.pt" in known.present:
        yield f"To repeat the diagnosis: `{next_steps.command('replay', known.run, str(known.incident.number))}`."


def _lies_here(known: Postmortem, name: str) -> bool:
    return name in known.present and not (name == PICTURE_LOG and PICTURE in known.present)


def _as_sentence(words: str) -> str:
    told = one_line(words).rstrip(".")
    return f"{told[:1].upper()}{told[1:]}."


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
