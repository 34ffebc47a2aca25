"""`segwatch compare A B`: which of two runs is better, how sure that is, and what was different. Read-only.

Scores compare only on the same images with the same truth: where the test sets differ, it says so and compares none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import SegwatchError, UsageError
from ..evaluator.statistics import Difference, difference
from .config import changed_keys
from .evaluations import counts_of
from .freezing import frozen_config
from .history import History
from .members import Epoch
from .rundir import RunDir
from .store import read_events

SPLITS = ("test", "val")
OTHER_TRUTH = (
    "the same files, but their pixels count otherwise: another scale or resolution, other merged or ignored ids"
)


@dataclass(frozen=True)
class Winner:
    """The best epoch of a run on one split."""

    epoch: int
    attempt: int
    miou: float
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True)
class ClassRow:
    """IoU of one class on test, at the best epoch by test of each run; `None` where there is none."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class SplitRow:
    """What both runs reached on one split, and b - a over the same images; `None` where that is not known."""

    split: str
    a: Winner | None
    b: Winner | None
    difference: Difference | None
    why_not: str
    """Why the two scores do not compare; empty where they do."""


@dataclass(frozen=True)
class Course:
    """How a run went."""

    epochs: int
    wanted: int
    attempts: int
    incidents: dict[str, int]
    """By cause."""
    training_seconds: float | None
    """With a worker at work."""
    seconds: float | None
    """From its first fact to its last."""
    end: str


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    splits: tuple[SplitRow, ...]
    classes: tuple[ClassRow, ...]
    settings: dict[str, tuple[Any, Any]]
    settings_unknown: str
    """Why the settings could not be compared."""
    courses: tuple[Course, Course]


def compare(a: RunDir, b: RunDir) -> Comparison:
    """Raises SegwatchError where one of them is no run, or both are the same."""
    if a.path == b.path:
        raise UsageError("both are the same run", where=a.path, remedy="name two runs: segwatch list")
    histories = History.of(read_events(a.path)), History.of(read_events(b.path))
    splits = tuple(_split(split, (a, b), histories) for split in SPLITS)
    settings, unknown = _settings(a, b)
    return Comparison(
        a=a.path.name if a.path.name != b.path.name else str(a.path),
        b=b.path.name if a.path.name != b.path.name else str(b.path),
        splits=splits,
        classes=() if splits[0].why_not else tuple(_classes(*histories)),
        settings=settings,
        settings_unknown=unknown,
        courses=(_course(histories[0]), _course(histories[1])),
    )


def as_json(found: Comparison) -> dict[str, Any]:
    """Differences are b - a, fractions of 1. Unknown is null."""
    told = asdict(found)
    for row in told["splits"]:
        row["comparable"] = not row["why_not"]
    for row in told["classes"]:
        row["difference"] = None if row["a"] is None or row["b"] is None else row["b"] - row["a"]
    told["settings"] = {key: {"a": old, "b": new} for key, (old, new) in found.settings.items()}
    return told


def _split(split: str, runs: tuple[RunDir, RunDir], histories: tuple[History, History]) -> SplitRow:
    epochs = [history.best[split].epoch if split in history.best else None for history in histories]
    first, second = epochs
    if first is None or second is None:
        return SplitRow(split, _winner(first, split), _winner(second, split), None, _nothing_yet(epochs, runs))
    why_not = _why_not(split, (first, second), histories)
    measured = None
    if not why_not:
        counts = counts_of(runs[0].path, first, split), counts_of(runs[1].path, second, split)
        if counts[0] is not None and counts[1] is not None:
            measured = difference(counts[0], counts[1])
            why_not = "" if measured else OTHER_TRUTH
    return SplitRow(split, _winner(first, split), _winner(second, split), measured, why_not)


def _nothing_yet(epochs: Sequence[Epoch | None], runs: Sequence[RunDir]) -> str:
    without = [run.path.name for run, epoch in zip(runs, epochs, strict=True) if epoch is None]
    return f"no score yet in {' and '.join(without)}"


def _why_not(split: str, epochs: tuple[Epoch, Epoch], histories: tuple[History, History]) -> str:
    """Nothing where both were scored on the same files for the same classes."""
    names = [history.created.class_names if history.created else () for history in histories]
    if names[0] != names[1]:
        return f"other classes: {_only(*names)}"
    prints = [epoch.scores[split].data_fingerprint for epoch in epochs]
    if not all(prints):
        return f"an older release scored one of them: whether the {split} files are the same is not known"
    if prints[0] != prints[1]:
        counts = [epoch.scores[split].images for epoch in epochs]
        what = f"{counts[0]} and {counts[1]} images" if counts[0] != counts[1] else "the same number of images"
        return f"other {split} images, masks or scale ({what})"
    return ""


def _only(a: Sequence[str], b: Sequence[str]) -> str:
    told = [f"only in {name}: {', '.join(only)}" for name, only in _each_only(a, b) if only]
    return "; ".join(told) or "in another order"


def _each_only(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    yield "a", [name for name in a if name not in b]
    yield "b", [name for name in b if name not in a]


def _winner(epoch: Epoch | None, split: str) -> Winner | None:
    score = None if epoch is None else epoch.scores[split]
    if epoch is None or score is None or score.miou is None:
        return None
    return Winner(epoch.epoch, epoch.attempt, score.miou, score.miou_low, score.miou_high, score.images)


def _classes(a: History, b: History) -> Iterator[ClassRow]:
    """The class that differs most first."""
    first, second = a.best.get("test"), b.best.get("test")
    if first is None or second is None or a.created is None:
        return
    ious = (first.epoch.scores["test"].class_iou, second.epoch.scores["test"].class_iou)
    rows = [ClassRow(*row) for row in zip(a.created.class_names, *ious, strict=False)]
    yield from sorted(rows, key=lambda row: abs((row.b or 0.0) - (row.a or 0.0)), reverse=True)


def _settings(a: RunDir, b: RunDir) -> tuple[dict[str, tuple[Any, Any]], str]:
    try:
        return dict(sorted(changed_keys(frozen_config(a), frozen_config(b)).items())), ""
    except SegwatchError as error:
        return {}, str(error.what)


def _course(history: History) -> Course:
    spans = [
        (attempt.ended_at or history.last_at or attempt.spawned_at) - attempt.spawned_at
        for attempt in history.attempts
        if attempt.spawned_at is not None
    ]
    begun, last = history.created_at, history.last_at
    return Course(
        epochs=len(history.lineage()),
        wanted=history.epochs_wanted,
        attempts=len(history.attempts),
        incidents=dict(Counter(incident.opened.cause.value for incident in history.incidents)),
        training_seconds=sum(spans) if spans else None,
        seconds=None if begun is None or last is None else last - begun,
        end="gave up" if history.gave_up else "finished" if history.finished else "not finished",
    )
