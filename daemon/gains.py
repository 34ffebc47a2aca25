"""PURE: which epoch was the last that was really better, and whether the scores still rise. Knows no file and no figure
but the mIoU of the epochs that stand.

"Really" means beyond the noise of the test set: two epochs are compared over the same images (`Gain`), and an interval
that holds 0 is no difference. Where the images were not counted, a fixed least difference is all there is.

A line of epochs is folded one at a time, so that a new score costs the same after ten epochs and after ten thousand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property
from itertools import combinations
from math import sqrt
from statistics import median
from typing import Generic, Protocol, Self, TypeVar

from .events import Gain
from .history import History
from .members import Epoch

Scored = tuple[Epoch, float]
"""An epoch and its test mIoU."""
LONGEST_WINDOW = 50
"""Scores that a rise is looked for in: every pair of them is compared."""
HELD_IOU = 0.20
"""A class above this in two scores in a row is one that the network knows."""
GONE_IOU = 0.01
"""Below this it has forgotten it."""
BACK_IOU = 0.10
"""And above this it knows it again."""
COPIED_EVERY = 64
"""Scores between two states that a roll-back may go on from."""
RISE_Z = 1.645
"""Of the normal distribution: one rise in twenty is chance."""


class Reference:
    """The last epoch that was really better than the reference before it; the first one is where it begins.

    A reference that was lucky is hard to beat by luck again, so noise around a plateau makes a new one once or twice
    and then no more.
    """

    def __init__(self, min_delta: float) -> None:
        self._min_delta = min_delta
        self.count = 0
        self.found: Scored | None = None

    def copied(self) -> Self:
        return copy(self)

    def add(self, one: Scored) -> None:
        self.count += 1
        if self.found is None or _really_better(one, self.found, self._min_delta):
            self.found = one

    def over(self, scored: Sequence[Scored]) -> Self:
        for one in scored:
            self.add(one)
        return self


class ClassHeld:
    """What one class has come to: known, and perhaps forgotten."""

    def __init__(self) -> None:
        self.best: tuple[Epoch, float] | None = None
        """The first of its highest; only of a class that is known."""
        self._held = 0
        self.gone = 0
        """How many scores in which it was forgotten, since it was known last."""
        self.gone_since: Epoch | None = None

    def add(self, epoch: Epoch, iou: float) -> None:
        """A class that flickers between 0 and a little is neither known nor forgotten anew each time."""
        self._held = self._held + 1 if iou > HELD_IOU else 0
        if self._held >= 2 and (self.best is None or iou > self.best[1]):
            self.best = epoch, iou
        if self.best is not None and iou < GONE_IOU:
            self.gone, self.gone_since = self.gone + 1, self.gone_since or epoch
        elif iou >= BACK_IOU or self.gone < 2:
            self.gone, self.gone_since = 0, None


class Trend:
    """All that a line of scored epochs, in numeric order, says about where the scores go."""

    def __init__(self, *, patience: int, min_delta: float, collapse_drop: float = 1.0, split_gap: float = 1.0) -> None:
        self._patience = patience
        self._min_delta = min_delta
        self._collapse_drop = collapse_drop
        self._split_gap = split_gap
        self._reference = Reference(min_delta)
        self._window: deque[Scored] = deque(maxlen=_window(patience))
        self.best: Scored | None = None
        """The first of the highest."""
        self.best_since: Scored | None = None
        """The same among those after the reference."""
        self.rises = False
        """Whether the last scores go up; looked for from half the patience on."""
        self._flat = False
        """Whether they did not, once the patience was over."""
        self.low = 0
        """How many in a row, up to the last one, lie far below the best."""
        self.low_since: Epoch | None = None
        """The first of those."""
        self.classes: dict[int, ClassHeld] = {}
        """By position: the classes that were ever seen."""
        self.parting: tuple[float, float] | None = None
        """While val goes up and test goes down, both beyond chance: by how much in `patience` epochs."""
        self.single_class = 0
        """How many in a row, up to the last one, predict one class only."""

    @property
    def count(self) -> int:
        return self._reference.count

    @property
    def reference(self) -> Scored | None:
        return self._reference.found

    @property
    def latest(self) -> Epoch:
        return self._window[-1][0]

    @property
    def waited(self) -> int:
        """Epochs since the reference."""
        return 0 if self.reference is None else self.latest.epoch - self.reference[0].epoch

    @property
    def stalled(self) -> bool:
        """Whether `patience` epochs went by without a really better one while the scores did not even rise.

        Once it is so, only a really better epoch ends it: a rise by chance later on does not.
        """
        return self.waited >= self._patience and self._flat

    def copied(self) -> Self:
        """Goes on from here without this one."""
        other = copy(self)
        other._detach()  # noqa: SLF001 (of its own kind)
        return other

    def _detach(self) -> None:
        self._reference, self._window = self._reference.copied(), self._window.copy()
        self.classes = {place: copy(held) for place, held in self.classes.items()}

    def add(self, one: Scored) -> None:
        self._window.append(one)
        self._reference.add(one)
        self._wait_for_better(one)
        self._look_for_a_fall(one)
        self._look_for_lost_classes(one[0])
        self._look_for_a_parting()
        flagged = one[0].scores["test"].verdict == "single-class"
        self.single_class = self.single_class + 1 if flagged else 0

    def over(self, scored: Sequence[Scored]) -> Self:
        for one in scored:
            self.add(one)
        return self

    def _wait_for_better(self, one: Scored) -> None:
        miou = one[1]
        if self.reference is one:
            self.best_since, self._flat = None, False
        elif self.waited > 0 and (self.best_since is None or miou > self.best_since[1]):
            self.best_since = one
        looked = 2 * self.waited >= self._patience
        self.rises = looked and still_rises(self._window, self._patience, self._min_delta)
        self._flat = self._flat or (self.waited >= self._patience and not self.rises)

    def _look_for_a_fall(self, one: Scored) -> None:
        epoch, miou = one
        if self.best is None or miou > self.best[1]:
            self.best, self.low, self.low_since = one, 0, None
        elif epoch.epoch > self.best[0].epoch:
            floor = (1 - self._collapse_drop) * self.best[1]
            self.low = self.low + 1 if miou < floor else 0
            self.low_since = None if not self.low else self.low_since or epoch

    def _look_for_a_parting(self) -> None:
        """Once it is so, it stays until one of the two turns."""
        both = [(known, miou) for epoch, miou in self._window if (known := epoch.miou("val")) is not None]
        if len(both) < self._patience:
            self.parting = None
            return
        val, test = _Slopes([val for val, _ in both]), _Slopes([test for _, test in both])
        clear = val.surplus > val.chance and -test.surplus > test.chance
        if not clear and self.parting is None:
            return
        gains = self._patience * val.middle, self._patience * test.middle
        begins = clear and gains[0] >= self._min_delta and -gains[1] >= self._split_gap
        goes_on = self.parting is not None and gains[0] > 0 > gains[1]
        self.parting = gains if begins or goes_on else None

    def _look_for_lost_classes(self, epoch: Epoch) -> None:
        for place, iou in enumerate(epoch.scores["test"].class_iou):
            if iou is not None:
                self.classes.setdefault(place, ClassHeld()).add(epoch, iou)


class Fold(Protocol):
    @property
    def count(self) -> int: ...

    def add(self, one: Scored) -> None: ...

    def copied(self) -> Self: ...


FoldT = TypeVar("FoldT", bound=Fold)


class KeptUp(Generic[FoldT]):
    """A fold over the standing line of one history: new scores are added to it.

    After a roll-back it goes on from one of the copies that are kept on the way, so that it costs the same late in a
    long run as early.
    """

    def __init__(self, begin: Callable[[], FoldT]) -> None:
        self._fold = begin()
        self._rewritten = 0
        self._copies = [self._fold.copied()]
        """After every `COPIED_EVERY` scores, from none on."""

    def with_(self, history: History) -> FoldT:
        line = history.scored_lineage()
        if self._rewritten != history.rewritten:
            self._go_back(line, history.unchanged_below(self._rewritten))
            self._rewritten = history.rewritten
        for place in range(self._fold.count, len(line)):
            self._fold.add(line[place])
            if self._fold.count == COPIED_EVERY * len(self._copies):
                self._copies.append(self._fold.copied())
        return self._fold

    def _go_back(self, line: Sequence[Scored], begin: int | None) -> None:
        """To the last copy in which nothing from an epoch on was folded."""
        kept = len(line) if begin is None else bisect_left(line, begin, key=lambda scored: scored[0].epoch)
        if kept < self._fold.count:
            del self._copies[kept // COPIED_EVERY + 1 :]
            self._fold = self._copies[-1].copied()


def gain_over(epoch: Epoch, other: Epoch) -> Gain | None:
    """How the test score of one epoch stands to that of another, where just these two were compared."""
    score = epoch.scores.get("test")
    gain = None if score is None else score.gain
    return gain if gain is not None and (gain.against_attempt, gain.against_epoch) == other.key else None


def _really_better(one: Scored, than: Scored, min_delta: float) -> bool:
    gain = gain_over(one[0], than[0])
    if gain is None:
        return one[1] > than[1] + min_delta
    return gain.low > 0 and gain.difference >= min_delta


def still_rises(scored: Sequence[Scored], patience: int, min_delta: float) -> bool:
    """Whether the last scores go up beyond chance, by `min_delta` or more in `patience` epochs.

    Gains too small for any one epoch to be really better still add up. Beyond chance: Mann-Kendall, one-sided 5 %
    (Mann, 1945). How fast: the median of the slopes between all pairs (Sen, 1968), which one wild epoch does not move.
    Looked for only where the images were counted: a fixed least difference sees small gains add up by itself.
    """
    if scored[-1][0].scores["test"].gain is None:
        return False
    slopes = _Slopes([miou for _, miou in scored][-_window(patience) :])
    return slopes.surplus > slopes.chance and slopes.middle * patience >= min_delta


class _Slopes:
    """Between all pairs of some scores, per epoch."""

    def __init__(self, mious: Sequence[float]) -> None:
        self._mious, count = mious, len(mious)
        self.surplus = sum((after > before) - (after < before) for before, after in combinations(mious, 2))
        """Pairs that rise less those that fall."""
        self.chance = 1 + RISE_Z * sqrt(count * (count - 1) * (2 * count + 5) / 18)
        """What it reaches by chance, one-sided, in one of twenty."""

    @cached_property
    def middle(self) -> float:
        slopes = list(_slopes(self._mious))
        return median(slopes) if slopes else 0.0


def _window(patience: int) -> int:
    return min(patience + patience // 2, LONGEST_WINDOW) + 1


def _slopes(mious: Sequence[float]) -> Iterator[float]:
    for (i, before), (j, after) in combinations(enumerate(mious), 2):
        yield (after - before) / (j - i)
