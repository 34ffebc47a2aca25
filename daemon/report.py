"""The end of a run: the closing words on the terminal, report.md and results.png, from its facts and reports."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ..durable import write_text
from ..plain import one_line, plain
from . import views
from .alerts import duration, stamp
from .freezing import frozen_data
from .history import History
from .ledger_page import section
from .markdown import table
from .rundir import RunDir
from .words import figure, gain_words, percent

if TYPE_CHECKING:
    from ..data.resolved import ResolvedData
    from ..evaluator.report import EvaluationReport

log = logging.getLogger(__name__)
WORST_COLUMNS = ("image", "its own mIoU")


def print_closing(run: RunDir, history: History, console: Console) -> None:
    """All epochs, the winners and their gap, what happened, where to look."""
    data = frozen_data(run)
    views.print_epochs(history, console)
    views.print_classes(history, data, console)
    for line in _winners(history):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    happened = views.happened(history)
    console.print("\nwhat happened:")
    for line in happened or ["nothing out of the ordinary"]:
        console.print(f"  {one_line(line)}", soft_wrap=True, highlight=False, markup=False)
    console.print("\nwhere to look:")
    for what, where in _places(run):
        console.print(f"  {what:12} {where}", soft_wrap=True, highlight=False, markup=False)


def write_report(run: RunDir, history: History) -> None:
    """report.md: the same for someone who was away, with results.png when the run is over."""
    data, best = frozen_data(run), views.winner_report(run, history, "test")
    parts = [
        f"# {one_line(run.path.name)}",
        _verdict(history),
        "## Best",
        "\n".join(f"- {line}" for line in _winners(history)),
        _curves(run, history),
        _picture(run, history),
        "## What happened",
        "\n".join(f"- {one_line(line)}" for line in views.happened(history)) or "Nothing out of the ordinary.",
        _ledger(run, history),
        "## Epochs",
        table(views.EPOCH_COLUMNS, views.epoch_rows(history)),
        "## Classes of the best epoch by test, worst first",
        table(views.CLASS_COLUMNS, views.class_rows(history, data)),
        *_images(best),
        "## What the figures mean",
        _meaning(best, data),
        "## Where to look",
        "\n".join(f"- {what}: `{where}`" for what, where in _places(run)),
    ]
    write_text(run.path / "report.md", plain("\n\n".join(part for part in parts if part)) + "\n")


def _verdict(history: History) -> str:
    took = ""
    if history.created_at is not None and history.last_at is not None:
        took = f" after {duration(history.last_at - history.created_at)}, at {stamp(history.last_at)}"
    restarts = sum(attempt.plan.incident is not None for attempt in history.attempts)
    counted = f"{len(history.attempts)} attempts, {restarts} of them after an incident"
    if history.gave_up is not None:
        return f"**Gave up**{took}: {one_line(history.gave_up.reason)} ({counted})."
    if history.finished:
        return f"**Finished**{took}: {history.epochs_wanted} epochs, {counted}."
    return f"**Not finished**: {len(history.lineage())} of {history.epochs_wanted} epochs, {counted}."


def _winners(history: History) -> list[str]:
    lines = []
    for split in ("test", "val"):
        found = history.best.get(split)
        if found is not None:
            score, test = found.epoch.scores[split], found.epoch.scores["test"]
            beside = f"; test mIoU {figure(test)}" if split == "val" and test.miou is not None else ""
            beside += f"; {gain_words(score.gain)}" if score.gain is not None else ""
            lines.append(
                f"best by {split}: epoch {found.epoch.epoch} of attempt {found.epoch.attempt}, {split} mIoU "
                f"{figure(score)}{beside}: best_{split}.pth"
            )
    return [*lines, views.gap_words(history)] if lines else ["no epoch has a score"]


def _ledger(run: RunDir, history: History) -> str:
    try:
        return section(run.path, history)
    except Exception:  # no fault in telling what incidents cost, from files that may be gone, costs the report
        log.exception("the ledger could not be written")
        return ""


def _curves(run: RunDir, history: History) -> str:
    """results.png, drawn when the run is over: matplotlib takes a second and 50 MB, which no night watch needs."""
    if not (history.finished or history.gave_up) or not history.best:
        return ""
    try:
        draw_results(run, history)
    except Exception:  # no fault in plotting costs the report (promise P7)
        log.exception("results.png could not be drawn")
        return ""
    return "![mIoU of every epoch on val and test, with its 95 % interval](results.png)"


def draw_results(run: RunDir, history: History) -> None:
    """The epochs that stand; those of another line would run over the same numbers again.

    One curve for each split, of the scores that compare: a curve over changed files would show a jump that is none.
    """
    from .ranking_plot import Point, draw

    standing = history.lineage()
    scored = [(epoch, split, score) for epoch in standing for split, score in epoch.scores.items()]
    compared = [one for one in scored if history.series.holds(one[0], (one[1],))]
    points = [
        Point(epoch.epoch, split, score.miou, score.miou_low, score.miou_high)
        for epoch, split, score in compared or scored
    ]
    gone = [
        f"best by {split} is epoch {found.epoch.epoch} of attempt {found.epoch.attempt}, which a roll-back superseded"
        for split, found in history.best.items()
        if found.epoch not in standing
    ]
    if 0 < len(compared) < len(scored):
        gone.append(f"left out: {len(scored) - len(compared)} scores on files that were changed since (results.csv)")
    draw(run.path / "results.png", points, title=f"{run.path.name}: every epoch that stands", footnote="; ".join(gone))


def _images(report: EvaluationReport | None) -> Sequence[str]:
    if report is None or not report.worst_images:
        return ()
    rows = [(image.name, percent(image.miou)) for image in report.worst_images]
    return "## Worst test images of the best epoch by test", table(WORST_COLUMNS, rows)


def _meaning(report: EvaluationReport | None, data: ResolvedData) -> str:
    lines = [
        "mIoU is the unweighted mean of TP / (TP + FP + FN) over the classes in truth or prediction, from one "
        f"confusion matrix over the whole split, at scale {data.scale:g}; ignored pixels count nowhere."
        if report is None
        else f"What counts: {report.policy}",
        "The 95 % interval is where the mIoU lies in 95 of 100 draws of as many images from this split. A "
        "difference whose interval holds 0 is none that these images can show.",
    ]
    if report is not None and report.per_image_foreground_dice is not None:
        dice = percent(report.per_image_foreground_dice)
        lines.append(f"Per-image foreground Dice of the best epoch by test: {dice} ({views.DICE_WORDS}).")
    return "\n\n".join(lines)


def _picture(run: RunDir, history: History) -> str:
    """The overlays of the best epoch by test, where the evaluator has drawn them."""
    found = history.best.get("test")
    if found is None:
        return ""
    attempt, epoch = found.epoch.key
    name = f"evaluations/overlays/attempt{attempt:03d}_epoch{epoch}.png"
    return f"![image, truth, prediction and errors of epoch {epoch}]({name})" if (run.path / name).exists() else ""


def _places(run: RunDir) -> Sequence[tuple[str, str]]:
    curves = run.path / "results.png"
    return (
        ("report", str(run.path / "report.md")),
        ("scores", str(run.path / "results.csv")),
        *([("curves", str(curves))] if curves.exists() else []),
        ("alerts", str(run.path / "alerts.log")),
        ("overlays", str(run.path / "evaluations" / "overlays")),
        ("TensorBoard", f"tensorboard --logdir {shlex.quote(str(run.path / 'tensorboard'))}"),
    )
