"""Brings the trials of a run forward: records what they have come to, says when a worker has to leave for a change.

What is on trial is `probation`'s to judge and what is taken back or put back is `undoing`'s; both are pure. An attempt
has one set of settings, so a change of them wants another attempt: the worker saves and leaves, the next one goes on.
"""

from __future__ import annotations

from .config import RunConfig
from .history import History
from .policy import Settings
from .probation import Probations
from .recording import Recorder
from .undoing import Change, to_put_back, to_undo

PARTING = "parting"
"""Note of the attempt whose worker was asked to leave for a change: its end is no incident."""


class Trials:
    def __init__(self, config: RunConfig, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._probations = Probations(config.recovery)
        self._newest: tuple[int, int] | None = None
        """The epoch that stood last when it was looked before; `None` before the first look."""

    @property
    def history(self) -> History:
        return self._recorder.history

    @property
    def wished(self) -> Settings:
        """What a person has configured."""
        trainer = self._config.trainer
        return Settings(trainer.lr, trainer.amp, trainer.batch_size, trainer.accumulate)

    def settle(self) -> None:
        """Record each trial that is decided, once."""
        for ended in self._probations.ended(self.history):
            self._recorder.record(ended)

    def settle_at_the_end(self) -> None:
        for ended in self._probations.at_the_end(self.history):
            self._recorder.record(ended)

    def change(self) -> Change | None:
        """What the next attempt does otherwise, should it be planned now."""
        return to_put_back(self.history) or to_undo(self.history, self.wished, self._config.recovery)

    def worker_has_to_leave(self) -> str | None:
        """Why, in words. To put a remedy back it leaves at once, to take one back only at the beginning of an epoch."""
        line = self.history.lineage()
        newest, known = line[-1].key if line else (0, 0), self._newest
        self._newest = newest
        back = to_put_back(self.history)
        if back is not None:
            return back.because
        if known is None or newest == known:
            return None
        undo = to_undo(self.history, self.wished, self._config.recovery)
        return None if undo is None else undo.because

    def part(self, attempt: int) -> None:
        """Note it before the worker is asked."""
        self._recorder.note(PARTING, str(attempt))

    def parts(self, attempt: int) -> bool:
        return self._recorder.noted(PARTING) == str(attempt)
