"""Which checkpoint of a run is meant: the best by a split, an epoch, or a file.

Knows nothing about what it is used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CorruptCheckpointError, UsageError
from ..evaluator.inspection import UnfitError, opened, sha256_of
from ..evaluator.report import Request
from .history import History
from .members import SCORED_SPLITS, AnyScore, Epoch
from .rundir import RunDir
from .store import read_events
from .words import figure


@dataclass(frozen=True)
class Wish:
    """What a person asked for: at most one of the three; none of them is the best by test."""

    by: Literal["val", "test"] | None = None
    epoch: int | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for two answers to one question."""
        given = {"--by": self.by, "--epoch": self.epoch, "--checkpoint": self.file}
        named = [option for option, value in given.items() if value is not None]
        if len(named) > 1:
            raise UsageError(
                f"{' and '.join(named)} name different checkpoints", remedy="leave all but one of them out"
            )


@dataclass(frozen=True)
class Choice:
    """One checkpoint, and what is known of it."""

    request: Request
    path: Path
    """Of its weights."""
    why: str
    """`best by test`, `epoch 3`, `the file FILE`."""
    epoch: Epoch | None
    """`None` for a file that is no epoch of this run."""

    @property
    def words(self) -> str:
        """In one line, with its mIoU."""
        if self.epoch is None:
            return f"{self.path}: no epoch of this run, its mIoU is not known"
        told = [f"{split} mIoU {figure(score)}" for split, score in self._scores() if score.miou is not None]
        which = f"epoch {self.epoch.epoch} of attempt {self.epoch.attempt}"
        named = f"{which}, {self.why}" if self.why not in which else which
        return f"{named}: {'; '.join(told) or 'without a score'}"

    @property
    def figures(self) -> dict[str, Any]:
        """For `--json`. Unknown is null."""
        scores = dict(self._scores())
        return {
            "path": str(self.path),
            "sha256": self.request.sha256,
            "why": self.why,
            "attempt": self.epoch and self.epoch.attempt,
            "epoch": self.epoch and self.epoch.epoch,
            **{f"{split}_miou": scores[split].miou if split in scores else None for split in SCORED_SPLITS},
        }

    def _scores(self) -> Sequence[tuple[str, AnyScore]]:
        """The one that it was chosen by comes first."""
        known = {} if self.epoch is None else self.epoch.scores
        return sorted(known.items(), key=lambda score: (score[0] not in self.why, score[0] != "test"))


def choose(run: RunDir, wish: Wish) -> Choice:
    """Raises UsageError where the run has no such checkpoint, CorruptCheckpointError for a file that cannot be read."""
    history = History.of(read_events(run.path))
    if wish.file is not None:
        return _file(run, history, wish.file)
    if wish.epoch is not None:
        return _own(run, _epoch(history, wish.epoch), f"epoch {wish.epoch}")
    split = wish.by or "test"
    best = history.best.get(split)
    if best is None:
        raise UsageError(
            f"no epoch of this run has a score on {split} yet",
            where=run.path,
            remedy=f"{_there(history)}: --epoch takes one without a score, `segwatch evaluate` scores them",
        )
    return _own(run, best.epoch, f"best by {split}")


def _own(run: RunDir, epoch: Epoch, why: str) -> Choice:
    request = Request(manifest=epoch.manifest, attempt=epoch.attempt, epoch=epoch.epoch, sha256=epoch.sha256, splits=())
    return Choice(request, run.path / epoch.weights, why, epoch)


def _epoch(history: History, number: int) -> Epoch:
    """The latest of that number: a roll-back moves the earlier one away before another takes its name."""
    found = [e for _, e in sorted(history.epochs.items()) if e.epoch == number and e.moved != "quarantined"]
    if not found:
        raise UsageError(f"this run has no epoch {number}", remedy=_there(history))
    return found[-1]


def _there(history: History) -> str:
    numbers = sorted({epoch.epoch for epoch in history.epochs.values() if epoch.moved != "quarantined"})
    if not numbers:
        return "no epoch was committed yet"
    last = f" to {numbers[-1]}" if len(numbers) > 1 else ""
    return f"committed so far: epoch {numbers[0]}{last}"


def _file(run: RunDir, history: History, path: Path) -> Choice:
    """A file of this very run is that epoch; anything else is a foreign state dict."""
    try:
        with opened(path) as file:
            sha256 = sha256_of(file)
    except FileNotFoundError as error:
        raise UsageError(
            "this checkpoint is not there", where=path, remedy=f"name a file, or an epoch by --epoch; {_there(history)}"
        ) from error
    except (UnfitError, OSError) as error:
        raise CorruptCheckpointError(f"this checkpoint {error}", where=path) from error
    own = [epoch for epoch in history.epochs.values() if epoch.sha256 == sha256 and epoch.moved != "quarantined"]
    why = f"the file {path.name}"
    if own and (run.path / own[-1].manifest).exists():
        return _own(run, own[-1], why)
    request = Request(manifest=str(path.absolute()), attempt=0, epoch=0, sha256=sha256, splits=(), foreign=True)
    return Choice(request, path.absolute(), why, None)
