"""PURE: which epoch was the last that was really better, and whether the scores still rise. Knows no file and no figure
but the mIoU of the epochs that stand.

"Really" means beyond the noise of the test set: two epochs are compared over the same images (`Gain`), and an interval
that holds 0 is no difference. Where the images were not counted, a fixed least difference is all there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import sqrt
from statistics import median

from .events import Gain
from .history import Epoch

Scored = tuple[Epoch, float]
"""An epoch and its test mIoU."""
LONGEST_WINDOW = 50
"""Scores that a rise is looked for in: every pair of them is compared."""
RISE_Z = 1.645
"""Of the normal distribution: one rise in twenty is chance."""


def reference(scored: Sequence[Scored], min_delta: float) -> Scored | None:
    """The last of these epochs, in their order, that was really better than the reference before it.

    The first one is where it begins. A reference that was lucky is hard to beat by luck again, so noise around a
    plateau makes a new one once or twice and then no more.
    """
    found: Scored | None = None
    for one in scored:
        if found is None or _really_better(one, found, min_delta):
            found = one
    return found


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


def stalled(scored: Sequence[Scored], patience: int, min_delta: float) -> bool:
    """Whether `patience` epochs went by without a really better one while the scores did not even rise.

    Once it is so, only a really better epoch ends it: a rise by chance later on does not.
    """
    found = reference(scored, min_delta)
    if found is None or scored[-1][0].epoch - found[0].epoch < patience:
        return False
    late = [place for place, (epoch, _) in enumerate(scored) if epoch.epoch - found[0].epoch >= patience]
    return any(not still_rises(scored[: place + 1], patience, min_delta) for place in late)


def still_rises(scored: Sequence[Scored], patience: int, min_delta: float) -> bool:
    """Whether the last scores go up beyond chance, by `min_delta` or more in `patience` epochs.

    Gains too small for any one epoch to be really better still add up. Beyond chance: Mann-Kendall, one-sided 5 %
    (Mann, 1945). How fast: the median of the slopes between all pairs (Sen, 1968), which one wild epoch does not move.
    Looked for only where the images were counted: a fixed least difference sees small gains add up by itself.
    """
    if scored[-1][0].scores["test"].gain is None:
        return False
    window = min(patience + patience // 2, LONGEST_WINDOW) + 1
    mious = [miou for _, miou in scored[-window:]]
    slopes = list(_slopes(mious))
    count = len(mious)
    surplus = sum((slope > 0) - (slope < 0) for slope in slopes)
    spread = sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return surplus - 1 > RISE_Z * spread and median(slopes) * patience >= min_delta


def _slopes(mious: Sequence[float]) -> Iterator[float]:
    for (i, before), (j, after) in combinations(enumerate(mious), 2):
        yield (after - before) / (j - i)
