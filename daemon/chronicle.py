"""When things happened, folded beside the history: when a state began, and how fast epochs come. Knows no clock."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from .events import (
    AlertChanged,
    AlertState,
    AttemptStarted,
    DaemonStopped,
    EpochCommitted,
    Event,
    GaveUp,
    RunFinished,
    Severity,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PACED_EPOCHS = 12
"""As many of the last ones say how long an epoch takes: what an lr or a batch size before them did is past."""


class Chronicle:
    """As much as does not grow with the run."""

    def __init__(self) -> None:
        self.settled_at: float | None = None
        """When it finished or was given up last."""
        self.stopped_at: float | None = None
        self.started_at: float | None = None
        """When a worker last said that it trains."""
        self.eased_at: float | None = None
        """When an alert that made the run less than healthy was over last."""
        self._commits: deque[tuple[int, int, float]] = deque(maxlen=PACED_EPOCHS)

    def apply(self, moment: float, event: Event) -> None:
        match event:
            case RunFinished() | GaveUp():
                self.settled_at = moment
            case DaemonStopped():
                self.stopped_at = moment
            case AttemptStarted():
                self.started_at = moment
            case EpochCommitted():
                self._commits.append((event.attempt, event.epoch, moment))
            case AlertChanged(state=AlertState.RESOLVED) if event.severity is not Severity.INFO:
                self.eased_at = moment
            case _:
                pass

    @property
    def epoch_seconds(self) -> float | None:
        """From one commit to the next, the median: with what evaluation beside it costs. `None` until there are two."""
        return median(steps) if (steps := list(self._steps())) else None

    def _steps(self) -> Iterator[float]:
        """Only from an epoch to the next of the same attempt: a restart between them is no training."""
        for (attempt, epoch, before), (same, following, after) in pairwise(self._commits):
            if same == attempt and following == epoch + 1 and after > before:
                yield after - before
