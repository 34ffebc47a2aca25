"""Ranks the epochs of a directory of checkpoints, and says it as table, csv, json and picture.

Knows reports, not how they came to be. Both winners are named: an epoch that was chosen on the test set looks better
there than it is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..durable import write_json, write_text
from ..evaluator.report import EvaluationReport, Verdict
from ..evaluator.statistics import Difference
from .members import SCORED_SPLITS
from .words import percent

COLUMNS = (
    "rank",
    "epoch",
    "file",
    "split",
    "miou",
    "miou_low",
    "miou_high",
    "fwiou",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_dice",
    "per_image_foreground_dice",
    "verdict",
    "sha256",
    "message",
    "images",
    "skipped_images",
    "policy",
)
DROPPED_FIRST = ("pixel acc.", "test FWIoU", "95 %", "val mIoU")
"""Columns of the terminal's table that a narrow one goes without."""
GAP = 2
"""Blanks between two columns."""
CAVEAT = (
    "The best by test was chosen by looking at the test set, so its test mIoU is optimistic; "
    "the test mIoU of the best by val is the honest figure"
)


@dataclass(frozen=True)
class Candidate:
    """One checkpoint file: its reports by split, or why there are none."""

    epoch: int
    file: str
    sha256: str = ""
    reports: dict[str, EvaluationReport] = field(default_factory=dict)
    why_not: str = ""
    """What is wrong with it, as a sentence that names it."""
    verdict: str = ""
    """`refused` or `failed` where there is a `why_not`."""

    def miou(self, split: str) -> float | None:
        report = self.reports.get(split)
        return None if report is None or report.scores is None else report.scores.miou


@dataclass(frozen=True)
class Ranking:
    """Every candidate, in numeric order of its epoch."""

    directory: Path
    candidates: tuple[Candidate, ...]
    not_looked_at: tuple[str, ...] = ()
    """Other .pth files there."""
    waiting: tuple[str, ...] = ()
    """Files that were not come to before somebody stopped it."""
    splits: tuple[str, ...] = SCORED_SPLITS
    """Those that run.toml names."""
    difference: Difference | None = None
    """Test mIoU of the best by test minus that of the best by val, where they are two."""

    def best(self, split: str) -> Candidate | None:
        """The highest mIoU on `split`; of equals the earliest epoch. `None` where no epoch has a score there."""
        return next(iter(self.in_order(split)), None)

    def in_order(self, split: str) -> list[Candidate]:
        """The candidates with a score on `split`, best first."""
        scored = [candidate for candidate in self.candidates if candidate.miou(split) is not None]
        return sorted(scored, key=lambda candidate: (-(candidate.miou(split) or 0.0), candidate.epoch))

    def ranks(self, split: str) -> dict[str, int]:
        """File -> rank on `split`, from 1; equal mIoU is an equal rank."""
        mious = {candidate.file: candidate.miou(split) for candidate in self.in_order(split)}
        values = list(mious.values())
        return {file: values.index(miou) + 1 for file, miou in mious.items()}

    @property
    def gap(self) -> float | None:
        """Test mIoU that choosing the epoch by val gives away; `None` until both splits have a winner."""
        by_test, by_val = self.best("test"), self.best("val")
        if by_test is None or by_val is None:
            return None
        top, honest = by_test.miou("test"), by_val.miou("test")
        return None if top is None or honest is None else top - honest

    @property
    def left_out(self) -> list[Candidate]:
        """The files that were refused or could not be scored."""
        return [candidate for candidate in self.candidates if candidate.why_not]

    @property
    def scored(self) -> int:
        """How many have a score on val or test."""
        return sum(any(c.miou(split) is not None for split in SCORED_SPLITS) for c in self.candidates)

    @property
    def reports(self) -> list[EvaluationReport]:
        return [report for candidate in self.candidates for report in candidate.reports.values()]


# --- files ---------------------------------------------------------------------------------------------------------


def write(ranking: Ranking, output: Path) -> None:
    """results.csv, results.json and, where there is an epoch to draw, results.png."""
    write_text(output / "results.csv", _csv(ranking))
    write_json(output / "results.json", as_json(ranking))
    if ranking.candidates:
        _draw(ranking, output / "results.png")


def _csv(ranking: Ranking) -> str:
    """One row per epoch and split, by epoch; `rank` is that on the row's own split, an unknown figure an empty cell."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    ranks = {split: ranking.ranks(split) for split in SCORED_SPLITS}
    for candidate in ranking.candidates:
        for split in ranking.splits:
            figures = _figures(candidate, split) | {"rank": ranks[split].get(candidate.file), "split": split}
            rows.writerow([_cell(figures.get(column)) for column in COLUMNS])
    return text.getvalue()


def _figures(candidate: Candidate, split: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"epoch": candidate.epoch, "file": candidate.file, "sha256": candidate.sha256 or None}
    report = candidate.reports.get(split)
    if report is None:
        return figures | {"verdict": candidate.verdict or None, "message": candidate.why_not}
    scores, interval = report.scores, report.miou_interval
    return figures | {
        "miou": scores and scores.miou,
        "miou_low": interval and interval.low,
        "miou_high": interval and interval.high,
        "fwiou": scores and scores.fwiou,
        "pixel_accuracy": scores and scores.pixel_accuracy,
        "mean_accuracy": scores and scores.mean_accuracy,
        "mean_dice": scores and scores.mean_dice,
        "per_image_foreground_dice": report.per_image_foreground_dice,
        "verdict": report.verdict.value,
        "message": report.message,
        "images": report.images,
        "skipped_images": report.skipped_images,
        "policy": report.policy,
    }


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def as_json(ranking: Ranking) -> dict[str, Any]:
    """The content of results.json. Fractions, not percent; unknown is null."""
    ranks = {split: ranking.ranks(split) for split in SCORED_SPLITS}
    order = ranking.in_order("test")
    without = [candidate for candidate in ranking.candidates if candidate not in order and candidate.reports]
    return {
        "checkpoints": str(ranking.directory),
        **_terms(ranking.reports),
        "best_by_test": _winner(ranking.best("test")),
        "best_by_val": _winner(ranking.best("val")),
        "gap": ranking.gap,
        "gap_interval": ranking.difference and {"low": ranking.difference.low, "high": ranking.difference.high},
        "caveat": CAVEAT,
        "ranking": [_entry(candidate, ranks) for candidate in [*order, *without]],
        "left_out": [
            {"epoch": c.epoch, "file": c.file, "verdict": c.verdict, "reason": c.why_not} for c in ranking.left_out
        ],
        "waiting": list(ranking.waiting),
        "not_looked_at": list(ranking.not_looked_at),
    }


def _terms(reports: Sequence[EvaluationReport]) -> dict[str, Any]:
    """What all figures have in common: classes, and for each split under which policy and over how many images."""
    by_split = {report.split: report for report in reports if report.scores is not None}
    by_split = {report.split: report for report in reports} | by_split
    some = next(iter(by_split.values()), None)
    return {
        "classes": [
            {"channel": channel, "id": id_, "name": name}
            for channel, (id_, name) in enumerate(zip(some.class_ids, some.class_names, strict=True) if some else ())
        ],
        "splits": {
            split: {
                "policy": report.policy,
                "resolution": report.resolution,
                "window": report.window,
                "overlap": report.overlap,
                "images": report.images,
                "skipped_images": report.skipped_images,
                "data_fingerprint": report.data_fingerprint,
            }
            for split, report in sorted(by_split.items())
        },
    }


def _winner(candidate: Candidate | None) -> dict[str, Any] | None:
    if candidate is None:
        return None
    mious = {f"{split}_miou": candidate.miou(split) for split in SCORED_SPLITS}
    return {"epoch": candidate.epoch, "file": candidate.file, **mious, "flags": _flags(candidate)}


def _entry(candidate: Candidate, ranks: dict[str, dict[str, int]]) -> dict[str, Any]:
    own = {"epoch", "file", "sha256"}
    splits = {}
    for split, report in candidate.reports.items():
        figures = {key: value for key, value in _figures(candidate, split).items() if key not in own}
        ious = (
            {str(i): c.iou for i, c in zip(report.class_ids, report.scores.per_class, strict=True)}
            if (report.scores)
            else {}
        )
        splits[split] = {"rank": ranks[split].get(candidate.file), **figures, "iou_by_class_id": ious}
    return {"epoch": candidate.epoch, "file": candidate.file, "sha256": candidate.sha256, **splits}


def _draw(ranking: Ranking, path: Path) -> None:
    from .ranking_plot import Point, draw

    points = []
    for candidate in ranking.candidates:
        for split in ranking.splits:
            figures = _figures(candidate, split)
            points.append(
                Point(candidate.epoch, split, figures.get("miou"), figures.get("miou_low"), figures.get("miou_high"))
            )
    policies = [report.policy for report in ranking.reports if report.split == "test" and report.scores is not None]
    draw(
        path,
        points,
        title=f"{len(ranking.candidates)} checkpoints of {ranking.directory.name}",
        footnote=policies[-1] if policies else "",
    )


# --- terminal ------------------------------------------------------------------------------------------------------


def show(ranking: Ranking, console: Console) -> None:
    """The ranking of all epochs by test mIoU, the two winners, and what was left out and why."""
    if ranking.reports:
        _show_table(ranking, console)
        for line in (*policy_lines(ranking), *winner_lines(ranking)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    for line in left_out_lines(ranking):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _show_table(ranking: Ranking, console: Console) -> None:
    title = f"{_count(len(ranking.candidates), 'checkpoint')} of {ranking.directory}, ranked by test mIoU"
    console.print(f"\n{title}", soft_wrap=True, highlight=False, markup=False)
    rows = _rows(ranking)
    widths = {column: max(len(word) for word in (column, *(row[column] for row in rows))) for column in rows[0]}
    widths["note"] = max(len(word) for row in rows for word in ("note", *row["note"].split()))  # it may be folded
    dropped: list[str] = []
    while _needed(widths) > console.width and len(dropped) < len(DROPPED_FIRST):
        dropped.append(DROPPED_FIRST[len(dropped)])
        widths.pop(dropped[-1], None)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in widths.items():
        words = column == "note"
        # A column that is cut off shows another number: where there is no room at all, the terminal breaks the lines.
        table.add_column(
            column,
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=width,
        )
    for row in rows:
        table.add_row(*(Text(row[column]) for column in widths))
    console.print(table, width=max(console.width, _needed(widths)), crop=False)
    if dropped:
        left_out = ", ".join(dropped)
        console.print(f"no room here for {left_out}: see results.csv", soft_wrap=True, highlight=False, markup=False)


def _rows(ranking: Ranking) -> list[dict[str, str]]:
    """What the terminal's table holds, by column; best by test first."""
    ranks = ranking.ranks("test")
    unranked = [candidate for candidate in ranking.candidates if candidate.file not in ranks]
    rows = []
    for candidate in [*ranking.in_order("test"), *unranked]:
        test = _figures(candidate, "test")
        rows.append(
            {
                "rank": str(ranks.get(candidate.file, "-")),
                "epoch": str(candidate.epoch),
                "test mIoU": percent(test.get("miou")),
                "95 %": interval_words(test.get("miou_low"), test.get("miou_high")),
                "val mIoU": percent(candidate.miou("val")),
                "test FWIoU": percent(test.get("fwiou")),
                "pixel acc.": percent(test.get("pixel_accuracy")),
                "note": _note(ranking, candidate),
            }
        )
    return rows


def _needed(widths: Mapping[str, int]) -> int:
    """Columns of a terminal for a table of these widths."""
    return sum(widths.values()) + GAP * len(widths)


def policy_lines(ranking: Ranking) -> list[str]:
    """What the figures are figures of: images, skipped ones, classes, size, leaks; once where val and test agree."""
    told: dict[str, list[str]] = {}
    for split in reversed(ranking.splits):
        winner = ranking.best(split)
        if winner is None:
            continue
        report = winner.reports[split]
        skipped = f", {report.skipped_images} skipped" if report.skipped_images else ""
        told.setdefault(report.policy, []).append(f"{_count(report.images, f'{split} image')}{skipped}")
    return [f"what counts: {' and '.join(images)}: {policy}" for policy, images in told.items()]


def interval_words(low: float | None, high: float | None) -> str:
    """`61.0-67.2`, or a dash."""
    return "-" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def _note(ranking: Ranking, candidate: Candidate) -> str:
    won = [split for split in ("test", "val") if ranking.best(split) is candidate]
    notes = [f"best by {' and '.join(won)}"] if won else []
    notes += [candidate.verdict] if candidate.verdict else []
    return ", ".join([*notes, *_flags(candidate)])


def _flags(candidate: Candidate) -> list[str]:
    """The verdicts on it that are not `ok`."""
    return sorted({report.verdict.value for report in candidate.reports.values()} - {"ok"})


def winner_lines(ranking: Ranking) -> list[str]:
    """The best by test and by val, the gap between them, and how far to trust it."""
    lines = []
    for split in ("test", "val"):
        if split not in ranking.splits:
            lines.append(f"best by {split:4}: not known, run.toml names no {split}")
            continue
        winner = ranking.best(split)
        if winner is None:
            lines.append(f"best by {split}: none, no epoch has a score on {split}")
            continue
        figures = _figures(winner, split)
        interval = interval_words(figures.get("miou_low"), figures.get("miou_high"))
        noise = "" if interval == "-" else f" (95 %: {interval} over {winner.reports[split].images} images)"
        beside = f"; test mIoU {percent(winner.miou('test'))}" if split == "val" else ""
        lines.append(
            f"best by {split:4}: epoch {winner.epoch}, {split} mIoU {percent(winner.miou(split))}{noise}{beside}: "
            f"{winner.file}{_doubt(ranking, winner, split)}"
        )
    return [*lines, *_gap_lines(ranking)]


def _doubt(ranking: Ranking, winner: Candidate, split: str) -> str:
    """Behind a winner that is none: the best of epochs that all predict one class says nothing about learning."""
    verdict = winner.reports[split].verdict
    if verdict is Verdict.OK:
        return ""
    scored = [candidate.reports[split] for candidate in ranking.in_order(split)]
    alike = len(scored) > 1 and all(report.verdict is verdict for report in scored)
    return f" ({verdict.value}: it predicts one class everywhere{', as every epoch here does' if alike else ''})"


def _gap_lines(ranking: Ranking) -> list[str]:
    gap, found = ranking.gap, ranking.difference
    if gap is None:
        return []
    if ranking.best("test") is ranking.best("val"):
        return ["gap: none, val and test choose the same epoch"]
    words = f"gap: choosing by val gives away {100 * gap:.2f} points of test mIoU"
    if found is not None:
        words += f" (95 %: {100 * found.low:+.2f} to {100 * found.high:+.2f})"
        words += ": no difference that this test set can show" if found.low <= 0 <= found.high else ""
    return [words, f"{CAVEAT}."]


def left_out_lines(ranking: Ranking) -> list[str]:
    """What has no score and why; warnings that stand with scores."""
    lines = []
    if ranking.left_out:
        them = "it" if len(ranking.left_out) == 1 else "them"
        lines.append(f"\n{_count(len(ranking.left_out), 'file')} left out, and nothing of {them} was executed:")
        lines += [f"  {candidate.why_not}" for candidate in ranking.left_out]
    lines += _messages(ranking)
    if ranking.waiting:
        lines.append(f"\n{_count(len(ranking.waiting), 'file')} not scored yet; the same command goes on")
    if ranking.not_looked_at:
        names = ", ".join(ranking.not_looked_at[:5])
        more = f" and {len(ranking.not_looked_at) - 5} more" if len(ranking.not_looked_at) > 5 else ""
        lines.append(f"\nnot looked at, since they are not named checkpoint_epochN.pth: {names}{more}")
    return lines


def _messages(ranking: Ranking) -> list[str]:
    """Every message of a report once, with the epochs that it holds for."""
    found: dict[str, list[str]] = {}
    for candidate in ranking.candidates:
        by_message: dict[str, list[str]] = {}
        for split, report in candidate.reports.items():
            by_message.setdefault(report.message, []).append(split)
        for message, splits in by_message.items():
            where = "" if len(splits) == len(candidate.reports) else f" ({splits[0]})"
            found.setdefault(message, []).append(f"{candidate.epoch}{where}")
    found.pop("", None)
    return [
        f"note on {'every epoch' if len(epochs) == ranking.scored > 1 else _epochs(epochs)}: {message}"
        for message, epochs in found.items()
    ]


def _epochs(found: Sequence[str]) -> str:
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return f"epoch {shown}" if len(found) == 1 else f"epochs {shown}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
