"""Writes the worker's journal, and knows how far the worker came. Knows nothing about who reads it; no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..durable import LineLog
from .contract import ExitCode, Finished, JournalLine, Phase, Progress, Trouble


@dataclass
class Reached:
    """How far the run is, and whether this attempt moved it."""

    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Completed optimizer steps."""
    stepped: bool = False


class Journal:
    """Appends whole JSON lines. All but `phase` and `progress` are on the disk when `write` returns."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.reached = Reached()
        self.now = clock
        self.told_fatal = False
        """Whether a fatal trouble stands in it."""
        # One file, two descriptors: progress is not worth a flush a second, the rest must survive a power cut.
        self._quick = LineLog(path, fsync=False, follow=True)
        self._durable = LineLog(path, fsync=True, follow=True)

    def write(self, line: JournalLine) -> None:
        log = self._quick if isinstance(line, Phase | Progress) else self._durable
        log.append(line.model_dump_json())
        if isinstance(line, Trouble) and line.fatal:
            self.told_fatal = True

    def finished(self, code: ExitCode) -> None:
        """The last line: the exit code by its name."""
        outcome = code.name.lower().replace("_", "-")
        facts = {"time": self.now(), "outcome": outcome, "epoch": self.reached.epoch, "step": self.reached.step}
        self.write(Finished.model_validate(facts))

    def close(self) -> None:
        self._quick.close()
        self._durable.close()
