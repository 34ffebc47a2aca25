"""`segwatch evaluate RUN`: scores what a run of segwatch has not scored, and trains nothing.

That is epochs that were committed after the daemon died, epochs that could not be scored, scores whose report is gone,
and epochs whose scores are of files that were changed since. Facts are recorded as the daemon records them; what an
answer of the evaluator means is up to `scoring`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ..errors import RunHeldError
from ..evaluator.report import Request, report_path
from . import alerts, going_on, rules, views
from .config import RunConfig
from .evaluations import report_of
from .events import Event, Outcome, RescoreWanted, RunFinished, ScoreRecorded
from .freezing import frozen_config, require_same_files
from .history import History
from .inbox import EvaluatorExited, EvaluatorSaid, Inbox, Interrupted, hear_signals, next_message
from .job import recorder_for, signals_raise
from .logs import log_to
from .members import SCORED_SPLITS, Epoch
from .observing import Observer
from .process import EVALUATOR_COMMAND, WorkerLock
from .recording import Recorder
from .report import write_report
from .rundir import FILES, RunDir
from .scorer import Scorer, spec_for
from .scoring import Scoring
from .screen import PlainScreen, nobody_may_look
from .store import Store


@dataclass(frozen=True)
class Filled:
    """What one call did to a run."""

    epochs: int
    """Committed ones, those that a roll-back moved away among them."""
    scored: tuple[tuple[int, int], ...]
    """(attempt, epoch) that were given a score, or a verdict that there is none."""
    restored: int
    """Reports that were gone and lie there again; their scores were known."""
    gone: tuple[tuple[int, int], ...]
    """(attempt, epoch) whose score is known, and whose report and weights are both gone."""
    failed: tuple[tuple[int, int, str], ...]
    """(attempt, epoch, reason) that could not be scored."""
    stopped: int | None
    """The signal that ended it early."""

    @property
    def exit_code(self) -> int:
        """0 when nothing is missing any more."""
        return 128 + self.stopped if self.stopped is not None else int(bool(self.failed))


def fill(
    run: RunDir, console: Console, *, evaluator_command: Sequence[str] = EVALUATOR_COMMAND
) -> tuple[Filled, History]:
    """Score what is missing; returns what was done, and the run as it is now.

    Raises RunHeldError where a daemon watches the run, and SegwatchError where nothing can be scored at all.
    """
    with signals_raise():
        _take(run)
        try:
            with log_to(run.path / "daemon.log"):
                return _held(run, console, evaluator_command)
        finally:
            run.release()


def _held(run: RunDir, console: Console, command: Sequence[str]) -> tuple[Filled, History]:
    config = frozen_config(run)
    store = Store(run.path)
    history = History.of(store.events())
    screen = PlainScreen(console)
    recorder = recorder_for(run, store, history, screen)
    filler = _Filler(run, config, recorder, screen, command)
    try:
        recorder.catch_up()
        filled = filler.fill()
    finally:
        filler.close()
        recorder.close()
    write_report(run, history)
    return filled, history


def say(run: RunDir, filled: Filled, history: History, console: Console) -> None:
    """All epochs, the winners, and in words what was done."""
    with nobody_may_look():
        if history.epochs:
            views.print_epochs(history, console)
            console.print()
            views.print_best(views.look_at(run), console)
        for line in ("", *_lines(run, filled)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def as_json(run: RunDir, filled: Filled) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "epochs": filled.epochs,
        "scored": [{"attempt": attempt, "epoch": epoch} for attempt, epoch in filled.scored],
        "reports_restored": filled.restored,
        "reports_gone": [{"attempt": attempt, "epoch": epoch} for attempt, epoch in filled.gone],
        "failed": [{"attempt": attempt, "epoch": epoch, "reason": why} for attempt, epoch, why in filled.failed],
        "stopped": filled.stopped is not None,
        **views.best(views.look_at(run)),
    }


def _take(run: RunDir) -> None:
    try:
        run.hold(purpose="evaluate")
    except RunHeldError as error:
        raise RunHeldError(
            f"{error.what}: every epoch is scored as soon as it is there, without this command",
            where=error.where,
            remedy=error.remedy,
        ) from error


def _lines(run: RunDir, filled: Filled) -> list[str]:
    lines = [
        f"epoch {epoch} of attempt {attempt} could not be scored: {reason}" for attempt, epoch, reason in filled.failed
    ]
    if not WorkerLock(run.path).free():
        lines.append(f"a worker trains here without a daemon; `{going_on.command(run)}` watches it again")
    lines += [
        f"the report of epoch {epoch} of attempt {attempt} is gone for good, and its weights with it; its score is kept"
        for attempt, epoch in filled.gone
    ]
    if filled.stopped is not None:
        return [*lines, f"stopped; {_done(filled) or 'nothing was scored'}; the same command goes on"]
    if not filled.epochs:
        return [*lines, "no epoch was committed yet: there is nothing to score"]
    if not _done(filled) and not filled.failed:
        return [*lines, f"nothing was missing: all {filled.epochs} epochs are scored on val and test"]
    missing = f"{len(filled.failed)} still without a score" if filled.failed else "nothing missing"
    return [*lines, ", ".join(filter(None, (_done(filled), missing)))]


def _done(filled: Filled) -> str:
    counts = ((len(filled.scored), "epoch", "scored"), (filled.restored, "report", "written again"))
    return ", ".join(f"{n} {what}{'' if n == 1 else 's'} {done}" for n, what, done in counts if n)


class _Filler:
    """The loop: asks for one epoch after another until none is missing. Only the main thread calls it."""

    def __init__(
        self, run: RunDir, config: RunConfig, recorder: Recorder, screen: PlainScreen, command: Sequence[str]
    ) -> None:
        self._run = run
        self._config = config
        self._recorder = recorder
        self._inbox = Inbox()
        self._scorer = Scorer(
            spec_for(run.path, run.cache_dir, config.evaluator, files=FILES),
            command=command,
            inbox=self._inbox,
            timeout_seconds=config.evaluator.timeout_seconds,
            clock=time.monotonic,
        )
        self._scoring = Scoring(run.path, recorder.history, self._scorer, min_delta=config.alerts.min_delta)
        self._screen = screen
        self._observer = Observer(run, recorder, screen)
        self._scored: dict[tuple[int, int], None] = {}
        self._lost: list[Request] = []

    def fill(self) -> Filled:
        history = self._recorder.history
        hear_signals(self._inbox)
        self._observer.find_moved()
        self._observer.find_epochs(anyway=True)
        reportless = _reportless(self._run, history)
        self._lost = [request for request in reportless if (self._run.path / request.manifest).exists()]
        gone = tuple((request.attempt, request.epoch) for request in reportless if request not in self._lost)
        former = _former(self._run, history)
        if history.unscored or history.failed_epochs() or self._lost or former:
            require_same_files(self._run, self._screen.say, splits=SCORED_SPLITS)
        if history.failed_epochs() or former:
            self._recorder.record(RescoreWanted(former=former))
        lost = list(self._lost)
        stopped = self._loop()
        if stopped is None and _is_trained(history) and not history.finished:
            standing = len(history.lineage())
            self._recorder.record(RunFinished(trained=standing, unscored=len(history.failed_epochs())))
        self._update_alerts()
        self._recorder.delivered()
        return Filled(
            epochs=len(history.epochs),
            scored=tuple(self._scored),
            restored=sum(self._restored(request) for request in lost),
            gone=gone,
            failed=tuple((*epoch.key, _reason(epoch)) for epoch in history.failed_epochs()),
            stopped=stopped,
        )

    def close(self) -> None:
        self._scorer.close()

    def _loop(self) -> int | None:
        """Until nothing is missing; returns the signal that ended it before."""
        while self._recorder.history.unscored or self._lost or self._scorer.in_flight:
            self._scorer.require_able()
            self._record_all(self._scoring.tend())
            if self._lost and self._scorer.idle:
                self._scorer.ask(self._lost.pop(0))
            match next_message(self._inbox):
                case Interrupted(signal=number):
                    return number
                case EvaluatorSaid() as said:
                    self._record_all(self._scoring.heard(said))
                case EvaluatorExited() as exited:
                    self._record_all(self._scoring.died(exited))
            self._observer.find_epochs()
        if self._scored:  # what follows from the last score
            self._record_all(self._scoring.tend())
        return None

    def _record_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._recorder.record(event)
            if isinstance(event, ScoreRecorded) and event.verdict != "failed":
                self._scored[event.attempt, event.epoch] = None

    def _update_alerts(self) -> None:
        history = self._recorder.history
        now = rules.current_alerts(
            history, self._config.alerts, trainer=self._config.trainer, calls=going_on.calls(self._run)
        )
        self._record_all(alerts.changes(history.alerts, now, time.time()))

    def _restored(self, request: Request) -> int:
        epoch = self._recorder.history.epochs[request.attempt, request.epoch]
        return sum(_has_report(self._run, epoch, split) for split in request.splits)


def _is_trained(history: History) -> bool:
    """Whether nothing but scores was missing to its end."""
    attempt = history.current
    ended = None if attempt is None else attempt.ended
    reached = max((epoch.epoch for epoch in history.lineage()), default=0) >= history.epochs_wanted
    return history.gave_up is None and reached and ended is not None and ended.outcome is Outcome.FINISHED


def _former(run: RunDir, history: History) -> tuple[tuple[int, int], ...]:
    """The epochs whose scores are of files that were changed since, as far as their weights are there."""
    return tuple(
        key
        for key, epoch in sorted(history.epochs.items())
        if key not in history.unscored
        and history.series.former(epoch)
        and epoch.moved != "quarantined"
        and (run.path / epoch.weights).exists()
    )


def _reportless(run: RunDir, history: History) -> list[Request]:
    """The scores whose report is gone. Only where the checkpoint is still there can it be written again."""
    requests = []
    for epoch in sorted(history.epochs.values(), key=lambda epoch: epoch.key):
        splits = tuple(
            split
            for split, score in epoch.scores.items()
            if score.images and history.series.holds(epoch, (split,)) and not _has_report(run, epoch, split)
        )
        if splits and epoch.moved != "quarantined":
            requests.append(
                Request(
                    manifest=epoch.manifest,
                    attempt=epoch.attempt,
                    epoch=epoch.epoch,
                    sha256=epoch.sha256,
                    splits=splits,
                )
            )
    return requests


def _has_report(run: RunDir, epoch: Epoch, split: str) -> bool:
    """Whether its report lies there, and beside it the counts of its images that it names."""
    report = report_of(run.path, epoch, split)
    if report is None or report.per_image is None:
        return report is not None
    return report_path(run.path, *epoch.key, split).with_name(report.per_image).exists()


def _reason(epoch: Epoch) -> str:
    return next(score.message for score in epoch.scores.values() if score.verdict == "failed")
