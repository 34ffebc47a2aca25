"""What status, alerts and best print, from the facts on disk: read-only, and the same whether a daemon runs or not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..plain import one_line
from ..trainer.contract import JOURNAL, Progress, attempt_dir
from . import process
from .alerts import alert_lines, duration, stamp
from .events import AlertChanged, AlertState, Outcome, Severity
from .history import History
from .journal import tail
from .members import Incident
from .rules import change_words
from .rundir import Holder, RunDir
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
    """A run as it stands on disk at one moment."""

    run: RunDir
    history: History
    progress: Progress | None
    daemon_alive: bool
    worker_alive: bool


def look_at(run: RunDir) -> Look:
    history = History.of(read_events(run.path))
    holder = run.holder()
    attempt = history.current
    spawned = None if attempt is None else attempt.spawned
    lines = [] if attempt is None else tail(attempt_dir(run.path, attempt.number) / JOURNAL)
    return Look(
        run=run,
        history=history,
        progress=next((line for line in reversed(lines) if isinstance(line, Progress)), None),
        daemon_alive=_is_watched(holder, history),
        worker_alive=spawned is not None and process.Identity(spawned.pid, spawned.create_time, spawned.boot).alive(),
    )


def _is_watched(holder: Holder | None, history: History) -> bool:
    """Whether a daemon is there; one on another host is taken at its word."""
    watches = holder is not None and holder.purpose == "watch" and holder.alive() is not False
    return watches and history.stopped_because is None


# --- status --------------------------------------------------------------------------------------------------------


def status(look: Look) -> dict[str, Any]:
    """The figures of `status --json`. Unknown is null."""
    history, attempt, progress = look.history, look.history.current, look.progress
    health, reason = _health(look)
    plan = None if attempt is None else attempt.plan
    standing = history.lineage()
    return {
        "run": str(look.run.path),
        "state": _state(look),
        "health": health,
        "reason": reason,
        "attempt": plan and plan.attempt,
        "epoch": progress.epoch if progress else (standing[-1].epoch if standing else None),
        "epochs": history.epochs_wanted,
        "step": progress.step if progress else (plan and plan.resume_step),
        "lr": plan and plan.lr,
        "amp": plan and plan.amp.value,
        "batch_size": plan and plan.batch_size,
        "accumulate": plan and plan.accumulate,
        "worker_pid": attempt.spawned.pid if attempt and attempt.spawned and look.worker_alive else None,
        "daemon_alive": look.daemon_alive,
        "loss": progress and progress.loss,
        "images_per_second": progress and progress.images_per_second,
        "skipped_steps": progress and progress.skipped_steps,
        "unscored": len(history.unscored),
        "best": _winner(look, "test"),
        "on_probation": _on_probation(history),
        "firing": [alert.code for alert in history.firing()],
    }


def _on_probation(history: History) -> list[str]:
    """The remedies that have not proved themselves yet, in words."""
    if not history.tried.open or history.finished:
        return []
    from .probation import on_trial_words  # knows the configuration: only where it has something to say

    return on_trial_words(history)


def _state(look: Look) -> str:
    history, attempt = look.history, look.history.current
    if history.gave_up is not None:
        return "gave-up"
    if history.finished:
        return "finished"
    if not look.daemon_alive:
        if look.worker_alive:
            return "unwatched"
        return "stopped" if history.stopped_because is not None else "interrupted"
    if attempt is None or (attempt.ended is None and attempt.started is None):
        return "starting" if attempt is None or attempt.plan.incident is None else "recovering"
    if attempt.ended is None:
        return "training"
    return "evaluating" if attempt.ended.outcome is Outcome.FINISHED else "recovering"


def _health(look: Look) -> tuple[str, str]:
    firing = look.history.firing()
    grave = [alert for alert in firing if alert.severity is Severity.CRITICAL]
    if grave:
        return "unhealthy", f"{grave[0].code}: {grave[0].cause}"
    if _state(look) == "unwatched":
        return "degraded", "the worker trains, but no daemon watches it: `segwatch run` adopts it"
    if _state(look) == "interrupted":
        return "degraded", "daemon and worker are gone before the end: `segwatch run` goes on"
    warnings = [alert for alert in firing if alert.severity is Severity.WARNING]
    if warnings:
        return "degraded", f"{warnings[0].code}: {warnings[0].cause}"
    return "healthy", "nothing firing"


def print_status(look: Look, console: Console) -> None:
    for name, words in _status_lines(look, status(look)):
        console.print(f"{name:13} {words}", soft_wrap=True, highlight=False, markup=False)


def _status_lines(look: Look, figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "run", figures["run"]
    yield "state", f"{figures['state']}, {figures['health']}: {one_line(figures['reason'])}"
    if figures["attempt"] is not None:
        batch = f"{figures['batch_size']} x {figures['accumulate']}"
        yield "attempt", f"{figures['attempt']}: lr {figures['lr']:g}, AMP {figures['amp']}, batch {batch}"
        yield "progress", _progress_words(look, figures)
    winner = figures["best"]
    if winner is not None:
        score = look.history.best["test"].epoch.scores["test"]
        yield "best by test", f"mIoU {figure(score)}, epoch {winner['epoch']}: {winner['path']}"
    if figures["unscored"]:
        yield "to score", f"{figures['unscored']} epochs"
    if figures["on_probation"]:
        yield "on probation", "; ".join(figures["on_probation"])
    yield "firing", ", ".join(figures["firing"]) or "nothing"


def _progress_words(look: Look, figures: dict[str, Any]) -> str:
    words = f"epoch {figures['epoch']} of {figures['epochs']}, step {figures['step']}"
    line = look.progress
    if line is not None:
        loss = "not finite" if line.loss is None else f"{line.loss:.4f}"
        ago = duration(time.time() - line.time)
        words += f", loss {loss}, {line.images_per_second:.1f} images/s, last word {ago} ago"
        words += f", {line.skipped_steps} skipped steps" if line.skipped_steps else ""
    return words


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


# --- alerts --------------------------------------------------------------------------------------------------------


def alerts(look: Look) -> list[dict[str, Any]]:
    """Every alert that fires or fired, newest state of each, in order of its beginning."""
    return [alert_json(alert) for _, alert in _told(look.history)]


def _told(history: History) -> list[tuple[float, AlertChanged]]:
    return sorted(history.told.values(), key=lambda told: told[1].since)


def alert_json(alert: AlertChanged) -> dict[str, Any]:
    return {
        "code": alert.code,
        "severity": alert.severity.value,
        "state": alert.state.value,
        "since": stamp(alert.since),
        "cause": alert.cause,
        "evidence": alert.evidence,
        "action": alert.action,
        "advice": alert.advice,
        "drill": alert.drill,
        "fingerprint": alert.fingerprint,
    }


def print_alerts(look: Look, console: Console) -> None:
    told = _told(look.history)
    if not told:
        console.print("no alerts")
    for moment, alert in told:
        for line in alert_lines(alert, moment, whole=True):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


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
    for _, alert in _told(history):
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
