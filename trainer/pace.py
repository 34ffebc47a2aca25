"""How fast the steps come, and their mean loss, for the progress line. Knows nothing about what a step is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

REMEMBERED_STEPS = 512


@dataclass(frozen=True)
class Told:
    """Since the last time it was asked for."""

    loss: float | None
    """Mean over the steps; `None` where there was none."""
    images_per_second: float
    """While stepping: time spent on saving is no step's time. Without a step, what it was before."""
    p99_step_seconds: float
    """Over the last few hundred steps."""


class Pace:
    """Between `begin` and `end` lies one step."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._began = self._told_at = clock()
        self._stand_in = self._rate = 0.0
        self._images = 0
        self._spent = 0.0
        self._losses: list[float] = []

    def begin(self) -> None:
        self._began = self._clock()

    def end(self, *, images: int, counts: bool) -> None:
        """`counts` is False for a first step, whose warming up says nothing about the next: it stands in until then."""
        seconds = self._clock() - self._began
        if counts:
            self._seconds.append(seconds)
        else:
            self._stand_in = seconds
        self._spent += seconds
        self._images += images

    def note_loss(self, loss: float) -> None:
        if math.isfinite(loss):
            self._losses.append(loss)

    @property
    def untold(self) -> bool:
        """Whether a step or a loss came since the last telling. On a GPU the last losses come after their steps."""
        return bool(self._images or self._losses)

    def since_told(self) -> float:
        return self._clock() - self._told_at

    def tell(self) -> Told:
        """The figures so far; counting begins anew."""
        self._rate = self._images / self._spent if self._spent else self._rate
        told = Told(
            loss=math.fsum(self._losses) / len(self._losses) if self._losses else None,
            images_per_second=self._rate,
            p99_step_seconds=self._p99(),
        )
        self._told_at = self._clock()
        self._images, self._spent = 0, 0.0
        self._losses.clear()
        return told

    def _p99(self) -> float:
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else self._stand_in
