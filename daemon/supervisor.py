"""The loop: one inbox, one owner of state. Takes messages, looks at the disk, records facts, carries out decisions.

What to do is decided by `policy`, what to say by `rules`; this module only brings facts to them and does what they say.
A fact is recorded before it is acted on, so that a daemon started again goes on where this one died.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Protocol, assert_never

from ..checkpoints.manifest import Role, read_manifest, scan_manifests
from ..errors import CorruptCheckpointError, SegwatchError
from ..trainer.contract import (
    SPEC,
    WORKER_LOCK,
    AttemptSpec,
    Cause,
    Drill,
    DrillLine,
    JournalLine,
    Phase,
    Progress,
    Started,
    Trouble,
    attempt_dir,
)
from . import alerts, policy, process, rollback, rules, upkeep
from .config import RunConfig
from .events import (
    AttemptEnded,
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    DaemonStarted,
    DaemonStopped,
    DrillFired,
    EpochCommitted,
    EpochMoved,
    Event,
    Evidence,
    GaveUp,
    Outcome,
    RescoreWanted,
    RunFinished,
)
from .history import Attempt, History
from .inbox import EvaluatorExited, EvaluatorSaid, Housekeep, Inbox, Interrupted, Look, Message, WorkerExited
from .incidents import open_incident
from .recording import Recorder
from .rundir import RunDir
from .scoring import Scoring
from .watcher import Nudge, Watcher
from .worker import Condemned, Worker, ending_of

log = logging.getLogger(__name__)
JOURNAL_OFFSET = "journal"


class Screen(Protocol):
    """Where a person looks on: told of what is too fleeting to be a fact."""

    def progress(self, line: JournalLine) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Undecided:
    """An attempt that ended and has not been answered yet."""

    ended: AttemptEnded
    incident: int
    until: float
    """Monotonic time up to which its answer may wait for scores."""


class Supervisor:
    """Watches one run until it is finished, given up or told to stop. `run` returns the exit code."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        spec: Callable[[AttemptPlanned, tuple[Drill, ...]], AttemptSpec],
        *,
        recorder: Recorder,
        scoring: Scoring,
        screen: Screen,
        inbox: Inbox,
        worker_command: Sequence[str] = process.WORKER_COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._config = config
        self._spec = spec
        self._recorder = recorder
        self._scoring = scoring
        self._screen = screen
        self._inbox = inbox
        self._worker_command = worker_command
        self._clock = clock
        self._nudge = Nudge(inbox)
        self._lock = process.WorkerLock(run.path)
        self._worker: Worker | None = None
        self._undecided: Undecided | None = None
        self._start_at = 0.0
        self._trained = False
        self._interrupt: int | None = None
        self._verdict: GaveUp | None = None
        """Why the run is given up as soon as its worker has saved and left."""
        self._exit_code: int | None = None
        self._checkpoints_changed: int | None = None

    @property
    def history(self) -> History:
        return self._recorder.history

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        watcher = Watcher(self._inbox, self._nudge, scan_seconds=self._config.watch.scan_seconds)
        try:
            self._begin()
            watcher.start([self._run.checkpoints, self._run.attempts])
            while self._exit_code is None:
                for message in self._messages():
                    self._take(message)
                self._look()
            return self._exit_code
        finally:
            watcher.stop()

    def _messages(self) -> list[Message]:
        """All that wait; at most one scan interval passes without a look, whatever clock or watcher do."""
        waiting: list[Message] = []
        with contextlib.suppress(Empty):
            waiting.append(self._inbox.get(timeout=self._config.watch.scan_seconds))
            while True:
                waiting.append(self._inbox.get_nowait())
        self._nudge.taken()
        return waiting

    def _take(self, message: Message) -> None:
        match message:
            case Look():
                pass
            case Housekeep():
                self._checkpoints_changed = None
                upkeep.remove_surplus(self._run.path, self.history, self._config.checkpoints)
            case Interrupted():
                self._interrupted(message.signal)
            case WorkerExited():
                self._worker_exited(message)
            case EvaluatorSaid():
                self._record_all(self._scoring.heard(message))
                self._check_evaluator()
            case EvaluatorExited():
                self._record_all(self._scoring.died(message))
            case _:
                assert_never(message)

    def _look(self) -> None:
        """One round over everything that may have changed. Each part costs the same however long the run is."""
        now = self._clock()
        self._read_journal(now)
        self._find_epochs()
        self._check_liveness(now)
        if self._interrupt is None:
            self._record_all(self._scoring.tend())
            self._check_scores()
            self._answer(now)
            self._start_when_due(now)
        self._update_alerts()
        self._recorder.delivered()
        self._end_when_done()

    # --- beginning -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Go on from wherever the last daemon was, however it went."""
        me = process.myself()
        self._recorder.record(DaemonStarted(pid=me.pid, create_time=me.create_time, host=socket.gethostname()))
        if self.history.failed_epochs():
            self._recorder.record(RescoreWanted())
        self._find_moved()
        self._find_epochs()
        attempt = self.history.current
        if attempt is None:
            self._plan_first()
        elif attempt.ended is not None:
            self._go_on_after(attempt, attempt.ended)
        elif not self._lock.free():
            self._adopt(attempt)
        elif attempt.spawned is not None or (attempt_dir(self._run.path, attempt.number) / "journal.jsonl").exists():
            self._conclude(ending_of(self._frozen_spec(attempt), None, asked=False))

    def _plan_first(self) -> None:
        settings = self._configured()
        self._recorder.record(
            AttemptPlanned(
                attempt=1,
                lr=settings.lr,
                amp=settings.amp,
                batch_size=settings.batch_size,
                accumulate=settings.accumulate,
                resume_from=None,
                resume_epoch=0,
                resume_step=0,
                because="the run begins",
            )
        )

    def _configured(self) -> policy.Settings:
        trainer = self._config.trainer
        return policy.Settings(trainer.lr, trainer.amp, trainer.batch_size, trainer.accumulate)

    def _adopt(self, attempt: Attempt) -> None:
        """A worker outlived its daemon: it goes on training, and this daemon watches it from here."""
        spec = self._frozen_spec(attempt)
        known = attempt.spawned and process.Identity(attempt.spawned.pid, attempt.spawned.create_time)
        identity = known if known and known.alive() else process.find_worker(spec.directory / SPEC)
        if identity is None:
            raise SegwatchError(
                "worker.lock is held, but not by a worker of this run that can be found",
                where=self._run.path / WORKER_LOCK,
                remedy="something that the last worker started still runs: end it (fuser shows its pid), try again",
            )
        if attempt.spawned is None:
            self._recorder.record(
                AttemptSpawned(attempt=attempt.number, pid=identity.pid, create_time=identity.create_time)
            )
        self._worker = Worker.adopt(
            spec,
            identity,
            watch=self._config.watch,
            inbox=self._inbox,
            now=self._clock(),
            offset=self._noted_offset(attempt.number),
        )
        self._screen.say(f"adopted the worker of attempt {attempt.number} (pid {identity.pid}): it went on training")

    def _go_on_after(self, attempt: Attempt, ended: AttemptEnded) -> None:
        """The last attempt is over and recorded; its answer is not, or it was a stop."""
        match ended.outcome:
            case _ if self.history.retry_asked:
                good = ended.outcome is Outcome.UNSTABLE
                self._plan_next(
                    attempt, because="a person asked for another try", resume="verified-good" if good else "latest"
                )
            case Outcome.FINISHED if self._reached_the_end():
                self._trained = True
            case Outcome.FINISHED:
                self._plan_next(attempt, because=f"the run was extended to {self.history.epochs_wanted} epochs")
            case Outcome.STOPPED:
                self._plan_next(attempt, because="the run goes on after a stop")
            case _ if self.history.gave_up is None:
                self._await_answer(ended)
            case _:
                self._trained = True

    def _reached_the_end(self) -> bool:
        standing = self.history.lineage()
        return bool(standing) and standing[-1].epoch >= self.history.epochs_wanted

    def _frozen_spec(self, attempt: Attempt) -> AttemptSpec:
        path = attempt_dir(self._run.path, attempt.number) / SPEC
        if path.exists():
            return AttemptSpec.model_validate_json(path.read_bytes())
        return self._spec(attempt.plan, self.history.pending_drills)

    def _noted_offset(self, attempt: int) -> int:
        noted = (self._recorder.noted(JOURNAL_OFFSET) or "").split(":")
        return int(noted[1]) if noted[0] == str(attempt) else 0

    # --- watching --------------------------------------------------------------------------------------------------

    def _read_journal(self, now: float) -> None:
        worker = self._worker
        if worker is None:
            return
        recorded = self._recorder.history.last_at
        for line in worker.read(now):
            self._journal_line(worker, line)
        if self._recorder.history.last_at != recorded:
            self._recorder.note(JOURNAL_OFFSET, f"{worker.attempt}:{worker.offset}")

    def _journal_line(self, worker: Worker, line: JournalLine) -> None:
        """Facts are taken once, also when a journal is read again after the daemon died."""
        attempt = self.history.attempt(worker.attempt)
        match line:
            case Started() if attempt.started is None:
                self._recorder.record(
                    AttemptStarted(
                        attempt=line.attempt,
                        lr=line.lr,
                        amp=line.amp,
                        device=line.device,
                        parameters=line.parameters,
                        steps_per_epoch=line.steps_per_epoch,
                    )
                )
                self._check_echo(worker, line)
            case DrillLine() if (worker.attempt, line.drill) not in self.history.drills_fired:
                self._recorder.record(DrillFired(attempt=worker.attempt, drill=line.drill))
            case Trouble() if not line.fatal:
                self._note_trouble(worker.attempt, line)
            case Progress() | Phase():
                self._screen.progress(line)

    def _note_trouble(self, attempt: int, line: Trouble) -> None:
        known = {(i.opened.attempt, i.opened.cause, i.opened.step) for i in self.history.incidents}
        if (attempt, line.cause, line.step) not in known:
            self._recorder.record(
                open_incident(
                    self._run.path,
                    self.history,
                    attempt=attempt,
                    cause=line.cause,
                    step=line.step,
                    epoch=line.epoch,
                    message=line.message,
                    evidence=line.evidence,
                    fatal=False,
                    directory=line.incident,
                )
            )

    def _check_echo(self, worker: Worker, echo: Started) -> None:
        """A remedy that is not in force has failed: loading a state can bring the old learning rate back."""
        spec = worker.spec
        wanted: Evidence = {"lr": spec.lr, "amp": spec.amp.value, "batch_size": spec.batch_size}
        got: Evidence = {"lr": echo.lr, "amp": echo.amp.value, "batch_size": echo.batch_size}
        wrong = [name for name in wanted if wanted[name] != got[name]]
        if wrong:
            what = ", ".join(f"{name} {got[name]} instead of {wanted[name]}" for name in wrong)
            worker.condemn(
                Condemned(
                    Outcome.REMEDY_FAILED,
                    Cause.WORKER_CRASHED,
                    f"the worker runs with {what}: its settings failed",
                    got,
                )
            )

    def _find_moved(self) -> None:
        """Moves that a daemon made and did not live to record."""
        for epoch in self.history.lineage():
            name = epoch.manifest.rsplit("/", 1)[-1]
            moved = self._run.checkpoints / "superseded" / f"{epoch.attempt:03d}" / name
            if moved.exists() and not (self._run.path / epoch.manifest).exists():
                where = str(moved.relative_to(self._run.path))
                self._recorder.record(
                    EpochMoved(attempt=epoch.attempt, epoch=epoch.epoch, manifest=where, reason="superseded")
                )

    def _find_epochs(self) -> None:
        """New commits. The directory is read when its time stamp changed, and now and then in any case."""
        changed = self._run.checkpoints.stat().st_mtime_ns
        if changed == self._checkpoints_changed:
            return
        self._checkpoints_changed = changed
        standing = {epoch.manifest for epoch in self.history.lineage()}
        for path in scan_manifests(self._run.checkpoints):
            name = str(path.relative_to(self._run.path))
            if name in standing or not path.name.startswith("checkpoint_epoch"):
                continue
            try:
                manifest = read_manifest(path)
            except CorruptCheckpointError as error:
                log.warning("%s; moved to quarantine", error)
                rollback.quarantine(self._run.path, path, None)
                continue
            if manifest.role is Role.EPOCH and (manifest.attempt, manifest.epoch) not in self.history.epochs:
                self._recorder.record(
                    EpochCommitted(
                        attempt=manifest.attempt,
                        epoch=manifest.epoch,
                        step=manifest.step,
                        manifest=name,
                        sha256=manifest.weights.sha256,
                        finite=manifest.finite,
                    )
                )

    def _check_liveness(self, now: float) -> None:
        worker = self._worker
        if worker is None or self._interrupt is not None:
            return
        late = worker.overdue(now)
        if late is not None:
            self._screen.say(f"the worker stands still: {late}; its stacks go to worker.log, then it is stopped")
            worker.condemn(Condemned(Outcome.HUNG, Cause.WORKER_HUNG, late, {}), stacks=True)

    def _check_evaluator(self) -> None:
        """An evaluator that cannot score anything is found out in the first minute, not after days of training.

        Once a run has scores, such a fault costs scores and alerts, never training.
        """
        refusal = self._scoring.refusal
        if refusal is None or self._verdict is not None or self.history.best or self._trained:
            return
        self._verdict = GaveUp(reason=f"the evaluator cannot score anything: {refusal}", exit_code=78)
        if self._worker is None:
            self._give_up(self._verdict)
        else:
            self._worker.ask_to_stop()

    def _give_up(self, verdict: GaveUp) -> None:
        self._recorder.record(verdict)
        self._trained = True

    def _check_scores(self) -> None:
        """A checkpoint that gives NaN in evaluation, whatever it says of itself, ends the attempt that made it."""
        worker = self._worker
        if worker is None or worker.condemned is not None:
            return
        for epoch in self.history.not_finite_in(worker.attempt):
            told = next(score.message for score in epoch.scores.values() if score.verdict == "not-finite")
            message = f"epoch {epoch.epoch} gives logits that are not finite: {told}"
            worker.condemn(Condemned(Outcome.UNSTABLE, Cause.NAN_WEIGHTS, message, {"scored_epoch": epoch.epoch}))
            return

    # --- the end of an attempt, and its answer -----------------------------------------------------------------------

    def _worker_exited(self, message: WorkerExited) -> None:
        worker = self._worker
        if worker is None or worker.attempt != message.attempt:
            return
        self._read_journal(self._clock())
        self._find_epochs()
        self._worker = None
        asked = self._interrupt is not None or self._verdict is not None
        ended = worker.ended(message.returncode, asked=asked)
        self._conclude(ended, trouble=worker.last_trouble, condemned=worker.condemned)
        if self._verdict is not None:
            self._give_up(self._verdict)

    def _conclude(
        self, ended: AttemptEnded, *, trouble: Trouble | None = None, condemned: Condemned | None = None
    ) -> None:
        self._recorder.record(ended)
        match ended.outcome:
            case Outcome.FINISHED:
                self._trained = True
            case Outcome.STOPPED:
                pass
            case _:
                self._await_answer(ended, trouble=trouble, condemned=condemned)

    def _await_answer(
        self, ended: AttemptEnded, *, trouble: Trouble | None = None, condemned: Condemned | None = None
    ) -> None:
        """Open the incident, unless a daemon before this one did, and leave the answer to the next look."""
        known = next(
            (i.number for i in self.history.incidents if i.opened.fatal and i.opened.attempt == ended.attempt), None
        )
        if known is None and ended.cause is not None:
            evidence: Evidence = dict(trouble.evidence) if trouble and trouble.fatal else {}
            incident = open_incident(
                self._run.path,
                self.history,
                attempt=ended.attempt,
                cause=ended.cause,
                step=trouble.step if trouble and trouble.fatal else ended.step,
                epoch=ended.epoch + 1,
                message=ended.message,
                evidence={**evidence, **(condemned.evidence if condemned else {})},
                fatal=True,
                directory=trouble.incident if trouble and trouble.fatal else None,
            )
            self._recorder.record(incident)
            known = incident.number
        self._undecided = Undecided(ended, known or 0, self._clock() + self._config.recovery.wait_for_scores_seconds)

    def _answer(self, now: float) -> None:
        """Decide and record what follows, once it is known which epochs are good or that cannot be waited for."""
        undecided = self._undecided
        if undecided is None:
            return
        attempt = self.history.attempt(undecided.ended.attempt)
        decision = policy.decide(
            _settings(attempt.plan), self._past(undecided), self._ending(undecided), self._config.recovery
        )
        match decision:
            case policy.Complete():
                self._trained = True
            case policy.GiveUp():
                self._give_up(GaveUp(reason=decision.reason, exit_code=decision.exit_code))
            case policy.Restart():
                if decision.resume == "verified-good" and self._scores_are_coming() and now < undecided.until:
                    return
                self._plan_restart(attempt, undecided, decision)
            case _:
                assert_never(decision)
        self._undecided = None

    def _scores_are_coming(self) -> bool:
        return any(epoch.finite and epoch.moved is None for epoch in self.history.unscored.values())

    def _past(self, undecided: Undecided) -> list[policy.Past]:
        """The fatal incidents before this one, oldest first."""
        past, before = [], 0
        for incident in self.history.fatal_incidents():
            if incident.number == undecided.incident:
                break
            answer = self.history.answer_to(incident)
            progress = self.history.progressed(before, incident.opened.attempt)
            remedy = policy.remedy_of(answer.remedy) if answer else None
            past.append(policy.Past(incident.opened.cause, remedy, progress))
            before = incident.opened.attempt
        return past

    def _ending(self, undecided: Undecided) -> policy.Ending:
        ended = undecided.ended
        earlier = [i.opened.attempt for i in self.history.fatal_incidents() if i.number != undecided.incident]
        return policy.Ending(
            outcome=ended.outcome,
            cause=ended.cause,
            message=ended.message,
            epoch_under_way=ended.epoch + 1,
            stepped=ended.stepped,
            ever_stepped=any(a.ended is not None and a.ended.stepped for a in self.history.attempts),
            progress=self.history.progressed(max(earlier, default=0), ended.attempt),
        )

    def _plan_restart(self, attempt: Attempt, undecided: Undecided, decision: policy.Restart) -> None:
        self._plan_next(
            attempt,
            because=decision.because,
            resume=decision.resume,
            settings=decision.settings,
            incident=undecided.incident,
            remedy=decision.remedy,
            delay_seconds=decision.delay_seconds,
        )

    def _plan_next(
        self,
        attempt: Attempt,
        *,
        because: str,
        resume: policy.ResumeFrom = "latest",
        settings: policy.Settings | None = None,
        incident: int | None = None,
        remedy: policy.Remedy | None = None,
        delay_seconds: float = 0.0,
    ) -> None:
        """Record the intent; carrying it out starts with the next look."""
        if settings is None:  # what was never trained with may have been mended in the file
            settings = _settings(attempt.plan) if self.history.ever_stepped else self._configured()
        point, broken = rollback.choose(self._run.path, self.history, resume)
        for entry in broken:
            self._set_aside(entry)
        self._recorder.record(
            AttemptPlanned(
                attempt=attempt.number + 1,
                lr=settings.lr,
                amp=settings.amp,
                batch_size=settings.batch_size,
                accumulate=settings.accumulate,
                resume_from=point and point.manifest,
                resume_epoch=point.epoch if point else 0,
                resume_step=point.step if point else 0,
                because=because,
                incident=incident,
                remedy=remedy,
                delay_seconds=delay_seconds,
            )
        )
        self._start_at = self._clock() + delay_seconds

    def _set_aside(self, broken: rollback.Broken) -> None:
        manifest = broken.manifest
        known = None
        if manifest is not None and manifest.role is Role.EPOCH:
            known = self.history.epochs.get((manifest.attempt, manifest.epoch))
        if known is not None:
            self._record_all(self._scoring.condemn_file(known, broken.message))
        else:
            log.warning("%s: %s; moved to quarantine", broken.path, broken.message)
            rollback.quarantine(self._run.path, broken.path, manifest)

    def _start_when_due(self, now: float) -> None:
        attempt = self.history.current
        if self._worker is not None or attempt is None or attempt.spawned is not None or now < self._start_at:
            return
        if self._trained:
            return  # given up before it began
        lock = self._lock.acquire()
        if lock is None:
            return  # something of the last worker still holds the device
        for manifest, where in rollback.supersede(self._run.path, attempt.plan.resume_step):
            if (manifest.attempt, manifest.epoch) in self.history.epochs and manifest.role is Role.EPOCH:
                self._recorder.record(
                    EpochMoved(attempt=manifest.attempt, epoch=manifest.epoch, manifest=where, reason="superseded")
                )
        spec = self._spec(attempt.plan, self.history.pending_drills)
        self._worker = Worker.spawn(
            spec, lock, command=self._worker_command, watch=self._config.watch, inbox=self._inbox, now=now
        )
        identity = self._worker.identity
        self._recorder.record(
            AttemptSpawned(attempt=attempt.number, pid=identity.pid, create_time=identity.create_time)
        )

    # --- telling, stopping, ending ---------------------------------------------------------------------------------

    def _update_alerts(self) -> None:
        if not self._recorder.news:
            return
        self._recorder.news = False
        now = rules.current_alerts(self.history, self._config.alerts)
        for change in alerts.changes(self.history.alerts, now, time.time()):
            self._recorder.record(change)

    def _interrupted(self, number: int) -> None:
        """The first signal lets the worker save and leave, the second does not wait."""
        if self._interrupt is None:
            self._interrupt = number
            if self._worker is not None:
                self._screen.say("stopping: the worker saves at the next step boundary (again to stop at once)")
                self._worker.ask_to_stop()
        elif self._worker is not None:
            self._screen.say("stopping at once: the worker is killed; the last checkpoint stands")
            self._worker.kill()

    def _end_when_done(self) -> None:
        if self._worker is not None:
            return
        if self._interrupt is not None:
            self._recorder.record(DaemonStopped(reason=signal.Signals(self._interrupt).name))
            self._exit_code = 128 + self._interrupt
        elif self._trained and not self.history.unscored:
            self._close_run()

    def _close_run(self) -> None:
        upkeep.remove_surplus(self._run.path, self.history, self._config.checkpoints)
        if self.history.gave_up is not None:
            self._exit_code = self.history.gave_up.exit_code
        else:
            standing = self.history.lineage()
            failed = len(self.history.failed_epochs())
            self._recorder.record(RunFinished(trained=len(standing), unscored=failed))
            self._exit_code = 1 if standing and failed >= len(standing) else 0
        self._update_alerts()
        self._recorder.record(DaemonStopped(reason="gave up" if self._exit_code else "finished"))

    def _record_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._recorder.record(event)


def _settings(plan: AttemptPlanned) -> policy.Settings:
    return policy.Settings(plan.lr, plan.amp, plan.batch_size, plan.accumulate)
