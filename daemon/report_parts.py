"""What the report of a run says, in order: the verdict, the figures that matter, the curves, what happened, the rest.

Knows nothing about how it is shown: `document` makes Markdown and HTML of the same parts.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluator.report import PictureKind, picture_path
from ..plain import one_line
from . import views
from .alerts import duration, stamp
from .document import Bullets, Card, Cards, Document, Heading, Part, Picture, Table, Verdict, Words
from .history import History
from .ledger_page import COLUMNS as LEDGER_COLUMNS
from .ledger_page import account
from .members import SCORED_SPLITS, Epoch
from .rundir import RunDir
from .trends import best_gap
from .words import figure, gain_words, interval, percent

if TYPE_CHECKING:
    from ..data.resolved import ResolvedData
    from ..evaluator.report import EvaluationReport

log = logging.getLogger(__name__)
CURVES = "results.png"
OPEN_ROWS = 10
"""Epochs that are seen at once; the others unfold."""
RANKED_LIMIT = 500
"""Epochs that the report lists; results.csv has them all."""
RANKING_COLUMNS = ("rank", *views.EPOCH_COLUMNS)
CLASS_COLUMNS = ("class", "test IoU", "val IoU", "test pixels", "share of test", "share of train", "note")
TABLE_COLUMNS = ("class", "id", "colour", "train", "val", "test")
WORST_COLUMNS = ("image", "its own mIoU")
WORDS = frozenset({"class", "note", "image", "colour"})


def document(run: RunDir, history: History, data: ResolvedData, best: EvaluationReport | None) -> Document:
    """`best` is the evaluator's report of the epoch that is best by test, on test."""
    parts: list[Part] = [
        verdict(history),
        Cards(list(_cards(history))),
        Bullets(winners(history)),
        *_picture(run, CURVES, "mIoU of every epoch on val and test, with its 95 % interval"),
        Heading("What happened"),
        *_happened(history),
        *_ledger(run, history),
        *_overlays(run, history),
        Heading("Epochs, ranked by test mIoU"),
        *_ranking(history),
        Heading("Classes of the best epoch by test, worst first"),
        Table(CLASS_COLUMNS, list(_class_rows(history, data, best)), WORDS),
        *_worst_images(best),
        Heading("What the data holds"),
        *_class_table(data),
        Heading("What the figures mean"),
        Words(_meaning(best, data)),
        Heading("Where to look"),
        Bullets([f"{what}: {where}" for what, where in places(run)]),
    ]
    return Document(run.path.name, parts)


def verdict(history: History) -> Verdict:
    took = ""
    if history.created_at is not None and history.last_at is not None:
        took = f" after {duration(history.last_at - history.created_at)}, at {stamp(history.last_at)}"
    restarts = sum(attempt.plan.incident is not None for attempt in history.attempts)
    counted = f"{_number(len(history.attempts), 'attempt')}, {restarts} of them after an incident"
    if history.gave_up is not None:
        return Verdict("Gave up", f"{took}: {one_line(history.gave_up.reason)} ({counted}).", "bad")
    if history.finished:
        return Verdict("Finished", f"{took}: {_number(history.epochs_wanted, 'epoch')}, {counted}.", "good")
    done = f": {len(history.lineage())} of {_number(history.epochs_wanted, 'epoch')}, {counted}."
    return Verdict("Not finished", done, "open")


def winners(history: History) -> list[str]:
    """The best epoch by test and by val, and what choosing by val gives away."""
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


def places(run: RunDir) -> Sequence[tuple[str, str]]:
    """Where a person finds more, and what it is."""
    curves = run.path / CURVES
    return (
        ("report", str(run.path / "report.md")),
        ("to look at", str(run.path / "report.html")),
        ("scores", str(run.path / "results.csv")),
        *([("curves", str(curves))] if curves.exists() else []),
        ("alerts", str(run.path / "alerts.log")),
        ("overlays", str(run.path / "evaluations" / "overlays")),
        ("TensorBoard", f"tensorboard --logdir {shlex.quote(str(run.path / 'tensorboard'))}"),
    )


def _cards(history: History) -> Iterator[Card]:
    for split in ("test", "val"):
        found = history.best.get(split)
        if found is not None:
            spread = interval(found.epoch.scores[split])
            beside = f"epoch {found.epoch.epoch}" + (f"; 95 %: {spread}" if spread else "")
            yield Card(f"best {split} mIoU", percent(found.miou), beside)
    gap = best_gap(history)
    if gap is not None:
        yield Card("given away by choosing on val", f"{100 * gap:.2f} points", _gap_beside(history))
    standing = len(history.lineage())
    missing = len(history.unscored) + len(history.failed_epochs())
    yield Card(
        "epochs", f"{standing} of {history.epochs_wanted}", f"{missing} without a score" if missing else "all scored"
    )
    recovered = sum(history.recovered(incident) for incident in history.incidents)
    beside = f"{recovered} recovered" if history.incidents else "nothing went wrong"
    yield Card("incidents", str(len(history.incidents)), beside)
    firing = history.firing()
    if firing:
        yield Card("alerts that still fire", str(len(firing)), ", ".join(sorted({alert.code for alert in firing})))


def _gap_beside(history: History) -> str:
    measured = history.measured_gap
    if measured is None or measured.low is None or measured.high is None:
        return "of test mIoU"
    spread = f"95 %: {100 * measured.low:+.2f} to {100 * measured.high:+.2f}"
    return f"{spread}; no sure difference" if measured.low <= 0 else spread


def _happened(history: History) -> Iterator[Part]:
    lines = views.happened(history)
    yield Bullets(lines) if lines else Words("Nothing out of the ordinary.")


def _ledger(run: RunDir, history: History) -> list[Part]:
    """What each incident has cost; left out where the journals cannot be read."""
    try:
        found = account(run.path, history)
    except Exception:  # no fault in telling what incidents cost, from files that may be gone, costs the report
        log.exception("the ledger could not be written")
        return []
    if found is None:
        return []
    return [Heading("Ledger"), Table(LEDGER_COLUMNS, found.rows, frozenset(LEDGER_COLUMNS)), *map(Words, found.words)]


def _overlays(run: RunDir, history: History) -> Iterator[Part]:
    """What the evaluator has drawn of the best epoch by test."""
    found = history.best.get("test")
    if found is None:
        return
    epoch = found.epoch.epoch
    shown: dict[PictureKind, str] = {
        "": f"image, truth, prediction and errors of epoch {epoch}",
        "_worst": f"the worst test images of epoch {epoch}",
        "_confusion": f"which class epoch {epoch} takes for which",
    }
    pictures = [
        picture
        for kind, words in shown.items()
        for picture in _picture(run, picture_path(Path(), *found.epoch.key, kind).as_posix(), words)
    ]
    if pictures:
        yield Heading("What the best epoch by test sees")
        yield from pictures


def _picture(run: RunDir, name: str, words: str) -> Sequence[Picture]:
    return [Picture(name, words)] if (run.path / name).exists() else []


def _ranking(history: History) -> Iterator[Part]:
    """Those that stand and have a score first, the best of them at the top."""
    epochs = sorted(history.epochs.values(), key=lambda epoch: epoch.key)
    rows = dict(zip((epoch.key for epoch in epochs), views.epoch_rows(history), strict=True))
    ranked = sorted(epochs, key=_rank)
    listed = [
        (str(place) if epoch.moved is None and epoch.miou("test") is not None else "-", *rows[epoch.key])
        for place, epoch in enumerate(ranked, 1)
    ]
    yield Table(RANKING_COLUMNS, listed[:RANKED_LIMIT], WORDS, open_rows=OPEN_ROWS)
    if len(listed) > RANKED_LIMIT:
        yield Words(f"{len(listed) - RANKED_LIMIT} more are in results.csv.")


def _rank(epoch: Epoch) -> tuple[bool, bool, float, tuple[int, int]]:
    miou = epoch.miou("test")
    return epoch.moved is not None, miou is None, -(miou or 0.0), epoch.key


def _class_rows(
    history: History, data: ResolvedData, best: EvaluationReport | None
) -> Iterator[tuple[str, str, str, str, str, str, str]]:
    """Support is what was counted: pixels of the test split at the size that was scored, the ignored ones left out."""
    found = history.best.get("test")
    if found is None:
        return
    test, val = (found.epoch.scores[split].class_iou for split in ("test", "val"))
    scores = () if best is None or best.scores is None else best.scores.per_class
    total = sum(entry.support for entry in scores)
    for index in sorted(range(len(test)), key=lambda index: (test[index] is None, test[index] or 0.0)):
        support = scores[index].support if scores else None
        share = data.share(index, "train")
        rare = share is not None and share < views.RARE_SHARE and (test[index] or 0.0) < found.miou
        yield (
            data.class_names[index],
            percent(test[index]),
            percent(val[index]) if index < len(val) else "-",
            "-" if support is None else f"{support:,}",
            percent(support / total, 4) if support is not None and total else "-",
            percent(share, 4),
            "rare: a low IoU is expected" if rare else "",
        )


def _worst_images(report: EvaluationReport | None) -> Sequence[Part]:
    if report is None or not report.worst_images:
        return ()
    rows = [(image.name, percent(image.miou)) for image in report.worst_images]
    return Heading("Worst test images of the best epoch by test"), Table(WORST_COLUMNS, rows, WORDS)


def _class_table(data: ResolvedData) -> Iterator[Part]:
    images = ", ".join(f"{len(data.splits.get(name, ()))} {name}" for name in ("train", *SCORED_SPLITS))
    trained = {class_id for entry in data.classes for class_id in entry.values}
    left_out = [class_id for class_id in data.table_ids if class_id not in trained]
    told = f"{images} images. Share of the pixels of each split, as the audit counted them (audit.md has more)."
    if left_out:
        told += f" In the class table, and not trained: {_listed(left_out)}."
    yield Words(told)
    rows = [
        (
            entry.name,
            str(entry.id),
            "#{:02x}{:02x}{:02x}".format(*entry.colour),
            *(percent(data.share(index, split), 4) for split in ("train", *SCORED_SPLITS)),
        )
        for index, entry in enumerate(data.classes)
    ]
    yield Table(TABLE_COLUMNS, rows, WORDS, colours=[entry.colour for entry in data.classes])


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(str(class_id) for class_id in ids[:20])
    return shown if len(ids) <= 20 else f"{shown} and {len(ids) - 20} more"


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


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
