"""PURE: which scores compare. Scores of one split are a series as long as its files hold the same.

Knows fingerprints, not files. A change is known because a person accepted it, or, where a run of an older release froze
no files, because a score bears another fingerprint than the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .events import AcceptedSplit, DataAccepted, ScoreRecorded

if TYPE_CHECKING:
    from .members import Epoch


@dataclass(frozen=True)
class DataChange:
    """The files of a split are others from here on."""

    split: str
    first: int
    """The first epoch that is scored on the new files."""
    before: str
    after: str
    """Fingerprints; `before` is empty where nobody knows it."""
    accepted: AcceptedSplit | None
    """With the names of the files; `None` where a score was the first to tell."""


class Series:
    """The fingerprints that scores bear now, by split, and the changes that led to them."""

    def __init__(self) -> None:
        self.changes: list[DataChange] = []
        self.begun = 1
        """How many series of scores there were; files of train begin none."""
        self.settled = 0
        """How many of them a run has come to its end with."""
        self._now: dict[str, str] = {}
        self._changed: set[str] = set()
        """Splits that were changed: of these, a score without a fingerprint is an old one."""

    def now(self, split: str) -> str | None:
        """`None` while no score and no person has told."""
        return self._now.get(split)

    def holds(self, epoch: Epoch, splits: Iterable[str]) -> bool:
        """Whether its figures on these splits compare with what is scored now. Where there is no figure, nothing does
        not compare.
        """
        scores = [epoch.scores[split] for split in splits if split in epoch.scores]
        return all(score.miou is None or self._is_of_now(score.split, score.data_fingerprint) for score in scores)

    def settle(self) -> None:
        self.settled = len(self.changes)

    def former(self, epoch: Epoch) -> tuple[str, ...]:
        """The splits on which its figures are of files that were changed since."""
        return tuple(split for split in epoch.scores if not self.holds(epoch, (split,)))

    def accept(self, event: DataAccepted, *, first: int) -> None:
        self.begun += any(told.split != "train" for told in event.splits)
        for told in event.splits:
            self._change(DataChange(told.split, first, told.before, told.after, told))

    def note(self, score: ScoreRecorded) -> bool:
        """Whether this score begins a new series."""
        told = score.data_fingerprint
        before = self._now.setdefault(score.split, told) if told else told
        if before == told:
            return False
        self.begun += 1
        self._change(DataChange(score.split, score.epoch, before, told, None))
        return True

    def _is_of_now(self, split: str, told: str) -> bool:
        return told == self._now.get(split, "") or (not told and split not in self._changed)

    def _change(self, change: DataChange) -> None:
        self._now[change.split] = change.after
        self._changed.add(change.split)
        self.changes.append(change)
