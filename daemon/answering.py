"""What follows the end of an attempt: its incident, its diagnosis beside the wait for scores, the decision, the plan.

The decision itself is `policy`'s, which is pure; here it gets its facts and its words become facts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from ..checkpoints.manifest import Role
from ..trainer.contract import JOURNAL, Trouble, attempt_dir
from . import policy, rollback
from .config import RunConfig
from .diagnosing import Diagnosing
from .events import AttemptEnded, AttemptPlanned, Diagnosed, Evidence, GaveUp, Outcome
from .farewell import Condemned
from .findings import late_steps, place_of
from .freezing import frozen_data
from .history import History
from .incidents import open_incident
from .journal import last_trouble
from .members import Attempt, Incident
from .recording import Recorder
from .rundir import RunDir
from .scoring import Scoring
from .trials import Trials
from .undoing import Change, settings_of, to_put_back

log = logging.getLogger(__name__)
LEFT_OUT_AT_MOST = 0.5
"""Of the training images: a replay that says more of them are broken is broken itself."""


@dataclass(frozen=True)
class Undecided:
    """An attempt that ended and has not been answered yet."""

    ended: AttemptEnded
    incident: int | None
    until: float
    """Monotonic time up to which its answer may wait for scores."""


class Answers:
    """Plans attempts. `start_at` is when the newest plan may be carried out; `settled` that none will follow."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        recorder: Recorder,
        *,
        scoring: Scoring,
        diagnosing: Diagnosing,
        trials: Trials,
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._config = config
        self._recorder = recorder
        self._scoring = scoring
        self._diagnosing = diagnosing
        self._trials = trials
        self._clock = clock
        self._undecided: Undecided | None = None
        self.start_at = 0.0
        self.settled = False

    @property
    def history(self) -> History:
        return self._recorder.history

    def plan_first(self) -> None:
        settings = self._trials.wished
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

    def _retuned(self, settings: policy.Settings) -> policy.Settings:
        """With what a person has edited for this attempt."""
        lr, amp = self._config.trainer.lr, self._config.trainer.amp
        if "trainer.lr" in self.history.edited:
            settings = replace(settings, lr=lr)
        if "trainer.amp" in self.history.edited:
            settings = replace(settings, amp=amp)
        return settings

    def go_on_after(self, attempt: Attempt, ended: AttemptEnded) -> None:
        """The last attempt is over and recorded; its answer is not, or it was a stop."""
        match ended.outcome:
            case _ if self.history.retry_asked:
                good = ended.outcome is Outcome.UNSTABLE
                self._plan_next(
                    attempt, because="a person asked for another try", resume="verified-good" if good else "latest"
                )
            case Outcome.FINISHED if self._reached_the_end():
                self.settled = True
            case Outcome.FINISHED:
                self._plan_next(attempt, because=f"the run was extended to {self.history.epochs_wanted} epochs")
            case Outcome.STOPPED:
                self._go_on_after_stop(attempt)
            case _ if self.history.gave_up is None:
                journal = attempt_dir(self._run.path, attempt.number) / JOURNAL
                self.await_answer(ended, trouble=last_trouble(journal))
            case _:
                self.settled = True

    def _go_on_after_stop(self, attempt: Attempt) -> None:
        """With the change for which the worker had to leave, or for which this is a good moment."""
        self._trials.settle()
        change = self._trials.change()
        if change is None:
            self._plan_next(attempt, because="the run goes on after a stop")
        else:
            self._plan_change(attempt, change)

    def _reached_the_end(self) -> bool:
        standing = self.history.lineage()
        return bool(standing) and standing[-1].epoch >= self.history.epochs_wanted

    def conclude(
        self, ended: AttemptEnded, *, trouble: Trouble | None = None, condemned: Condemned | None = None
    ) -> None:
        """Record the end of an attempt, and open its incident if it is one."""
        self._recorder.record(ended)
        match ended.outcome:
            case Outcome.FINISHED if ended.epoch < self.history.epochs_wanted:
                self.go_on_after(self.history.attempt(ended.attempt), ended)  # the file was extended meanwhile
            case Outcome.FINISHED:
                self.settled = True
            case Outcome.STOPPED:
                pass
            case _:
                self.await_answer(ended, trouble=trouble, condemned=condemned)

    def await_answer(
        self, ended: AttemptEnded, *, trouble: Trouble | None = None, condemned: Condemned | None = None
    ) -> None:
        """Open the incident, unless a daemon before this one did, and leave the answer to the next look."""
        known = next((i.number for i in self.history.incidents if _ended_by(i, ended.attempt)), None)
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
        self._undecided = Undecided(ended, known, self._clock() + self._config.recovery.wait_for_scores_seconds)

    def answer(self, now: float) -> None:
        """Decide and record what follows, once it is known what it was and which epochs are good, or that neither can
        be waited for. The replay and the evaluator work at the same time.
        """
        undecided = self._undecided
        if undecided is None:
            return
        if not self._is_diagnosed(undecided, now):
            return
        self._trials.settle()
        attempt = self.history.attempt(undecided.ended.attempt)
        change = None if undecided.ended.outcome is Outcome.PERMANENT else to_put_back(self.history)
        if change is not None:  # it was the undoing of a remedy, or may have been
            if not self._has_to_wait(change.resume, undecided, now):
                self._plan_change(attempt, change, incident=undecided.incident)
                self._undecided = None
            return
        diagnosis = self.history.diagnoses.get(undecided.incident) if undecided.incident is not None else None
        decision = policy.decide(
            settings_of(attempt.plan),
            self._past(undecided),
            self._ending(undecided),
            self._config.recovery,
            diagnosis,
        )
        match decision:
            case policy.Complete():
                self.settled = True
            case policy.GiveUp():
                self.give_up(GaveUp(reason=decision.reason, exit_code=decision.exit_code))
            case policy.Restart():
                if self._has_to_wait(decision.resume, undecided, now):
                    return
                self._plan_restart(attempt, undecided, decision)
            case _:
                assert_never(decision)
        self._undecided = None

    def _has_to_wait(self, resume: policy.ResumeFrom, undecided: Undecided, now: float) -> bool:
        return resume == "verified-good" and self._scores_are_coming() and now < undecided.until

    def _is_diagnosed(self, undecided: Undecided, now: float) -> bool:
        """Whether it is known what it was, as far as it can be."""
        incident = self.history.incident(undecided.incident)
        if incident is None or not self._diagnosing.wanted(incident):
            return True
        found = self._diagnosing.tend(incident, now)
        if found is None:
            return False
        self._recorder.record(self._with_sound_files(found))
        return True

    def _with_sound_files(self, found: Diagnosed) -> Diagnosed:
        """Only what is trained can be left out, and most of it has to stay."""
        if not found.files and not found.decode_again:
            return found
        trained = {pair.image for pair in frozen_data(self._run).splits["train"]}
        left_out = set(self.history.attempts[-1].plan.left_out)
        files = tuple(name for name in dict.fromkeys(found.files) if name in trained - left_out)
        found = found.model_copy(update={"decode_again": tuple(sorted(trained.intersection(found.decode_again)))})
        why = ""
        if not files and found.decode_again:
            return found.model_copy(update={"files": ()})
        if not files:
            why = "; none of the files is trained"
        elif len(left_out) + len(files) > LEFT_OUT_AT_MOST * len(trained):
            why = f"; {len(files)} of {len(trained)} training images are too many to leave out"
        return found.model_copy(update={"files": () if why else files, "because": found.because + why})

    def give_up(self, verdict: GaveUp) -> None:
        self._recorder.record(verdict)
        self._undecided = None
        self.settled = True

    def _scores_are_coming(self) -> bool:
        return any(epoch.finite and epoch.moved is None for epoch in self.history.unscored.values())

    def _past(self, undecided: Undecided) -> list[policy.Past]:
        """The fatal incidents before this one, oldest first."""
        past, before = [], 0
        for incident in self.history.fatal_incidents():
            if incident.number == undecided.incident:
                break
            opened, answer = incident.opened, self.history.answer_to(incident)
            if answer is not None and answer.puts_back is not None:
                continue  # segwatch brought it about itself: it costs nothing of the budgets
            progress = self.history.progressed(before, opened.attempt)
            remedy = policy.remedy_of(answer.remedy) if answer else None
            diagnosis = self.history.diagnoses.get(incident.number)
            finding = None if diagnosis is None else diagnosis.finding
            past.append(policy.Past(opened.cause, remedy, progress, place_of(incident), finding))
            before = opened.attempt
        return past

    def _ending(self, undecided: Undecided) -> policy.Ending:
        ended = undecided.ended
        earlier = [i.opened.attempt for i in self.history.fatal_incidents() if i.number != undecided.incident]
        incident = self.history.incident(undecided.incident)
        drilled = incident is not None and incident.opened.drill is not None
        return policy.Ending(
            outcome=ended.outcome,
            cause=ended.cause,
            message=ended.message,
            epoch_under_way=ended.epoch + 1,
            stepped=ended.stepped,
            ever_stepped=drilled or any(a.ended is not None and a.ended.stepped for a in self.history.attempts),
            progress=self.history.progressed(max(earlier, default=0), ended.attempt),
            step=ended.step if incident is None else place_of(incident),
            late_steps=late_steps(self.history, ended.attempt),
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
            before_step=decision.before_step,
            warm_up_steps=decision.warm_up_steps,
            leave_out=decision.leave_out,
            decode_again=decision.decode_again,
            guessed=decision.guessed,
        )

    def _plan_change(self, attempt: Attempt, change: Change, *, incident: int | None = None) -> None:
        self._plan_next(
            attempt,
            because=change.because,
            resume=change.resume,
            settings=change.settings,
            incident=incident,
            remedy=change.puts_back,
            undoes=change.undoes,
            puts_back=change.puts_back,
            before_step=change.before_step,
            warm_up_steps=change.warm_up_steps,
            guessed=change.guessed,
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
        undoes: policy.Remedy | None = None,
        puts_back: policy.Remedy | None = None,
        delay_seconds: float = 0.0,
        before_step: int | None = None,
        warm_up_steps: int = 0,
        leave_out: tuple[str, ...] = (),
        decode_again: tuple[str, ...] = (),
        guessed: bool = False,
    ) -> None:
        """Record the intent; carrying it out starts with the next look."""
        if settings is None:  # what was never trained with may have been mended in the file
            settings = self._retuned(settings_of(attempt.plan)) if self.history.ever_stepped else self._trials.wished
        point, broken = rollback.choose(self._run.path, self.history, resume, before_step=before_step)
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
                undoes=undoes,
                puts_back=puts_back,
                warm_up_steps=warm_up_steps or _warm_up_at(point.step if point else 0, self.history.attempts),
                left_out=tuple(dict.fromkeys((*attempt.plan.left_out, *leave_out))),
                decode_again=tuple(dict.fromkeys((*attempt.plan.decode_again, *decode_again))),
                delay_seconds=delay_seconds,
                guessed=guessed,
            )
        )
        self.start_at = self._clock() + delay_seconds

    def _set_aside(self, broken: rollback.Broken) -> None:
        manifest = broken.manifest
        known = None
        if manifest is not None and manifest.role is Role.EPOCH:
            known = self.history.epochs.get((manifest.attempt, manifest.epoch))
        if known is not None:
            for event in self._scoring.condemn_file(known, broken.message):
                self._recorder.record(event)
        else:
            log.warning("%s: %s; moved to quarantine", broken.path, broken.message)
            rollback.quarantine(self._run.path, broken.path, manifest)


def _warm_up_at(step: int, attempts: Sequence[Attempt]) -> int:
    """The warm-up of the newest attempt, at its whole length, where it is not over at `step`; else 0.

    How much of it is behind is in the checkpoint: another length would be another warm-up, and begin anew.
    """
    plan = attempts[-1].plan
    began = plan.resume_step
    for earlier in reversed(attempts[:-1]):
        if (earlier.plan.warm_up_steps, earlier.plan.lr) != (plan.warm_up_steps, plan.lr):
            break
        began = min(began, earlier.plan.resume_step)
    return plan.warm_up_steps if step < began + plan.warm_up_steps else 0


def _ended_by(incident: Incident, attempt: int) -> bool:
    return incident.opened.fatal and incident.opened.attempt == attempt
