"""The main job: from a run.toml to an exit code. Puts the parts together; each part knows its own work.

The order is the order of a careful person: read the configuration, take the run, audit the data, and only then train.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rich.console import Console

from ..data.audit import AuditReport
from ..data.audit_view import render
from ..data.resolved import ResolvedData
from ..plain import one_line
from ..trainer.contract import AttemptSpec, Drill
from . import next_steps
from .accepting import Accepted, compare_with_frozen, record_accepted
from .alerts import AlertLog
from .auditing import audit_data, keep_audit, require_trainable, say
from .board import Board
from .board_attempts import AttemptsBoard
from .board_server import served
from .config import RunConfig, identity_hash, load_config
from .daily import DailyDigest
from .delivering import check_channels, send_the_rest
from .diagnosing import DIAGNOSIS_COMMAND
from .doctor import before_run
from .events import AttemptPlanned, BudgetsForgiven, ConfigChanged, DiskSeen, DrillsRequested, RunCreated
from .freezing import accept, create, frozen_data, require_same_files
from .gauges import Beside, Gauges
from .glance import Glance
from .history import History
from .inbox import Inbox, Inboxes
from .json_lines import JsonConsole, JsonFormatter, JsonScreen
from .logs import log_to
from .observing import Screen
from .outbox import Outbox, set_apart
from .postmortems import Postmortems
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

"""Of the worker, of the evaluator, and of the standby; without the last there is none."""
AnyScreen = LiveScreen | PlainScreen | JsonScreen


class StoppedEarly(Exception):  # noqa: N818 - not an error: a person asked
    """A signal came before there was anything to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Commands(NamedTuple):
    """What is started, up to the spec."""

    worker: Sequence[str]
    evaluator: Sequence[str]
    diagnosis: Sequence[str]
    standby: Sequence[str] | None


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
    diagnosis_command: Sequence[str] = DIAGNOSIS_COMMAND,
) -> int:
    """Begin or go on with a run and stay until it ends, with TensorBoard on `board_port`; returns the exit code.

    Raises SegwatchError for a person's mistake.
    """
    with signals_raise():
        config = load_config(source)
        run = RunDir(runs_dir / (name or source.stem))
        check_channels(source, config, console, begins=not run.exists)
        run.hold()
        try:
            begun = _begin(run, source, config, console, retry=retry, accept_data=accept_data)
            formatter = JsonFormatter() if isinstance(console, JsonConsole) else None
            with (
                log_to(run.path / "daemon.log", formatter),
                set_apart(config.alerts.notify) as environment,
                served(run.path, board_port, partial(say, console)),
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
                        quiet_hours=config.alerts.quiet_hours,
                    ),
                    drills=drills,
                    retry=retry,
                    console=console,
                    commands=Commands(worker_command, evaluator_command, diagnosis_command, standby_command),
                )
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the disk refuses: {error}", where=run.path, remedy="make room, or mount it writable; then call again"
            ) from error
        finally:
            if not run.exists:
                run.abandon()
            run.release()


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
                require_same_files(run, lambda words: say(console, words))
        changes = accept(run, source, config, retry=retry and history.gave_up is not None)
        return Begun(new=False, changes=changes, accepted=accepted)
    for check in before_run(source, config, run.path.parent):
        say(console, f"{check.state}: {check.name}: {one_line(check.found)} -> {check.remedy}")
    report, data = _audited(source, config, console)
    create(run, source, config, data, report.files)
    keep_audit(report, run.path, console)
    if not isinstance(console, JsonConsole):
        look = next_steps.command("status", run.path, "--watch")
        say(console, f"Ctrl-C saves and stops; from another terminal, look at it with: {look}")
    return Begun(new=True, changes={})


def _audited(source: Path, config: RunConfig, console: Console) -> tuple[AuditReport, ResolvedData]:
    report = audit_data(source, config, console)
    with nobody_may_look():
        render(report, console, again=next_steps.command("audit", source), errors=False)
    return report, require_trainable(report, config, source)


def _look_again(run: RunDir, history: History, source: Path, config: RunConfig, console: Console) -> Accepted | None:
    """The files as they are now. Nothing is recorded or frozen before everything else is settled."""
    report, data = _audited(source, config, console)
    accepted = compare_with_frozen(run, history, report, data)
    if accepted is None:
        say(console, "--accept-data: every file holds what it held when the run began; there is nothing to accept")
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
    screen = _screen(console, history)
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
            daily = DailyDigest(config.alerts.daily_digest, store, history, outbox)
            gauges = Gauges(run.path, config.watch.prometheus, history)
            each_look = (daily.look, gauges.look)
            inbox = inboxes.fresh()
            beside = Beside(screen, gauges)
            code = _watch(run, config, recorder, beside, commands=commands, inbox=inbox, each_look=each_look)
            gauges.write()
        if code < 128:
            send_the_rest(outbox, config.alerts.notify_wait_seconds, screen)
        return history, code
    finally:
        recorder.close()


def _screen(console: Console, history: History) -> AnyScreen:
    if isinstance(console, JsonConsole):
        return JsonScreen(console)
    return LiveScreen(console, history) if console.is_terminal else PlainScreen(console)


def _sit_out(run: RunDir, error: DiskError, pauses: Pauses, inbox: Inbox, console: Console) -> None:
    """Wait for the disk; whoever stops the daemon meanwhile stops the run. Raises StoppedEarly, StorageError."""
    tell = partial(say, console)
    number = pauses.wait(error, inbox, tell)
    if number is not None:
        stop_worker(run, tell)
        raise StoppedEarly(number)


def recorder_for(run: RunDir, store: Store, history: History, *others: Sink) -> Recorder:
    """Everything that is told of a fact: `others`, alerts.log, results.csv, the best_*.pth links, TensorBoard, a page
    for each incident, glance.json.
    """
    sinks: list[Sink] = [*others, AlertLog(run.path), ResultsFile(run.path, history), BestFiles(run.path, history)]
    pages = Postmortems(run.path, history)
    sinks += [Board(run.path, history), AttemptsBoard(run.path, history), pages]
    return Recorder(store, history, sinks, summaries=[Glance(run, history), pages])


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
    screen: Screen,
    *,
    commands: Commands,
    inbox: Inbox,
    each_look: Sequence[Callable[[], None]],
) -> int:
    standby = None
    if config.recovery.standby and commands.standby is not None:
        standby = Standby(run.path / "standby.log", command=commands.standby)
    scorer = Scorer(
        spec_for(run.path, run.cache_dir, config.evaluator, files=FILES),
        command=commands.evaluator,
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
        worker_command=commands.worker,
        diagnosis_command=commands.diagnosis,
        standby=standby,
        each_look=each_look,
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
            compile=trainer.compile,
            recovery_seconds=trainer.recovery_seconds,
            model=self._config.model,
            loss=self._loss,
            augment=self._config.augment,
            cache_dir=self._run.cache_dir,
            config_hash=self._hash,
            warm_up_steps=plan.warm_up_steps,
            left_out=plan.left_out,
            decode_again=plan.decode_again,
            drills=drills,
        )


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
