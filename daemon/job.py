"""The main job: from a run.toml to an exit code. Puts the parts together; each part knows its own work.

The order is the order of a careful person: read the configuration, take the run, audit the data, and only then train.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.audit import AuditReport, audit, require
from ..data.audit_view import render
from ..evaluator.report import EvaluatorSpec
from ..trainer.contract import AttemptSpec, Drill
from .alerts import AlertLog
from .board import Board
from .config import RunConfig, identity_hash, load_config
from .events import AttemptPlanned, BudgetsForgiven, ConfigChanged, DrillsRequested, RunCreated
from .freezing import accept, create, frozen_data
from .history import History
from .inbox import Inbox, Interrupted
from .process import EVALUATOR_COMMAND, WORKER_COMMAND
from .recording import Recorder, Sink
from .report import print_closing, write_report
from .results import BestFiles, ResultsFile
from .rundir import RunDir
from .scorer import Scorer
from .scoring import Scoring
from .screen import LiveScreen, PlainScreen, nobody_may_look
from .store import Store, read_events
from .supervisor import Supervisor


class StoppedEarly(Exception):  # noqa: N818 - not an error: a person asked
    """A signal came before there was anything to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def run_job(
    source: Path,
    *,
    name: str | None,
    runs_dir: Path,
    drills: Sequence[Drill],
    retry: bool,
    console: Console,
    worker_command: Sequence[str] = WORKER_COMMAND,
    evaluator_command: Sequence[str] = EVALUATOR_COMMAND,
) -> int:
    """Begin or go on with a run and stay until it ends; returns the exit code.

    Raises SegwatchError for a person's mistake.
    """
    with _signals_raise():
        config = load_config(source)
        run = RunDir(runs_dir / (name or source.stem))
        run.hold()
        try:
            begun = _begin(run, source, config, console, retry=retry)
            return _held(
                run,
                config,
                begun,
                drills=drills,
                retry=retry,
                console=console,
                commands=(worker_command, evaluator_command),
            )
        finally:
            run.release()
            if not run.exists:
                run.abandon()


def audit_data(source: Path, config: RunConfig, console: Console) -> AuditReport:
    """Read every mask, with a progress bar where somebody looks."""
    with Progress(
        TextColumn("audit: every mask is read"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("audit", total=None)
        return audit(
            config.data,
            source.resolve().parent,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


@dataclass(frozen=True)
class Begun:
    """How the run directory was found or made."""

    new: bool
    """Audited and frozen just now: the first time, or again because nothing was trained with the old settings."""
    changes: dict[str, str]


def _begin(run: RunDir, source: Path, config: RunConfig, console: Console, *, retry: bool) -> Begun:
    """Make the run directory, or take it up with what was edited since."""
    history = History.of(read_events(run.path)) if run.exists else History()
    if history.ever_stepped:
        return Begun(new=False, changes=accept(run, source, config, retry=retry and history.gave_up is not None))
    report = audit_data(source, config, console)
    with nobody_may_look():
        render(report, console, errors=False)
    create(run, source, config, require(report))
    return Begun(new=True, changes={})


def _held(
    run: RunDir,
    config: RunConfig,
    begun: Begun,
    *,
    drills: Sequence[Drill],
    retry: bool,
    console: Console,
    commands: tuple[Sequence[str], Sequence[str]],
) -> int:
    """The run directory is ours: watch it to its end, and say how it went."""
    _log_to(run.path / "daemon.log")
    store = Store(run.path)
    history = History.of(store.events())
    screen = LiveScreen(console, history) if console.is_terminal else PlainScreen(console)
    sinks: list[Sink] = [screen, AlertLog(run.path), ResultsFile(run.path, history), BestFiles(run.path, history)]
    recorder = Recorder(store, history, [*sinks, Board(run.path, history)])
    try:
        recorder.catch_up()
        _record_wishes(run, recorder, config, begun, drills=drills, retry=retry)
        code = _watch(run, config, recorder, screen, commands) if _has_work(history) else _code_of(history)
    finally:
        recorder.close()
    _say_how_it_went(run, history, console, code)
    return code


def _record_wishes(
    run: RunDir, recorder: Recorder, config: RunConfig, begun: Begun, *, drills: Sequence[Drill], retry: bool
) -> None:
    history = recorder.history
    if begun.new:
        data = frozen_data(run)
        recorder.record(
            RunCreated(
                config_hash=identity_hash(config, data.class_ids),
                epochs=config.trainer.epochs,
                class_names=data.class_names,
            )
        )
    if begun.changes:
        recorder.record(ConfigChanged(changes=begun.changes, epochs=config.trainer.epochs))
    if drills:
        recorder.record(DrillsRequested(drills=tuple(drills)))
    if history.gave_up is not None and (retry or begun.new):
        recorder.record(BudgetsForgiven())


def _has_work(history: History) -> bool:
    if history.finished or history.gave_up is not None:
        return bool(history.unscored or history.failed_epochs())
    return True


def _code_of(history: History) -> int:
    return 0 if history.gave_up is None else history.gave_up.exit_code


def _watch(
    run: RunDir,
    config: RunConfig,
    recorder: Recorder,
    screen: LiveScreen | PlainScreen,
    commands: tuple[Sequence[str], Sequence[str]],
) -> int:
    inbox = Inbox()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: inbox.put(Interrupted(received)))
    worker_command, evaluator_command = commands
    scorer = Scorer(
        EvaluatorSpec(
            run_dir=run.path,
            cache_dir=run.cache_dir,
            device=config.evaluator.device,
            batch_size=config.evaluator.batch_size,
            threads=config.evaluator.threads,
        ),
        command=evaluator_command,
        inbox=inbox,
        timeout_seconds=config.evaluator.timeout_seconds,
        clock=time.monotonic,
    )
    supervisor = Supervisor(
        run,
        config,
        SpecWriter(run, config),
        recorder=recorder,
        scoring=Scoring(run.path, recorder.history, scorer),
        screen=screen,
        inbox=inbox,
        worker_command=worker_command,
    )
    try:
        return supervisor.run()
    finally:
        scorer.close()


class SpecWriter:
    """Turns a planned attempt into the spec of its worker: every effective value of the run."""

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        self._run = run
        self._config = config
        self._hash = identity_hash(config, frozen_data(run).class_ids)

    def __call__(self, plan: AttemptPlanned, drills: tuple[Drill, ...]) -> AttemptSpec:
        trainer = self._config.trainer
        return AttemptSpec(
            run_dir=self._run.path,
            attempt=plan.attempt,
            resume_from=plan.resume_from,
            lr=plan.lr,
            amp=plan.amp,
            batch_size=plan.batch_size,
            accumulate=plan.accumulate,
            optimizer=trainer.optimizer,
            schedule=trainer.schedule,
            weight_decay=trainer.weight_decay,
            momentum=trainer.momentum,
            clip_grad_norm=trainer.clip_grad_norm,
            seed=trainer.seed,
            epochs=trainer.epochs,
            device=trainer.device,
            threads=trainer.threads,
            recovery_seconds=trainer.recovery_seconds,
            model=self._config.model,
            loss=self._config.loss,
            cache_dir=self._run.cache_dir,
            config_hash=self._hash,
            drills=drills,
        )


def _say_how_it_went(run: RunDir, history: History, console: Console, code: int) -> None:
    write_report(run, history)
    with nobody_may_look():
        if code >= 128:
            console.print(f"stopped; the same command goes on from here: {run.path}", soft_wrap=True, highlight=False)
        else:
            _print_end(run, history, console)


def _print_end(run: RunDir, history: History, console: Console) -> None:
    print_closing(run, history, console)
    if history.gave_up is not None:
        console.print(f"\nGAVE UP: {history.gave_up.reason}", soft_wrap=True, highlight=False, markup=False)
        console.print("mend the cause, then add --retry to go on from the last good state", highlight=False)


def _log_to(path: Path) -> None:
    """What the daemon itself has to say goes to daemon.log; libraries only when something is wrong."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ours = logging.getLogger("segwatch")
    ours.setLevel(logging.INFO)
    for logger in (ours, logging.getLogger("apscheduler"), logging.getLogger("watchdog")):
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("watchdog").setLevel(logging.WARNING)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Until there is a loop to tell, a signal ends the program. A lost terminal ends nothing."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise StoppedEarly(number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
