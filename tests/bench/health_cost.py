"""What the health checks cost: their time in a step by the time of that very step, on the CPU, in this process.

Paired by nature, since both are of one step; what the machine does besides slows both. Counted are the flag over all
weights and buffers, the way of the figures to the host, and the judgement. The gradient norm is not: clipping needs it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

from segwatch.trainer import loop
from segwatch.trainer.contract import JOURNAL, AttemptSpec
from segwatch.trainer.health import Readback
from segwatch.trainer.journal import Journal
from segwatch.trainer.watched_state import WatchedState

WARM_UP = 20
STEPS = 500


@dataclass(frozen=True)
class Cost:
    """Share of a step that is spent on checks."""

    median: float
    mean: float
    steps: int


@dataclass
class _Clock:
    """Time in checks since the step began, and the share of each step that is over."""

    checks: float = 0.0
    shares: list[float] = field(default_factory=list)

    def check(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.checks += time.perf_counter() - began

        return timed

    def step(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self.checks, began = 0.0, time.perf_counter()
            call(*arguments, **named)
            self.shares.append(self.checks / (time.perf_counter() - began))

        return timed


def measure_health_cost(run_dir: Path) -> Cost:
    """Trains on with the settings of that run's first attempt, from the beginning, for STEPS steps."""
    text = (run_dir / "attempts" / "001" / "spec.json").read_bytes()
    clock = _Clock()
    with tempfile.TemporaryDirectory() as place, ExitStack() as patches:
        spec = AttemptSpec.model_validate_json(text).model_copy(
            update={"run_dir": Path(place), "epochs": 1000, "drills": (), "resume_from": None}
        )
        spec.directory.mkdir(parents=True)
        (Path(place) / "checkpoints").mkdir()
        shutil.copy(run_dir / spec.data_lock, Path(place) / spec.data_lock)
        for owner, name in ((WatchedState, "finite"), (loop.Session, "_observe"), (Readback, "put")):
            patches.enter_context(patch.object(owner, name, clock.check(getattr(owner, name))))
        patches.enter_context(patch.object(loop.Session, "_step", clock.step(loop.Session._step)))
        journal = Journal(spec.directory / JOURNAL)
        loop.train(spec, journal, stop=lambda: len(clock.shares) >= WARM_UP + STEPS)
        journal.close()
    counted = clock.shares[WARM_UP:]
    return Cost(median(counted), mean(counted), len(counted))
