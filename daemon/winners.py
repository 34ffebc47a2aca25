"""PURE: the best epoch on each split, among those whose scores compare. Knows no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import GapMeasured
    from .members import Epoch
    from .series import Series


@dataclass
class Best:
    """The epoch with the highest mIoU on one split."""

    epoch: Epoch
    miou: float


class Winners:
    """By split. A winner stays until it is beaten, or until anything is scored on files that were changed since."""

    def __init__(self, series: Series, splits: Sequence[str]) -> None:
        self.best: dict[str, Best] = {}
        self.gap: GapMeasured | None = None
        """What was measured last, of whichever winners."""
        self._series = series
        self._splits = splits

    def standing(self, split: str) -> Best | None:
        """The winner whose scores compare with those of now."""
        best = self.best.get(split)
        return best if best is not None and self._series.holds(best.epoch, self._splits) else None

    def measured_gap(self) -> GapMeasured | None:
        """Of the two winners of now; `None` while it was not looked for."""
        by_test, by_val = self.best.get("test"), self.best.get("val")
        if self.gap is None or by_test is None or by_val is None:
            return None
        measured, wanted = (self.gap.by_test, self.gap.by_val), (by_test.epoch.key, by_val.epoch.key)
        return self.gap if measured == wanted else None

    def compete(self, epoch: Epoch, everyone: Iterable[Epoch]) -> None:
        """Once all its scores are known, so that the winners can be compared at any moment."""
        if any(best.epoch is epoch for best in self.best.values()):  # it won with figures that it has no more
            self.choose(everyone)
            return
        for split in self._splits:
            miou, best = epoch.miou(split), self.standing(split)
            if miou is not None and (best is None or miou > best.miou):
                self.best[split] = Best(epoch, miou)

    def choose(self, everyone: Iterable[Epoch]) -> None:
        """Anew, because a winner may be gone. Without a score on the files of now, by those of before."""
        sound = [epoch for epoch in everyone if epoch.scored and epoch.moved != "quarantined"]
        pool = [epoch for epoch in sound if self._series.holds(epoch, self._splits)] or sound
        self.best.clear()
        for split in self._splits:
            scored = [(miou, epoch) for epoch in pool if (miou := epoch.miou(split)) is not None]
            if scored:
                miou, epoch = max(scored, key=lambda one: one[0])  # of equals the first
                self.best[split] = Best(epoch, miou)
