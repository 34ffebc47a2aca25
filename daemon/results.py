"""results.csv and the best_*.pth links: the scores for other programs. Knows files, not how a score came to be."""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..durable import sync_directory, write_text
from .events import EpochMoved, Event, RescoreWanted, ScoreRecorded
from .history import History
from .members import SCORED_SPLITS, AnyScore
from .recording import Fact

log = logging.getLogger(__name__)
COLUMNS = (
    "attempt",
    "epoch",
    "split",
    "miou",
    "fwiou",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_dice",
    "images",
    "seconds",
    "verdict",
    "checkpoint_sha256",
    "miou_low",
    "miou_high",
    "skipped_images",
    "data_fingerprint",
)
"""New ones come last: programs that count columns go on working."""


class ResultsFile:
    """results.csv: one row per attempt, epoch, split and data. Written whole once, then only appended to."""

    def __init__(self, run_dir: Path, history: History) -> None:
        self._path = run_dir / "results.csv"
        self._history = history
        self._written: set[tuple[int, int, str, str]] = set()
        self._write_whole()

    def _write_whole(self) -> None:
        self._written.clear()
        epochs = [epoch for _, epoch in sorted(self._history.epochs.items())]
        rows = [score for epoch in epochs for score in (*epoch.former, *epoch.scores.values())]
        write_text(self._path, _line(COLUMNS) + "".join(self._row(score) for score in rows))

    def handle(self, moment: float, event: Event) -> None:
        del moment
        if isinstance(event, RescoreWanted) or not self._path.exists():
            self._write_whole()
        if isinstance(event, ScoreRecorded) and _key(event) not in self._written:
            row = self._row(event)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(row)
                file.flush()
                os.fsync(file.fileno())

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """Anew from the whole history: a row that the disk refused may be missing, or stand there in half."""
        del facts
        self._write_whole()

    def close(self) -> None:
        """Nothing is kept open."""

    def _row(self, score: AnyScore) -> str:
        self._written.add(_key(score))
        return _line([_cell(getattr(score, column)) for column in COLUMNS])


class BestFiles:
    """best_test.pth and best_val.pth: links to the winners' weights, always whole."""

    def __init__(self, run_dir: Path, history: History) -> None:
        self._run_dir = run_dir
        self._history = history
        self._link_all()

    def handle(self, moment: float, event: Event) -> None:
        del moment
        if isinstance(event, ScoreRecorded | EpochMoved):
            self._link_all()

    def _link_all(self) -> None:
        for split in SCORED_SPLITS:
            if split in self._history.best:
                self._link(split)
            else:  # the only winner there was is in quarantine
                (self._run_dir / f"best_{split}.pth").unlink(missing_ok=True)

    def catch_up(self, facts: Sequence[Fact]) -> None:
        del facts
        self._link_all()

    def close(self) -> None:
        """Nothing is kept open."""

    def _link(self, split: str) -> None:
        source = self._run_dir / self._history.best[split].epoch.weights
        target = self._run_dir / f"best_{split}.pth"
        if not source.exists():  # a move that a daemon did not live to record, or a person's doing
            log.warning("%s is not there: %s stays as it is", source, target.name)
            return
        if target.exists() and target.samefile(source):
            return
        temporary = self._run_dir / f".best_{split}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
        sync_directory(self._run_dir)


def _key(score: AnyScore) -> tuple[int, int, str, str]:
    return score.attempt, score.epoch, score.split, score.data_fingerprint


def _cell(value: object) -> str:
    """An unknown figure is an empty cell; a fraction keeps every digit."""
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _line(cells: tuple[str, ...] | list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
