"""PURE: the epochs that stand, in numeric order, and the test scores among them. Knows no file and no fact."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .members import Epoch
    from .series import Series


class Line:
    """What no roll-back and no quarantine has moved away.

    Both lists are kept up: neither a new epoch nor a roll-back costs more late in a long run than early.
    """

    def __init__(self, series: Series) -> None:
        self.epochs: list[Epoch] = []
        self._series = series
        self._scored: list[tuple[Epoch, float]] = []
        self._stale_from: int | None = None
        """The epoch from which on `_scored` is to be put together anew, once it is asked for."""
        self._rewrites: list[int] = []
        """From which epoch on the scores changed, each time that they did not just grow at their end."""

    def add(self, epoch: Epoch) -> None:
        insort(self.epochs, epoch, key=_number)

    def remove(self, epoch: Epoch) -> None:
        place = bisect_left(self.epochs, epoch.epoch, key=_number)
        while self.epochs[place] is not epoch:  # another attempt's of the same number, that has yet to be moved
            place += 1
        del self.epochs[place]
        self.rewrite(epoch.epoch)

    def score(self, epoch: Epoch, miou: float, *, again: bool) -> None:
        """A standing epoch has been given a test mIoU."""
        scored = self._scored
        if again or self._stale_from is not None or (scored and epoch.epoch <= scored[-1][0].epoch):
            self.rewrite(epoch.epoch)
        else:
            scored.append((epoch, miou))

    def rewrite(self, begin: int) -> None:
        """From this epoch on the scores are others."""
        self._stale_from = begin if self._stale_from is None else min(begin, self._stale_from)
        self._rewrites.append(begin)

    def scored(self) -> Sequence[tuple[Epoch, float]]:
        """Those with a test mIoU on the files as they are now. A roll-back moves many at once, so what changed is put
        together when it is asked for.
        """
        if self._stale_from is not None:
            del self._scored[bisect_left(self._scored, self._stale_from, key=lambda one: one[0].epoch) :]
            changed = self.epochs[bisect_left(self.epochs, self._stale_from, key=_number) :]
            known = ((epoch, epoch.miou("test")) for epoch in changed if self._series.holds(epoch, ("test",)))
            self._scored.extend((epoch, miou) for epoch, miou in known if miou is not None)
            self._stale_from = None
        return self._scored

    @property
    def rewritten(self) -> int:
        """How often the scores have changed in another way than growing at their end."""
        return len(self._rewrites)

    def unchanged_below(self, rewritten: int) -> int | None:
        """The epoch below which the scores are what they were at this count; `None` where all of them are."""
        return min(self._rewrites[rewritten:], default=None)


def _number(epoch: Epoch) -> int:
    return epoch.epoch
