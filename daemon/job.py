"""The main job: from a run.toml to an exit code. Puts the parts together; each part knows its own work.

The order is the order of a careful person: read the configuration, take the run, audit the data, and only then train.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging.handlers import WatchedFileHandler
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.audit import AuditReport, audit, require
from ..data.audit_page import write_audit
from ..data.audit_view import render
from ..data.config import SPLITS
from ..data.resolved import ResolvedData
from ..errors import ConfigError
from ..plain import one_line
from ..trainer.contract import AttemptSpec, Drill
from .accepting import Accepted, compare_with_frozen, record_accepted
from .alerts import AlertLog
from .board import Board
from .board_attempts import AttemptsBoard
from .board_server import served
from .channels import require_addresses
from .config import RunConfig, identity_hash, load_config
from .doctor import before_run
from .events import AttemptPlanned, BudgetsForgiven, ConfigChanged, DiskSeen, DrillsRequested, RunCreated
from .freezing import accept, create, frozen_data, require_same_files
from .history import History
from .inbox import Inbox, Inboxes
from .outbox import Outbox, set_apart
from .process import EVALUATOR_COMMAND, WORKER_COMMAND
from .recording import Recorder, Sink
from .report import say_how_it_went
from .results import BestFiles, ResultsFile
from .rundir import FILES, RunDir
from .scorer import Scorer, spec_for
from .scoring import Scoring
from .screen import LiveScreen, PlainScreen, nobody_may_look
from .standby import STANDBY_COMMAND, Standby
from .stopping import stop_worker
from .storage import DiskError, Pauses, StorageError, free_bytes
from .store import Store
from .supervisor import Supervisor

Commands = tuple[Sequence[str], Sequence[str], Sequence[str] | None]
"""Of the worker, of the evaluator, and of the standby; without the last there is none."""


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
    accept_data: bool = False,
    board_port: int | None = None,
    console: Console,
    worker_command: Sequence[str] = WORKER_COMMAND,
    evaluator_command: Sequence[str] = EVALUATOR_COMMAND,
    standby_command: Sequence[str] | None = STANDBY_COMMAND,
) -> int:
    """Begin or go on with a run and stay until it ends, with TensorBoard on `board_port`; returns the exit code.

    Raises SegwatchError for a person's mistake.
    """
    with signals_raise():
        config = load_config(source)
        run = RunDir(runs_dir / (name or source.stem))
        _check_channels(source, config, console, begins=not run.exists)
        run.hold()
        try:
            begun = _begin(run, source, config, console, retry=retry, accept_data=accept_data)
            with (
                log_to(run.path / "daemon.log"),
                set_apart(config.alerts.notify) as environment,
                served(run.path, board_port, partial(_say, console)),
            ):
                return _held(
                    run,
                    config,
                    begun,
                    new_outbox=partial(
                        Outbox,
                        run.path,
                        config.alerts.notify,
                        base=source.resolve().parent,
                        retry_seconds=config.alerts.notify_retry_seconds,
                        environment=environment,
                    ),
                    drills=drills,
                    retry=retry,
                    console=console,
                    commands=(worker_command, evaluator_command, standby_command),
                )
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the disk refuses: {error}", where=run.path, remedy="make room, or mount it writable; then call again"
            ) from error
        finally:
            run.release()
            if not run.exists:
                run.abandon()


def audit_data(source: Path, config: RunConfig, console: Console, *, splits: Collection[str] = SPLITS) -> AuditReport:
    """Read every mask of `splits`, with a progress bar where somebody looks."""
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
            weight_limit=config.loss.class_weight_limit,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            splits=splits,
        )


def keep_audit(report: AuditReport, directory: Path, console: Console) -> None:
    """Write audit.md and audit.png, and say where; a directory that cannot be written to stops nothing."""
    try:
        written = ", ".join(str(path) for path in write_audit(report, directory))
        told = f"written: {written}"
    except (OSError, ConfigError) as error:
        told = f"audit.md is not written: {error}"
    _say(console, told)


def tell_effort(report: AuditReport, console: Console) -> None:
    """Print how fast the files were read, where any were."""
    if report.effort is not None and report.effort.pairs:
        _say(console, report.effort.words())


def require_trainable(report: AuditReport, config: RunConfig) -> ResolvedData:
    """The data that the audit settled. Raises ConfigError where it, or what `[loss]` says of its classes, is wrong."""
    data = require(report)
    config.loss.resolved(data.classes)
    return data


def require_told(report: AuditReport) -> None:
    """Raises a ConfigError of one line where the audit has errors, which stand on the screen already."""
    if report.resolved is None:
        number = len(report.errors)
        raise ConfigError(f"not ready to train: {'1 error' if number == 1 else f'{number} errors'}, told by the audit")


def _say(console: Console, words: str) -> None:
    with nobody_may_look():
        console.print(words, soft_wrap=True, highlight=False, markup=False)


@dataclass(frozen=True)
class Begun:
    """How the run directory was found or made."""

    new: bool
    """Audited and frozen just now: the first time, or again because nothing was trained with the old settings."""
    changes: dict[str, str]
    accepted: Accepted | None = None
    """The files as they are now, where a person takes them."""


def recorded(run: RunDir) -> History:
    """What is known of the run. A daemon may have died between freezing it and its first fact."""
    if not run.exists:
        return History()
    store = Store(run.path)
    try:
        return History.of(store.events())
    finally:
        store.close()


def _begin(run: RunDir, source: Path, config: RunConfig, console: Console, *, retry: bool, accept_data: bool) -> Begun:
    """Make the run directory, or take it up with what was edited since."""
    history = recorded(run)
    if history.ever_stepped:
        accepted = None
        if accept_data:
            accepted = _look_again(run, history, source, config, console)
        elif retry or _has_work(history) or config.trainer.epochs > history.epochs_wanted:
            with log_to(run.path / "daemon.log"):
                require_same_files(run, lambda words: _say(console, words))
        changes = accept(run, source, config, retry=retry and history.gave_up is not None)
        return Begun(new=False, changes=changes, accepted=accepted)
    for check in before_run(source, config, run.path.parent):
        _say(console, f"{check.state}: {check.name}: {one_line(check.found)} -> {check.remedy}")
    report, data = _audited(source, config, console)
    create(run, source, config, data, report.files)
    keep_audit(report, run.path, console)
    return Begun(new=True, changes={})


def _audited(source: Path, config: RunConfig, console: Console) -> tuple[AuditReport, ResolvedData]:
    report = audit_data(source, config, console)
    with nobody_may_look():
        render(report, console, errors=False)
    return report, require_trainable(report, config)


def _look_again(run: RunDir, history: History, source: Path, config: RunConfig, console: Console) -> Accepted | None:
    """The files as they are now. Nothing is recorded or frozen before everything else is settled."""
    report, data = _audited(source, config, console)
    accepted = compare_with_frozen(run, history, report, data)
    if accepted is None:
        _say(console, "--accept-data: every file holds what it held when the run began; there is nothing to accept")
    else:
        keep_audit(report, run.path, console)
    return accepted


def _held(
    run: RunDir,
    config: RunConfig,
    begun: Begun,
    *,
    new_outbox: Callable[[], Outbox],
    drills: Sequence[Drill],
    retry: bool,
    console: Console,
    commands: Commands,
) -> int:
    """The run directory is ours: watch it to its end, and say how it went. A disk that refuses costs a fresh start."""
    opening = [] if begun.accepted is None else [partial(record_accepted, run, config=config, accepted=begun.accepted)]
    opening.append(partial(_record_wishes, run, config=config, begun=begun, drills=drills, retry=retry))
    pauses, inboxes = Pauses(run.path), Inboxes()
    while True:
        try:
            history, code = _life(
                run, config, opening, new_outbox=new_outbox, console=console, commands=commands, inboxes=inboxes
            )
            break
        except (OSError, sqlite3.Error) as error:
            _sit_out(run, error, pauses, inboxes.fresh(), console)
            opening.append(partial(_record_refusal, run, config=config, message=str(error)))
    say_how_it_went(run, history, console, code)
    return code


def _life(
    run: RunDir,
    config: RunConfig,
    opening: list[partial[None]],
    *,
    new_outbox: Callable[[], Outbox],
    console: Console,
    commands: Commands,
    inboxes: Inboxes,
) -> tuple[History, int]:
    """From what lies on the disk to the end of the run, or to the first time that the disk refuses.

    `opening` is recorded first, and each of it only once: it is removed from the list.
    """
    store = Store(run.path)
    history = History.of(store.events())
    screen = LiveScreen(console, history) if console.is_terminal else PlainScreen(console)
    outbox = new_outbox()
    recorder = recorder_for(run, store, history, screen, outbox)
    try:
        recorder.catch_up()
        outbox.resume(store, history)
        while opening:
            opening[0](recorder)
            del opening[0]
        code = _code_of(history)
        if _has_work(history):
            code = _watch(run, config, recorder, screen, commands=commands, inbox=inboxes.fresh())
        if code < 128:
            _send_the_rest(outbox, config.alerts.notify_wait_seconds, screen)
        return history, code
    finally:
        recorder.close()


def _sit_out(run: RunDir, error: DiskError, pauses: Pauses, inbox: Inbox, console: Console) -> None:
    """Wait for the disk; whoever stops the daemon meanwhile stops the run. Raises StoppedEarly, StorageError."""

    def say(text: str) -> None:
        with nobody_may_look():
            console.print(text, soft_wrap=True, highlight=False, markup=False)

    number = pauses.wait(error, inbox, say)
    if number is not None:
        stop_worker(run, say)
        raise StoppedEarly(number)


def recorder_for(run: RunDir, store: Store, history: History, *others: Sink) -> Recorder:
    """Everything that is told of a fact: `others`, alerts.log, results.csv, the best_*.pth links, TensorBoard."""
    sinks: list[Sink] = [*others, AlertLog(run.path), ResultsFile(run.path, history), BestFiles(run.path, history)]
    return Recorder(store, history, [*sinks, Board(run.path, history), AttemptsBoard(run.path, history)])


def _check_channels(source: Path, config: RunConfig, console: Console, *, begins: bool) -> None:
    """Raises ConfigError at the beginning of a run; one that goes on does so, and its notifications wait."""
    try:
        require_addresses(config.alerts.notify, source.resolve().parent)
    except ConfigError as error:
        if begins:
            raise
        _say(console, f"notifications wait: {error.what}")


def _send_the_rest(outbox: Outbox, seconds: float, screen: LiveScreen | PlainScreen) -> None:
    """The last alerts matter most: give them time, unless a person has none."""
    asked = threading.Event()

    def enough(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, enough) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outbox.drain(seconds, enough=asked.is_set)
        for words in outbox.undelivered():
            screen.say(f"notifications to {words}: the next `segwatch run` sends them")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record_wishes(
    run: RunDir, recorder: Recorder, *, config: RunConfig, begun: Begun, drills: Sequence[Drill], retry: bool
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


def _record_refusal(run: RunDir, recorder: Recorder, *, config: RunConfig, message: str) -> None:
    needed = round(1e9 * config.watch.disk_free_gb)
    recorder.record(DiskSeen(state="refused", free_bytes=free_bytes(run.path), needed_bytes=needed, message=message))


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
    *,
    commands: Commands,
    inbox: Inbox,
) -> int:
    worker_command, evaluator_command, standby_command = commands
    standby = None
    if config.recovery.standby and standby_command is not None:
        standby = Standby(run.path / "standby.log", command=standby_command)
    scorer = Scorer(
        spec_for(run.path, run.cache_dir, config.evaluator, files=FILES),
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
        scoring=Scoring(run.path, recorder.history, scorer, min_delta=config.alerts.min_delta),
        screen=screen,
        inbox=inbox,
        worker_command=worker_command,
        standby=standby,
    )
    try:
        return supervisor.run()
    finally:
        scorer.close()
        if standby is not None:
            standby.close()


class SpecWriter:
    """Turns a planned attempt into the spec of its worker: every effective value of the run."""

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        self._run = run
        self._config = config
        data = frozen_data(run)
        self._hash = identity_hash(config, data.class_ids)
        self._loss = config.loss.resolved(data.classes)

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
            loss=self._loss,
            augment=self._config.augment,
            cache_dir=self._run.cache_dir,
            config_hash=self._hash,
            drills=drills,
        )


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """What the daemon itself has to say goes to this file; libraries only when something is wrong."""
    handler = WatchedFileHandler(path)  # which begins a new file when this one is rotated or deleted
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    levels = {"segwatch": logging.INFO, "apscheduler": logging.WARNING, "watchdog": logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger, level in loggers.items():
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


@contextmanager
def signals_raise() -> Iterator[None]:
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
