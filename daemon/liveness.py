"""PURE: is the worker getting on? Judged by steps, never by a heartbeat, within the budget of the phase it is in.

Time comes in as `now`, from a monotonic clock: a jump of the wall clock makes nobody late.
"""

from __future__ import annotations

from ..trainer.contract import CheckpointLine, JournalLine, Phase, Progress, Started
from .config import WatchConfig

P99_FACTOR = 6.0


class Liveness:
    """What one worker is doing, and since when it has not got on."""

    def __init__(self, config: WatchConfig, now: float) -> None:
        self._config = config
        self._since = now
        self._step = -1
        self._p99_seconds = 0.0
        self.phase = "loading"

    def observe(self, line: JournalLine, now: float) -> None:
        match line:
            case Progress():
                self._p99_seconds = line.p99_step_seconds
                if self.phase in {"loading", "first-step"}:  # loading: a daemon that adopted it missed the phase line
                    self.phase = "training"
                if line.step > self._step:
                    self._step, self._since = line.step, now
            case Phase():
                self.phase, self._since = line.phase, now
            case Started() | CheckpointLine():
                self._since = now

    @property
    def budget_seconds(self) -> float:
        match self.phase:
            case "loading":
                return self._config.loading_seconds
            case "first-step":
                return self._config.first_step_seconds
            case "saving":
                return self._config.saving_seconds
            case _:
                return max(self._config.hang_floor_seconds, P99_FACTOR * self._p99_seconds)

    def overdue(self, now: float) -> str | None:
        """Why the worker counts as hung, or `None` while it is within its budget."""
        waited = now - self._since
        if waited <= self.budget_seconds:
            return None
        where = f"after step {self._step}" if self._step >= 0 else "before its first step"
        return f"no progress for {waited:.0f} s in phase {self.phase!r} {where} (budget {self.budget_seconds:.0f} s)"
