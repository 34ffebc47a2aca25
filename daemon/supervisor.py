"""The loop: one inbox, one owner of state. Takes messages, looks at the disk, records facts, carries out decisions.

What to do is decided by `policy`, what to say by `rules`; this module only brings facts to them and does what they say.
A fact is recorded before it is acted on, so that a daemon started again goes on where this one died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty
from typing import Literal, assert_never

from ..checkpoints.manifest import Role
from ..errors import SegwatchError
from ..trainer.contract import JOURNAL, SPEC, WORKER_LOCK, AttemptSpec, Cause, Drill, attempt_dir
from . import alerts, going_on, process, rollback, rules, storage, upkeep
from .answering import Answers
from .config import RunConfig
from .desk import Desk
from .diagnosing import DIAGNOSIS_COMMAND, Diagnosing
from .events import (
    AttemptEnded,
    AttemptPlanned,
    DaemonStarted,
    DaemonStopped,
    DiskSeen,
    EpochMoved,
    Event,
    GaveUp,
    Outcome,
    RescoreWanted,
    RunFinished,
)
from .farewell import Condemned
from .history import History
from .inbox import (
    DiagnosisExited,
    EvaluatorExited,
    EvaluatorSaid,
    Housekeep,
    Inbox,
    Interrupted,
    Look,
    Message,
    WorkerExited,
)
from .members import Attempt
from .observing import Observer, Screen
from .recording import Recorder
from .rundir import RunDir
from .scoring import Scoring
from .standby import Standby
from .trials import Trials
from .watcher import HOUSEKEEP_SECONDS, Nudge, Watcher
from .worker import Worker, known_worker, running_worker, spawned_as

LEAVING_POLLS = 10


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
        standby: Standby | None = None,
        diagnosis_command: Sequence[str] = DIAGNOSIS_COMMAND,
        clock: Callable[[], float] = time.monotonic,
        each_look: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._run = run
        self._config = config
        self._spec = spec
        self._recorder = recorder
        self._scoring = scoring
        self._screen = screen
        self._inbox = inbox
        self._worker_command = worker_command
        self._standby = standby
        self._clock = clock
        self._each_look = each_look
        self._nudge = Nudge(inbox)
        self._lock = process.WorkerLock(run.path)
        self._worker: Worker | None = None
        self._observer = Observer(run, recorder, screen)
        self._rules = rules.Rules.of(config, going_on.calls(run))
        self._diagnosing = self._diagnoses(diagnosis_command)
        self._trials = Trials(config, recorder)
        self._answers = Answers(
            run, config, recorder, scoring=scoring, diagnosing=self._diagnosing, trials=self._trials, clock=clock
        )
        self._desk = Desk(run.path)
        self._interrupt: int | None = None
        self._verdict: GaveUp | None = None
        """Why the run is given up as soon as its worker has saved and left."""
        self._parting = False
        """Whether the worker was asked to leave, so that the next one goes on with other settings."""
        self._exit_code: int | None = None
        self._housekept_at = clock()
        self._tidied_at: float | None = None
        """The newest fact that retention has seen."""
        self._retention = upkeep.Retention()

    def _diagnoses(self, command: Sequence[str]) -> Diagnosing:
        return Diagnosing(
            self._run.path,
            self._config,
            self._recorder,
            command=command,
            lock=self._lock,
            inbox=self._inbox,
            free_the_device=self._free_the_device,
            say=self._screen.say,
            standby=self._standby,
        )

    @property
    def history(self) -> History:
        return self._recorder.history

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        watcher = Watcher(self._inbox, self._nudge, scan_seconds=self._config.watch.scan_seconds)
        try:
            self._begin()
            self._update_alerts()  # what the disk did to the daemon before this one may be over at the first look
            self._recorder.delivered()
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
                self._housekeep()
            case Interrupted():
                self._interrupted(message.signal)
            case WorkerExited():
                self._worker_exited(message)
            case DiagnosisExited():
                self._diagnosing.exited(message)
            case EvaluatorSaid():
                self._record_all(self._scoring.heard(message))
                self._check_evaluator()
            case EvaluatorExited():
                self._record_all(self._scoring.died(message))
            case _:
                assert_never(message)

    def _look(self) -> None:
        """One round over everything that may have changed. While no fact comes, its cost does not grow with the run."""
        now = self._clock()
        if now - self._housekept_at > 2 * HOUSEKEEP_SECONDS:  # the scheduler is dead, or the clock was set back
            self._housekeep()
        self._check_disk()
        if self._worker is not None:
            self._observer.read_journal(self._worker, now)
        self._observer.find_epochs()
        self._check_liveness(now)
        if self._interrupt is None:
            self._record_all(self._scoring.tend())
            self._check_scores()
            self._bring_trials_forward()
            self._answers.answer(now)
            self._start_when_due(self._clock())  # what was planned a moment ago may be due
        self._tend_standby()
        self._record_all(self._desk.facts(self.history, time.time()))
        self._update_alerts()
        self._recorder.delivered()
        for look in self._each_look:  # what follows the clock and not the facts: digests, gauges
            look()
        self._end_when_done()

    # --- beginning -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Go on from wherever the last daemon was, however it went."""
        me = process.myself()
        self._recorder.record(DaemonStarted(pid=me.pid, create_time=me.create_time, host=socket.gethostname()))
        if self.history.failed_epochs():
            self._recorder.record(RescoreWanted())
        self._observer.find_moved()
        self._observer.find_epochs()
        attempt = self.history.current
        if attempt is None:
            self._answers.plan_first()
        elif attempt.ended is not None:
            self._answers.go_on_after(attempt, attempt.ended)
        elif (identity := running_worker(self._run.path, attempt, self._lock)) is not None:
            self._adopt(attempt, identity)
        elif not self._nobody_is_left():
            raise SegwatchError(
                "worker.lock is held, but not by a worker of this run that can be found",
                where=self._run.path / WORKER_LOCK,
                remedy="something that the last worker started still runs: end it (fuser shows its pid), try again",
            )
        elif attempt.spawned is not None or (attempt_dir(self._run.path, attempt.number) / JOURNAL).exists():
            self._bury(attempt)

    def _adopt(self, attempt: Attempt, identity: process.Identity) -> None:
        """A worker outlived its daemon: it goes on training, and this daemon watches it from here."""
        spec = self._frozen_spec(attempt)
        if attempt.spawned is None:
            self._recorder.record(spawned_as(attempt.number, identity))
        self._worker = self._watched(spec, identity)
        self._worker.tell_its_end(self._inbox)
        if not self._observer.finds_condemned(self._worker) and (
            self._trials.parts(attempt.number) or self._worker.asked_before  # and whether it heard that, nobody knows
        ):
            self._parting = True
            self._worker.ask_to_stop()
        self._screen.say(f"adopted the worker of attempt {attempt.number} (pid {identity.pid}): it went on training")

    def _nobody_is_left(self) -> bool:
        """A worker may leave while it is looked for; what one has left behind is killed."""
        if self._lock.free():
            return True
        self._free_the_device()
        pause = threading.Event()
        for _ in range(LEAVING_POLLS):
            if self._lock.free():
                return True
            pause.wait(process.POLL_SECONDS)
        return False

    def _bury(self, attempt: Attempt) -> None:
        """A worker ended while no daemon watched: what it left to read is read first, then its end is taken up."""
        gone = known_worker(attempt.spawned) if attempt.spawned else process.NOBODY
        worker = self._watched(self._frozen_spec(attempt), gone)
        self._observer.finds_condemned(worker)
        self._observer.read_journal_to_its_end(worker, self._clock())
        # Of one that left no word nobody can tell who killed it, unless whoever had asked it has noted that: rather an
        # incident that was none than one that is lost.
        asked = (self._trials.parts(attempt.number) or worker.asked_before) and worker.left_word
        asked = asked or worker.killed_on_request
        self._conclude(worker.ended(None, asked=asked), worker)

    def _watched(self, spec: AttemptSpec, identity: process.Identity) -> Worker:
        offset = self._observer.noted_offset(spec.attempt)
        return Worker(spec, identity, watch=self._config.watch, now=self._clock(), offset=offset)

    def _frozen_spec(self, attempt: Attempt) -> AttemptSpec:
        path = attempt_dir(self._run.path, attempt.number) / SPEC
        if path.exists():
            return AttemptSpec.model_validate_json(path.read_bytes())
        return self._spec(attempt.plan, self.history.pending_drills)

    def _housekeep(self) -> None:
        self._housekept_at = self._clock()
        self._observer.find_epochs(anyway=True)
        self._tidy()

    # --- watching --------------------------------------------------------------------------------------------------

    def _check_liveness(self, now: float) -> None:
        worker = self._worker
        if worker is None or self._interrupt is not None:
            return
        late = worker.overdue(now)
        if late is not None:
            self._screen.say(f"the worker stands still: {late}; its stacks go to worker.log, then it is stopped")
            worker.condemn(Condemned(Outcome.HUNG, Cause.WORKER_HUNG, late, {}), self._recorder.note, stacks=True)

    def _check_disk(self) -> None:
        """Told before it is full: a full disk takes no alert. Room counts again only with a margin."""
        free = storage.free_bytes(self._run.path)
        needed = round(1e9 * self._config.watch.disk_free_gb)
        known = "fine" if self.history.disk is None else self.history.disk.state
        state: Literal["fine", "low", "gone"] = "fine"
        if free < needed * (1.0 if known == "fine" else 1.1):
            state = "low"
        elif known == "gone" and not self._observer.sees_checkpoints():
            state = "gone"
        if state != known:
            self._recorder.record(DiskSeen(state=state, free_bytes=free, needed_bytes=needed))

    @property
    def _disk_is_fine(self) -> bool:
        return self.history.disk is None or self.history.disk.state in ("fine", "gone")

    def _check_evaluator(self) -> None:
        """An evaluator that cannot score anything is found out in the first minute, not after days of training.

        Once a run has scores, such a fault costs scores and alerts, never training.
        """
        refusal = self._scoring.refusal
        if refusal is None or self._verdict is not None or self.history.best or self._answers.settled:
            return
        self._verdict = GaveUp(reason=f"the evaluator cannot score anything: {refusal}", exit_code=78)
        if self._worker is None:
            self._answers.give_up(self._verdict)
        else:
            self._worker.ask_to_stop()

    def _check_scores(self) -> None:
        """A checkpoint that gives NaN in evaluation ends the attempt that made it; so do scores that have collapsed."""
        worker = self._worker
        if worker is None or worker.condemned is not None:
            return
        for epoch in self.history.not_finite_in(worker.attempt):
            told = next(score.message for score in epoch.scores.values() if score.verdict == "not-finite")
            message = f"epoch {epoch.epoch} gives logits that are not finite: {told}"
            why = Condemned(Outcome.UNSTABLE, Cause.NAN_WEIGHTS, message, {"scored_epoch": epoch.epoch})
            worker.condemn(why, self._recorder.note)
            return
        collapse = self._rules.collapse(self.history)
        if collapse is not None:
            evidence = {**collapse.evidence, "onset_step": collapse.since.step}
            why = Condemned(Outcome.UNSTABLE, Cause.MIOU_COLLAPSE, collapse.message, evidence)
            worker.condemn(why, self._recorder.note)

    # --- the end of an attempt, and its answer -----------------------------------------------------------------------

    def _worker_exited(self, message: WorkerExited) -> None:
        worker = self._worker
        if worker is None or worker.attempt != message.attempt:
            return
        self._observer.read_journal_to_its_end(worker, self._clock())
        self._observer.find_epochs(anyway=True)  # also what arrived under a name that this worker would not have chosen
        self._worker = None
        parting, self._parting = self._parting, False
        wanted = self._interrupt is not None or self._verdict is not None or parting
        asked = wanted and not worker.struck_down(message.returncode)
        self._conclude(worker.ended(message.returncode, asked=asked), worker)
        if self._verdict is not None:
            self._answers.give_up(self._verdict)

    def _conclude(self, ended: AttemptEnded, worker: Worker) -> None:
        self._answers.conclude(ended, trouble=worker.last_trouble, condemned=worker.condemned)
        if ended.outcome is Outcome.STOPPED and self._interrupt is None and self._verdict is None:
            self._answers.go_on_after(self.history.attempt(ended.attempt), ended)

    def _bring_trials_forward(self) -> None:
        """Remedies prove themselves, are taken back, and are put back, each by an attempt of its own."""
        self._trials.settle()
        worker = self._worker
        if worker is None or worker.condemned is not None or self._verdict is not None or self._parting:
            return
        if self.history.attempt(worker.attempt).started is None or not self._disk_is_fine:
            return
        why = self._trials.worker_has_to_leave()
        if why is not None:
            self._screen.say(f"the worker saves and leaves, for other settings: {why}")
            self._trials.part(worker.attempt)
            self._parting = True
            worker.ask_to_stop()

    def _start_when_due(self, now: float) -> None:
        attempt = self.history.current
        if self._worker is not None or attempt is None or now < self._answers.start_at:
            return
        if attempt.spawned is not None or attempt.ended is not None:
            return  # ended alone: its daemon died before it could note the pid
        if self._answers.settled:
            return  # given up before it began
        if not self._disk_is_fine:
            return  # its first checkpoint would not fit; the alert says that it waits
        lock = self._lock.acquire()
        if lock is None:
            self._free_the_device()
            return
        try:
            self._roll_back(attempt.plan.resume_step)
            spec = self._spec(attempt.plan, self.history.pending_drills)
        except BaseException:  # a disk that refuses ends this supervisor, but not the process that has the lock
            os.close(lock)
            raise
        self._worker = Worker.spawn(
            spec,
            lock,
            command=self._worker_command,
            watch=self._config.watch,
            inbox=self._inbox,
            now=now,
            standby=self._standby,
        )
        identity = self._worker.identity
        self._recorder.record(spawned_as(attempt.number, identity))

    def _tend_standby(self) -> None:
        """One waits while a worker trains; it is started after that one's first steps, which it would slow down.

        Where it became a replay, the next one loads beside that, and is there for the worker that follows.
        """
        if self._standby is None:
            return
        if self._answers.settled or self._interrupt is not None:
            self._standby.close()
        elif self._diagnosing.running or (self._worker is not None and self._worker.under_way):
            self._standby.tend()

    def _roll_back(self, step: int) -> None:
        for manifest, where in rollback.supersede(self._run.path, self.history, step):
            if (manifest.attempt, manifest.epoch) in self.history.epochs and manifest.role is Role.EPOCH:
                self._recorder.record(
                    EpochMoved(attempt=manifest.attempt, epoch=manifest.epoch, manifest=where, reason="superseded")
                )

    def _free_the_device(self) -> None:
        """The worker is gone and its lock is not: what it started outlived it, and may hold the GPU."""
        for attempt in self.history.attempts[-2:]:
            if attempt.spawned is not None and (ended := self._lock.end_holders(known_worker(attempt.spawned))):
                self._screen.say(f"processes that attempt {attempt.number} left behind were killed: {ended}")
        if ended := self._diagnosing.end_left_over():
            self._screen.say(f"processes that a replay left behind were killed: {ended}")

    # --- telling, stopping, ending ---------------------------------------------------------------------------------

    def _update_alerts(self) -> None:
        if not self._recorder.news:
            return
        self._recorder.news = False
        now = self._rules.current_alerts(self.history)
        for change in alerts.changes(self.history.alerts, now, time.time()):
            self._recorder.record(change)

    def _interrupted(self, number: int) -> None:
        """The first signal lets the worker save and leave, the second does not wait."""
        if self._interrupt is None:
            self._interrupt = number
            self._diagnosing.stop()
            if self._worker is not None:
                self._screen.say("stopping: the worker saves at the next step boundary (again to stop at once)")
                self._worker.ask_to_stop()
        elif self._worker is not None:
            self._screen.say("stopping at once: the worker is killed; the last checkpoint stands")
            self._worker.kill()

    def _end_when_done(self) -> None:
        if self._worker is not None or self._diagnosing.running:
            return
        if self._interrupt is not None:
            self._nobody_is_left()
            self._recorder.record(DaemonStopped(reason=signal.Signals(self._interrupt).name))
            self._exit_code = 128 + self._interrupt
        elif self._answers.settled and not self.history.unscored:
            self._close_run()

    def _tidy(self) -> None:
        """Only when something has happened since: what may go follows from the facts."""
        if self.history.last_at != self._tidied_at:
            self._tidied_at = self.history.last_at
            self._retention.remove_surplus(self._run.path, self.history, self._config.checkpoints)

    def _close_run(self) -> None:
        self._nobody_is_left()
        self._tidy()
        if self.history.gave_up is not None:
            self._exit_code = self.history.gave_up.exit_code
        else:
            self._trials.settle_at_the_end()
            standing = self.history.lineage()
            failed = len(self.history.failed_epochs())
            self._recorder.record(RunFinished(trained=len(standing), unscored=failed))
            self._exit_code = 1 if standing and failed >= len(standing) else 0
        self._update_alerts()
        self._recorder.record(DaemonStopped(reason="gave up" if self._exit_code else "finished"))

    def _record_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._recorder.record(event)
