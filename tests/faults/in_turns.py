"""A run in one process, told step by step: the words in which the tests of replays and trials are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segwatch.checkpoints.manifest import Role
from segwatch.daemon.events import AttemptPlanned
from segwatch.daemon.history import History
from segwatch.evaluator.report import Verdict
from segwatch.trainer.contract import Cause, ExitCode, Phase

from .in_process import SimDaemon, SimDiagnosis, World

TURNS = 50


class Night:
    """One run and the daemons that watch it, one after the other."""

    def __init__(self, place: Path, *, epochs: int = 12, extra: str = "") -> None:
        self.world = World(place / "x", epochs=epochs, extra=extra)
        self._patch = self.world.real()
        self._patch.__enter__()
        self.begin_daemon()
        self.until(lambda: self.world.worker is not None)

    def close(self) -> None:
        if self.world.daemon is not None:
            self.lose_daemon()
        self.world.close()
        self._patch.__exit__(None, None, None)

    @property
    def history(self) -> History:
        return self.world.daemon.history

    @property
    def plan(self) -> AttemptPlanned:
        return self.history.current.plan

    def tell(self, kind: type) -> list:
        return [event for _, event in self.world.recorded if isinstance(event, kind)]

    def begin_daemon(self) -> None:
        self.world.daemon = SimDaemon(self.world)

    def lose_daemon(self) -> None:
        daemon, self.world.daemon = self.world.daemon, None
        for process in (self.world.worker, self.world.diagnosis):
            if process is not None:
                process.tell = None
        daemon.vanish()

    def tick(self) -> None:
        self.world.now += 0.1
        self.world.daemon.tick()

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(TURNS):
            if holds():
                return
            self.tick()
        raise AssertionError("it did not come to hold")

    def trains(self, epochs: int = 1, miou: float = 0.5) -> None:
        """Each epoch committed and scored before the next, as far as the worker stays."""
        for _ in range(epochs):
            self.saves_an_epoch()
            self.scores(miou)
            if self.world.worker is not None and self.world.worker.complete:
                self.world.worker_leaves(ExitCode.FINISHED, "all epochs are complete")
                self.tick()
            self.until(lambda: self.world.worker is not None or self.over)

    def saves_an_epoch(self) -> None:
        worker = self.world.worker
        if not worker.begun:
            worker.begin()
        for _ in range(worker.steps_per_epoch - worker.step_in_epoch):
            worker.take_step()
        worker.epoch, worker.step_in_epoch = worker.epoch + 1, 0
        worker.commit(Role.EPOCH)
        worker.write(Phase(time=0.0, phase="training"))

    @property
    def over(self) -> bool:
        return self.world.daemon.exit_code is not None

    def scores(self, miou: float, verdict: Verdict = Verdict.OK) -> None:
        self.until(lambda: self.world.daemon.scorer.in_flight is not None)
        self.world.daemon.scorer.answers(self.world.run.path, miou, verdict)
        self.tick()
        self.tick()

    def meets_a_nan(self, *, leaves_batch: bool = True) -> None:
        worker = self.world.worker
        if not worker.begun:
            worker.begin()
        worker.take_step()
        worker.meets_a_nan(leaves_batch=leaves_batch)
        self.world.worker_leaves(ExitCode.UNSTABLE, "the loss became NaN", Cause.NAN_LOSS)
        self.tick()

    def replay(self) -> SimDiagnosis:
        """The one that runs, or that is about to."""
        self.until(lambda: self.world.diagnosis is not None)
        return self.world.diagnosis

    def is_found(self, finding: str, **more: object) -> None:
        """The replay ends with this, and the next attempt runs."""
        self.replay()
        self.world.diagnosis_finds(finding=finding, **more)
        self.until(lambda: self.world.worker is not None)
