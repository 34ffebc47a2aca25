"""What best and the end of a run print, from the facts on disk: read-only, with or without a daemon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..plain import one_line
from . import next_steps
from .alerts import stamp
from .events import AlertState
from .freezing import frozen_data
from .history import History
from .members import Incident
from .rules import change_words
from .rundir import RunDir
from .store import read_events
from .trends import best_gap
from .words import figure, gain_words, interval, percent, points

if TYPE_CHECKING:
    from ..data.resolved import ResolvedData
    from ..evaluator.report import EvaluationReport

RARE_SHARE = 5e-3
"""Under 0.5 % of the training pixels a low IoU is expected: there is little to learn from."""
EPOCH_COLUMNS = ("epoch", "attempt", "val mIoU", "test mIoU", "95 %", "test FWIoU", "pixel acc.", "note")
CLASS_COLUMNS = ("class", "train pixels", "test IoU", "note")
WORST_NAMED = 3
"""Images that `best` names on the terminal; report.md and --json hold all that the evaluator kept."""
DICE_WORDS = "what much UNet code prints as Dice, another quantity than mean Dice: docs/metrics.md"


@dataclass(frozen=True)
class Look:
    """A run as its facts tell it at one moment."""

    run: RunDir
    history: History


def look_at(run: RunDir) -> Look:
    return Look(run, History.of(read_events(run.path)))


# --- best ----------------------------------------------------------------------------------------------------------


def best(look: Look) -> dict[str, Any]:
    """`by_test`, `by_val` and the test mIoU that choosing by val gives away, with its interval."""
    history = look.history
    measured = history.measured_gap
    return {
        **{f"by_{split}": _winner(look, split, whole=True) for split in ("test", "val")},
        "gap": best_gap(history),
        "gap_low": measured and measured.low,
        "gap_high": measured and measured.high,
    }


def _winner(look: Look, split: str, *, whole: bool = False) -> dict[str, Any] | None:
    """The epoch that is best on a split, with its score there; the `whole` of it reads the report of that score."""
    found = look.history.best.get(split)
    if found is None:
        return None
    epoch, score = found.epoch, found.epoch.scores[split]
    figures: dict[str, Any] = {
        "epoch": epoch.epoch,
        "attempt": epoch.attempt,
        "miou": found.miou,
        "miou_low": score.miou_low,
        "miou_high": score.miou_high,
        "images": score.images,
        "skipped_images": score.skipped_images,
        "gain": score.gain and asdict(score.gain),
        "path": str(look.run.path / epoch.weights),
    }
    return figures | _from_report(winner_report(look.run, look.history, split)) if whole else figures


def _from_report(report: EvaluationReport | None) -> dict[str, Any]:
    return {
        "policy": report and report.policy,
        "per_image_foreground_dice": report and report.per_image_foreground_dice,
        "worst_images": [] if report is None else [image.model_dump() for image in report.worst_images],
    }


def winner_report(run: RunDir, history: History, split: str) -> EvaluationReport | None:
    """What the evaluator wrote of the epoch that is best on a split, on that split."""
    from .evaluations import report_of  # knows the evaluator's figures, and with them numpy

    found = history.best.get(split)
    return None if found is None else report_of(run.path, found.epoch, split)


def print_best(look: Look, console: Console) -> None:
    lines = [line for split in ("test", "val") for line in _best_lines(look, split)]
    for line in [*lines, gap_words(look.history)] if lines else ["no epoch has a score yet"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if lines:
        console.print(next_steps.block(*_uses(look.run)), soft_wrap=True, highlight=False, markup=False)


def _uses(run: RunDir) -> Iterator[str]:
    """What the best network is good for; the test images are there to try it on, until a person has others."""
    yield next_steps.command("predict", to_try_it_on(frozen_data(run)) or "IMAGES", "--run", run.path)
    yield next_steps.command("report", run.path)


def to_try_it_on(data: ResolvedData) -> Path | None:
    """The directory of the test images, or one of them where others lie there or below; `None` where they are gone."""
    image = next((data.root / pair.image for pair in data.splits.get("test", ())), None)
    if image is None or not image.is_file():
        return None
    others = {other.image for name, split in data.splits.items() if name != "test" for other in split}
    others |= {pair.mask for split in data.splits.values() for pair in split}
    mixed = any((data.root / other).is_relative_to(image.parent) for other in others)
    return image if mixed else image.parent


def _best_lines(look: Look, split: str) -> Iterator[str]:
    found = look.history.best.get(split)
    if found is None:
        return
    epoch, score = found.epoch, found.epoch.scores[split]
    yield f"best by {split:4}: epoch {epoch.epoch} (attempt {epoch.attempt}), {split} mIoU {figure(score)}"
    yield f"    {look.run.path / epoch.weights}"
    if look.history.series.former(epoch):
        yield "    scored on files that were changed since: no epoch has a score on those of now"
    if score.gain is not None:
        yield f"    {gain_words(score.gain)}"
    report = winner_report(look.run, look.history, split)
    if report is None:
        return
    if report.per_image_foreground_dice is not None:
        yield f"    per-image foreground Dice {percent(report.per_image_foreground_dice)} ({DICE_WORDS})"
    if report.worst_images:
        named = (f"{one_line(image.name)} {percent(image.miou)}" for image in report.worst_images[:WORST_NAMED])
        yield f"    worst images by their own mIoU: {', '.join(named)}"
    yield f"    what counts: {report.policy}"


def gap_words(history: History) -> str:
    gap, measured = best_gap(history), history.measured_gap
    if gap is None:
        return "gap: unknown until both splits are scored"
    if gap == 0:
        return "gap: none, val and test choose the same epoch (or one as good)"
    if measured is None or measured.low is None or measured.high is None:
        told = f"{100 * gap:.2f} points of test mIoU"
    else:
        told = points(gap, measured.low, measured.high)
        if measured.low <= 0:
            return f"gap: choosing by val gives away {told} of test mIoU: no sure difference"
        told = f"{told} of test mIoU"
    return f"gap: choosing by val gives away {told}; choosing by test is optimistic by up to that"


# --- the end -------------------------------------------------------------------------------------------------------


def print_epochs(history: History, console: Console) -> None:
    """All epochs that stand, with both scores, and what marks them."""
    _print_table("epochs, scored on val and test", EPOCH_COLUMNS, epoch_rows(history), console)


def epoch_rows(history: History) -> list[tuple[str, ...]]:
    best_keys = {split: found.epoch.key for split, found in history.best.items()}
    rows: list[tuple[str, ...]] = []
    for epoch in sorted(history.epochs.values(), key=lambda epoch: epoch.key):
        test = epoch.scores.get("test")
        won = [split for split in ("test", "val") if best_keys.get(split) == epoch.key]
        notes = [f"best {'+'.join(won)}"] if won else []
        notes += [epoch.moved] if epoch.moved else []
        notes += [f"{split}: {score.verdict}" for split, score in epoch.scores.items() if score.verdict != "ok"]
        skipped = ((split, score.skipped_images) for split, score in epoch.scores.items())
        notes += [f"{split}: {count} skipped" for split, count in skipped if count]
        notes += [f"{split}: on files changed since" for split in history.series.former(epoch)]
        rows.append(
            (
                str(epoch.epoch),
                str(epoch.attempt),
                percent(epoch.miou("val")),
                percent(epoch.miou("test")),
                (interval(test) if test else "") or "-",
                percent(test.fwiou if test else None),
                percent(test.pixel_accuracy if test else None),
                ", ".join(notes),
            )
        )
    return rows


def class_rows(history: History, data: ResolvedData) -> list[tuple[str, ...]]:
    """Per class of the best epoch by test, worst first: name, share of training pixels, IoU, a word on rare ones."""
    found = history.best.get("test")
    if found is None:
        return []
    ious = found.epoch.scores["test"].class_iou
    rows: list[tuple[str, ...]] = []
    for index in sorted(range(len(ious)), key=lambda i: (ious[i] is None, ious[i] or 0.0)):
        share = data.share(index, "train")
        rare = share is not None and share < RARE_SHARE and (ious[index] or 0.0) < found.miou
        note = "rare: a low IoU is expected" if rare else ""
        rows.append((data.class_names[index], percent(share, 4), percent(ious[index]), note))
    return rows


def print_classes(history: History, data: ResolvedData, console: Console) -> None:
    rows = class_rows(history, data)
    if not rows:
        return
    epoch = history.best["test"].epoch.epoch
    _print_table(f"classes of the best epoch by test ({epoch}), worst first", CLASS_COLUMNS, rows, console)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Names and notes to the left, figures to the right; no frame, so that it fits 80 columns and a log file."""
    console.print(f"\n{title}", soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        words = column in {"class", "note"}
        table.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def happened(history: History) -> list[str]:
    """Each incident with its answer, each alert of another kind, and the end if it is a bad one, in a line or two."""
    lines = [*_incident_lines(history), *_undoing_lines(history)]
    for _, alert in sorted(history.told.values(), key=lambda told: told[1].since):
        if not alert.fingerprint.startswith(("incident:", "gave-up", "data-changed:")):
            state = "still firing" if alert.state is AlertState.FIRING else "resolved"
            lines.append(f"{stamp(alert.since)} {alert.code}: {alert.cause} ({state}). -> {alert.advice}")
    lines += [f"data-changed: {change_words(change)}" for change in history.series.changes]
    if history.pending_drills:
        waiting = ", ".join(str(drill) for drill in history.pending_drills)
        lines.append(f"drills that did not happen, since no worker came to their step: {waiting}")
    if history.gave_up is not None:
        lines.append(f"gave up: {history.gave_up.reason}")
    return lines


def _incident_lines(history: History) -> list[str]:
    lines = []
    for incident in history.incidents:
        opened = incident.opened
        drill = f" [DRILL {opened.drill}]" if opened.drill else ""
        answer = history.answer_to(incident)
        if answer is not None:
            done = f"attempt {answer.attempt}: {answer.because}"
        elif not opened.fatal:
            done = "the step was skipped, training went on"
        else:
            done = "no restart"
        lines.append(
            f"{stamp(incident.at)} {opened.cause}{drill} in epoch {opened.epoch}, step {opened.step}: "
            f"{opened.message}. -> {done} ({_outcome(history, incident)})"
        )
    return lines


def _outcome(history: History, incident: Incident) -> str:
    from .probation import stage  # knows the configuration, which `status` has no use for

    answer = history.answer_to(incident)
    ended = None if answer is None else history.tried.ends.get(answer.attempt)
    return f"{stage(history, incident)}{f': {ended.because}' if ended else ''}"


def _undoing_lines(history: History) -> list[str]:
    """Remedies that were taken back to see whether they are still needed, and what came of it."""
    lines = []
    for plan in history.tried.undone:
        ended = history.tried.ends.get(plan.attempt)
        on_trial = "the run ended on probation" if history.finished else "on probation"
        outcome = on_trial if ended is None else f"{'went well' if ended.passed else 'failed'}: {ended.because}"
        lines.append(f"attempt {plan.attempt}: {plan.because} ({outcome})")
        back = next((p for p in history.tried.put_back if p.attempt > plan.attempt), None)
        if back is not None and ended is not None and not ended.passed:
            lines.append(f"attempt {back.attempt}: {back.because}")
    return lines
