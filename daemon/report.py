"""The end of a run: the closing words on the terminal and report.md, from the history alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console

from ..durable import write_text
from . import views
from .alerts import duration, stamp
from .freezing import frozen_data
from .history import History
from .rundir import RunDir
from .words import percent


def print_closing(run: RunDir, history: History, console: Console) -> None:
    """All epochs, the winners and their gap, what happened, where to look."""
    data = frozen_data(run)
    views.print_epochs(history, console)
    views.print_classes(history, data, console)
    for line in _winners(history):
        console.print(line, soft_wrap=True, highlight=False)
    happened = views.happened(history)
    console.print("\nwhat happened:")
    for line in happened or ["nothing out of the ordinary"]:
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    console.print("\nwhere to look:")
    for what, where in _places(run):
        console.print(f"  {what:12} {where}", soft_wrap=True, highlight=False, markup=False)


def write_report(run: RunDir, history: History) -> None:
    """report.md: the same for someone who was away."""
    data = frozen_data(run)
    parts = [
        f"# {run.path.name}",
        _verdict(history),
        "## Best",
        "\n".join(f"- {line}" for line in _winners(history)),
        _picture(run, history),
        "## What happened",
        "\n".join(f"- {line}" for line in views.happened(history)) or "Nothing out of the ordinary.",
        "## Epochs",
        _table(views.EPOCH_COLUMNS, views.epoch_rows(history)),
        "## Classes of the best epoch by test, worst first",
        _table(views.CLASS_COLUMNS, views.class_rows(history, data)),
        "mIoU is the unweighted mean of TP / (TP + FP + FN) over the classes in truth or prediction, from one "
        f"confusion matrix over the whole split, at scale {data.scale:g}; ignored pixels count nowhere.",
        "## Where to look",
        "\n".join(f"- {what}: `{where}`" for what, where in _places(run)),
    ]
    write_text(run.path / "report.md", "\n\n".join(part for part in parts if part) + "\n")


def _verdict(history: History) -> str:
    took = ""
    if history.created_at is not None and history.last_at is not None:
        took = f" after {duration(history.last_at - history.created_at)}, at {stamp(history.last_at)}"
    restarts = sum(attempt.plan.incident is not None for attempt in history.attempts)
    counted = f"{len(history.attempts)} attempts, {restarts} of them after an incident"
    if history.gave_up is not None:
        return f"**Gave up**{took}: {history.gave_up.reason} ({counted})."
    if history.finished:
        return f"**Finished**{took}: {history.epochs_wanted} epochs, {counted}."
    return f"**Not finished**: {len(history.lineage())} of {history.epochs_wanted} epochs, {counted}."


def _winners(history: History) -> list[str]:
    lines = []
    for split in ("test", "val"):
        found = history.best.get(split)
        if found is not None:
            other = found.epoch.miou("test") if split == "val" else None
            beside = "" if other is None else f" (test mIoU {percent(other)})"
            lines.append(
                f"best by {split}: epoch {found.epoch.epoch} of attempt {found.epoch.attempt}, {split} mIoU "
                f"{percent(found.miou)}{beside}: best_{split}.pth"
            )
    return [*lines, views.gap_words(history)] if lines else ["no epoch has a score"]


def _picture(run: RunDir, history: History) -> str:
    """The overlays of the best epoch by test, where the evaluator has drawn them."""
    found = history.best.get("test")
    if found is None:
        return ""
    attempt, epoch = found.epoch.key
    name = f"evaluations/overlays/attempt{attempt:03d}_epoch{epoch}.png"
    return f"![image, truth, prediction and errors of epoch {epoch}]({name})" if (run.path / name).exists() else ""


def _places(run: RunDir) -> Sequence[tuple[str, str]]:
    return (
        ("report", str(run.path / "report.md")),
        ("scores", str(run.path / "results.csv")),
        ("alerts", str(run.path / "alerts.log")),
        ("overlays", str(run.path / "evaluations" / "overlays")),
        ("TensorBoard", f"tensorboard --logdir {shlex.quote(str(run.path / 'tensorboard'))}"),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
