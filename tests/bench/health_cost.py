"""What watching costs: the checks as a share of the very step that they are part of, and what an incident leaves.

On the CPU, in this process. The checks are paired by nature, since both are of one step; what the machine does besides
slows both. Counted are the flag over all weights and buffers, the way of the figures to the host, and the judgement.
The gradient norm is not: clipping needs it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

from segwatch.trainer import loop
from segwatch.trainer.contract import JOURNAL, AttemptSpec, Drill
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


@dataclass(frozen=True)
class Bundle:
    """What a worker leaves of an incident, and how long it takes it once its last step is taken."""

    milliseconds: float
    megabytes: float


def measure_bundle(run_dir: Path, *, times: int = 5) -> Bundle:
    """The median of `times` incidents of that run's first attempt, in its third step."""
    taken, sizes = [], []
    leave = loop.incident.leave

    def timed(*arguments: Any, **named: Any) -> Path:
        began = time.perf_counter()
        directory = leave(*arguments, **named)
        taken.append(1e3 * (time.perf_counter() - began))
        sizes.append(sum(path.stat().st_size for path in directory.iterdir()) / 1e6)
        return directory

    for _ in range(times):
        with _beside(run_dir, drills=(Drill.parse("nan-loss@3"),)) as spec, patch.object(loop.incident, "leave", timed):
            journal = Journal(spec.directory / JOURNAL)
            loop.train(spec, journal)
            journal.close()
    return Bundle(median(taken), median(sizes))


@contextmanager
def _beside(run_dir: Path, *, drills: tuple[Drill, ...] = ()) -> Iterator[AttemptSpec]:
    """The settings of that run's first attempt in a place of its own, from the beginning."""
    text = (run_dir / "attempts" / "001" / "spec.json").read_bytes()
    with tempfile.TemporaryDirectory() as place:
        spec = AttemptSpec.model_validate_json(text).model_copy(
            update={"run_dir": Path(place), "epochs": 1000, "drills": drills, "resume_from": None}
        )
        spec.directory.mkdir(parents=True)
        (Path(place) / "checkpoints").mkdir()
        shutil.copy(run_dir / spec.data_lock, Path(place) / spec.data_lock)
        yield spec


def measure_health_cost(run_dir: Path) -> Cost:
    """Trains on with the settings of that run's first attempt, from the beginning, for STEPS steps."""
    clock = _Clock()
    with _beside(run_dir) as spec, ExitStack() as patches:
        for owner, name in ((WatchedState, "finite"), (loop.Session, "_observe"), (Readback, "put")):
            patches.enter_context(patch.object(owner, name, clock.check(getattr(owner, name))))
        patches.enter_context(patch.object(loop.Session, "_step", clock.step(loop.Session._step)))
        journal = Journal(spec.directory / JOURNAL)
        loop.train(spec, journal, stop=lambda: len(clock.shares) >= WARM_UP + STEPS)
        journal.close()
    counted = clock.shares[WARM_UP:]
    return Cost(median(counted), mean(counted), len(counted))
