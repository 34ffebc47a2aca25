"""The real supervisor, store, rules and policy in one process, around a worker and an evaluator that are objects.

Time is a number, a process is an entry in a dictionary, and a kill is an exception at a chosen point: hundreds of runs
fit into a minute. Files are real. Knows nothing of what is asserted about a run.
"""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from segwatch.checkpoints.manifest import Role
from segwatch.daemon import process, store
from segwatch.daemon.alerts import AlertLog
from segwatch.daemon.config import load_config
from segwatch.daemon.events import RunCreated
from segwatch.daemon.freezing import create
from segwatch.daemon.history import History
from segwatch.daemon.inbox import EvaluatorExited, EvaluatorSaid, Inbox
from segwatch.daemon.job import SpecWriter
from segwatch.daemon.process import Identity
from segwatch.daemon.recording import Recorder
from segwatch.daemon.results import BestFiles, ResultsFile
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.scorer import Scorer, spec_for
from segwatch.daemon.scoring import Scoring
from segwatch.daemon.screen import PlainScreen
from segwatch.daemon.store import Store, read_events
from segwatch.daemon.store import _insert as insert_row
from segwatch.daemon.supervisor import Supervisor
from segwatch.data.resolved import Pair
from segwatch.durable import write_text
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import Done, EvaluationReport, Ready, Request, Scored, Verdict, report_path
from segwatch.trainer.contract import AttemptSpec, Cause, ExitCode, Phase
from segwatch.trainer.diagnosis import DIAGNOSIS, DIAGNOSIS_SPEC, DiagnosisSpec

from ..daemon.conftest import CONFIG
from ..daemon.fake_diagnosis import answer_of
from ..daemon.fake_evaluator import matrix_with
from ..daemon.fake_worker import FakeWorker
from ..daemon.test_spec import DATA

FIRST_PID = 10_000_000
"""Above any that the system gives."""
TRAINED = tuple(Pair(image=f"{name}.png", mask=f"{name}.png") for name in "abcdef")


class Killed(BaseException):
    """The daemon is gone, at this very point."""


class SimWorker(FakeWorker):
    """A worker that does what it is told, one call at a time."""

    def __init__(self, spec: AttemptSpec, lock: int) -> None:
        super().__init__({"step_seconds": 0, "steps_per_epoch": 2}, spec)
        self.lock = lock
        self.hung = False
        self.tell: Callable[[int], None] | None = None
        self.begun = False

    def begin(self) -> None:
        self.begun = True
        self.started()
        if self.spec.resume_from is None:
            self.commit(Role.INITIAL)
        self.write(Phase(time=0.0, phase="first-step"))

    def meets_a_nan(self, *, leaves_batch: bool = True) -> None:
        """Whether what it left is enough to repeat the step."""
        self.scenario |= {"diagnosis": {}} if leaves_batch else {}
        self.trouble(Cause.NAN_LOSS, "the loss became NaN")

    @property
    def complete(self) -> bool:
        return self.epoch >= self.spec.epochs


@dataclass
class SimDiagnosis:
    """A replay that runs until it is told what it finds."""

    spec: DiagnosisSpec
    pid: int
    lock: int
    tell: Callable[[int], None] | None = None

    @property
    def place(self) -> Path:
        return self.spec.run_dir / self.spec.directory


@dataclass
class Disk:
    """Where the next write of the daemon goes wrong, and how."""

    full: str | None = None
    """`before` anything is written, `torn` in the middle of a line, `database` after the line was written."""

    def refuse(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class World:
    """The machine that a run lives on: processes, disk, clocks. It outlives every daemon."""

    def __init__(self, place: Path, *, epochs: int = 4, extra: str = "") -> None:
        place.mkdir(parents=True)
        source = place / "run.toml"
        source.write_text(CONFIG.format(epochs=epochs, amp="fp16", extra=extra))
        self.config = load_config(source)
        self.run = RunDir(place / "runs" / "run")
        create(self.run, source, self.config, DATA.model_copy(update={"splits": {**DATA.splits, "train": TRAINED}}))
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.disk = Disk()
        self.worker: SimWorker | None = None
        self.worker_pid = FIRST_PID
        self.left_behind: tuple[int, int] | None = None
        """The pid of a worker that is gone, and the lock that a child of it still has in its hands."""
        self.diagnosis: SimDiagnosis | None = None
        self.replayed: list[int] = []
        """The incident of every diagnosis that was ever started."""
        self.spawned: list[int] = []
        """The attempt of every worker that was ever started."""
        self.adoption: Callable[[], None] | None = None
        self.kill_in: int | None = None
        """After so many more points at which a daemon may die."""
        self.daemon: SimDaemon | None = None

    def point(self) -> None:
        """A place where the daemon may be killed."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.kill_in = None
                raise Killed

    @property
    def recorded(self) -> list[tuple[float, object]]:
        return list(read_events(self.run.path)) if (self.run.path / "events.jsonl").exists() else []

    # --- processes --------------------------------------------------------------------------------------------------

    def spawn(self, _command: object, spec: Path, _log: Path, lock: int) -> SimpleNamespace:
        try:
            self.point()
            child = self.starts(spec, lock)
        except BaseException:  # as the real one: the daemon's copy of the lock is closed whatever happens
            os.close(lock)
            raise
        self.point()
        return child

    def starts(self, spec: Path, lock: int) -> SimpleNamespace:
        assert self.worker is None, "a second process beside a running worker"
        assert self.diagnosis is None, "a second process beside a running diagnosis"
        self.worker_pid += 1
        if spec.name == DIAGNOSIS_SPEC:
            asked = DiagnosisSpec.model_validate_json(spec.read_bytes())
            self.diagnosis = SimDiagnosis(asked, self.worker_pid, lock)
            self.replayed.append(asked.incident)
            return SimpleNamespace(pid=self.worker_pid)
        self.worker = SimWorker(AttemptSpec.model_validate_json(spec.read_bytes()), lock)
        self.spawned.append(self.worker.spec.attempt)
        self.worker.write(Phase(time=0.0, phase="loading"))
        return SimpleNamespace(pid=self.worker_pid)

    def reap(self, child: SimpleNamespace, tell: Callable[[int], None]) -> None:
        if self.diagnosis is not None and self.diagnosis.pid == child.pid:
            self.diagnosis.tell = tell
            return
        assert self.worker is not None
        self.worker.tell = tell

    def await_adopted(self, identity: Identity, tell: Callable[[], None]) -> None:
        if self.alive(identity):
            assert self.worker is not None
            self.worker.tell = lambda _code: tell()
        else:
            tell()

    def replays(self, identity: Identity) -> bool:
        return self.diagnosis is not None and identity.pid == self.diagnosis.pid

    def diagnosis_finds(self, **found: object) -> None:
        assert self.diagnosis is not None
        write_text(self.diagnosis.place / DIAGNOSIS, answer_of(found).model_dump_json())
        self.diagnosis_dies(0)

    def diagnosis_dies(self, returncode: int) -> None:
        gone, self.diagnosis = self.diagnosis, None
        assert gone is not None
        os.close(gone.lock)
        if gone.tell is not None and self.daemon is not None:
            gone.tell(returncode)

    def alive(self, identity: Identity) -> bool:
        return self.replays(identity) or self.trains(identity)

    def trains(self, identity: Identity) -> bool:
        return self.worker is not None and identity.pid == self.worker_pid

    def send(self, identity: Identity, number: signal.Signals) -> bool:
        if self.replays(identity) and number == signal.SIGKILL:
            self.diagnosis_dies(-number)
            return True
        if not self.trains(identity):
            return False
        if number == signal.SIGKILL:
            self.worker_dies(-number)
        return True

    def stop(self, identity: Identity, *, grace_seconds: float, stacks: bool = False) -> None:
        """The thread that asks, waits and kills, at once."""
        del grace_seconds, stacks
        if self.alive(identity):
            assert self.worker is not None
            if self.worker.hung or not self.worker.begun:
                self.worker_dies(-signal.SIGKILL)
            else:
                self.worker.commit(Role.RECOVERY)
                self.worker_leaves(ExitCode.STOPPED, "stopped on request")

    def find(self, spec: Path) -> Identity | None:
        if self.diagnosis is not None and spec == self.diagnosis.place / DIAGNOSIS_SPEC:
            return Identity(self.diagnosis.pid, 0.0)
        here = self.worker is not None and self.worker.spec.directory == spec.parent
        return Identity(self.worker_pid, 0.0) if here else None

    def worker_leaves(self, code: ExitCode, message: str, cause: Cause | None = None) -> None:
        assert self.worker is not None
        self.worker.leave(code, message, cause)
        self.worker_dies(code)

    def worker_dies(self, returncode: int, *, leaves_child: bool = False) -> None:
        gone, self.worker = self.worker, None
        assert gone is not None
        if leaves_child:
            self.left_behind = self.worker_pid, os.dup(gone.lock)
        gone.journal.close()
        os.close(gone.lock)
        if gone.tell is not None and self.daemon is not None:
            gone.tell(returncode)

    def end_holders(self, leader: Identity) -> list[int]:
        if self.left_behind is None or self.left_behind[0] != leader.pid:
            return []
        (_, lock), self.left_behind = self.left_behind, None
        os.close(lock)
        return [FIRST_PID - 1]

    def of_pid(self, pid: int) -> Identity:
        return Identity(pid, 0.0)

    @contextmanager
    def real(self) -> Iterator[None]:
        """While this holds, the daemon's idea of processes is this world's."""
        with pytest.MonkeyPatch.context() as patch:
            for name, stand_in in {
                "spawn_worker": self.spawn,
                "reap": self.reap,
                "await_adopted": self.await_adopted,
                "stop": self.stop,
                "find_worker": self.find,
            }.items():
                patch.setattr(process, name, stand_in)
            patch.setattr(process.WorkerLock, "end_holders", lambda _lock, leader: self.end_holders(leader))
            patch.setattr(Identity, "of", self.of_pid)
            patch.setattr(store, "_insert", self.insert)
            # Functions, not bound methods: the identity is what they are asked about.
            patch.setattr(Identity, "alive", lambda identity: self.alive(identity))  # noqa: PLW0108
            patch.setattr(Identity, "send", lambda identity, number, **_group: self.send(identity, number))
            yield

    def insert(self, database: sqlite3.Connection, *row: object) -> None:
        if self.disk.full == "database":
            raise sqlite3.OperationalError("database or disk is full")
        insert_row(database, *row)

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.vanish()
        if self.worker is not None:
            self.worker_dies(-signal.SIGKILL)
        if self.left_behind is not None:
            os.close(self.left_behind[1])
        if self.diagnosis is not None:
            self.diagnosis_dies(-signal.SIGKILL)


class SimStore(Store):
    """The real one on a disk that may be full, in a daemon that may be killed between any two writes."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(world.run.path, clock=lambda: world.wall)
        log = self._log
        self._log = SimpleNamespace(append=self._append_lines, close=log.close, in_place=log.in_place)
        self._whole = log

    def _append_lines(self, *lines: str) -> None:
        self._world.point()
        if self._world.disk.full == "before":
            self._world.disk.refuse()
        if self._world.disk.full == "torn":
            told = "\n".join(lines).encode()
            os.write(self._whole._descriptor, told[: len(told) // 2])
            self._world.disk.refuse()
        self._whole.append(*lines)
        self._world.point()


class SimScorer(Scorer):
    """The real queue around an evaluator that answers when it is told to."""

    def _start(self, now: float) -> None:
        self._generation += 1
        self._heard_at, self._ready = now, False
        pipe = SimpleNamespace(write=lambda _: None, flush=lambda: None, close=lambda: None)
        self._process = SimpleNamespace(stdin=pipe, kill=self.dies, wait=lambda: 0)
        self._inbox.put(EvaluatorSaid(self._generation, Ready(device="cpu", seconds=0.0)))

    def dies(self) -> None:
        self._inbox.put(EvaluatorExited(self._generation, -signal.SIGKILL))

    def answers(self, run_dir: Path, miou: float, verdict: Verdict = Verdict.OK) -> None:
        request = self.in_flight
        assert request is not None
        for split in request.splits:
            target = report_path(run_dir, request.attempt, request.epoch, split)
            target.parent.mkdir(exist_ok=True)
            write_text(target, report_of(request, split, miou, verdict).model_dump_json())
            where = str(target.relative_to(run_dir))
            answer = Scored(attempt=request.attempt, epoch=request.epoch, split=split, report=where)
            self._inbox.put(EvaluatorSaid(self._generation, answer))
        self._inbox.put(EvaluatorSaid(self._generation, Done(attempt=request.attempt, epoch=request.epoch)))


def report_of(request: Request, split: str, miou: float, verdict: Verdict) -> EvaluationReport:
    matrix = matrix_with(miou)
    scored = verdict is not Verdict.NOT_FINITE
    return EvaluationReport(
        attempt=request.attempt,
        epoch=request.epoch,
        step=2 * request.epoch,
        split=split,
        verdict=verdict,
        scores=score(np.array(matrix)) if scored else None,
        confusion=matrix if scored else None,
        class_ids=(0, 1),
        class_names=("a", "b"),
        policy="two classes",
        images=3,
        ignored_pixels=0,
        counted_pixels=sum(map(sum, matrix)),
        seconds=0.01,
        device="cpu",
        checkpoint_sha256=request.sha256,
        data_fingerprint="f",
        message="" if scored else "logits are NaN",
    )


class SimDaemon:
    """One life of the daemon, from opening the store on; put together as `job` does it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.inbox = Inbox()
        self.recorder: Recorder | None = None
        run, config = world.run, world.config
        store = SimStore(world)
        history = History.of(store.events())
        screen = PlainScreen(Console(quiet=True))
        sinks = [screen, AlertLog(run.path), ResultsFile(run.path, history), BestFiles(run.path, history)]
        self.recorder = Recorder(store, history, sinks)
        self.scorer = SimScorer(
            spec_for(run.path, run.cache_dir, config.evaluator),
            command=(),
            inbox=self.inbox,
            timeout_seconds=config.evaluator.timeout_seconds,
            clock=lambda: world.now,
        )
        scoring = Scoring(run.path, history, self.scorer, min_delta=config.alerts.min_delta)
        self.supervisor = Supervisor(
            run,
            config,
            SpecWriter(run, config),
            recorder=self.recorder,
            scoring=scoring,
            screen=screen,
            inbox=self.inbox,
            clock=lambda: world.now,
        )
        self.begun = False

    @property
    def history(self) -> History:
        assert self.recorder is not None
        return self.recorder.history

    @property
    def exit_code(self) -> int | None:
        return self.supervisor._exit_code

    def tick(self) -> None:
        """One turn of the loop; the first one begins. Killed, OSError and sqlite3.Error are the daemon's end."""
        if not self.begun:
            assert self.recorder is not None
            self.recorder.catch_up()
            if self.history.created is None:
                epochs = self.world.config.trainer.epochs
                self.recorder.record(RunCreated(config_hash="c", epochs=epochs, class_names=("a", "b")))
            self.supervisor._begin()
            self.begun = True
        while True:
            try:
                message = self.inbox.get_nowait()
            except Empty:
                break
            self.supervisor._take(message)
        self.supervisor._look()

    def vanish(self) -> None:
        """As a process does: what was open is closed, and nothing more is written."""
        assert self.recorder is not None
        with suppress(sqlite3.Error):
            self.recorder.close()
