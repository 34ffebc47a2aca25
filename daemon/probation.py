"""PURE: a run's history in, which remedies have proved themselves out. No clock, no file, no decision on what follows.

A remedy is on trial until so many epochs were committed since the restart that brought it, one of their test scores
comes up to the last one before the incident, and the run is past where it broke. The trouble coming back ends a trial
the other way. The undoing of a remedy is tried likewise; there, scores that stay too low are a failure as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from ..trainer.contract import Cause
from . import policy
from .config import RecoveryConfig
from .events import AttemptPlanned, ProbationEnded
from .history import History
from .members import Epoch, Incident


class Stage(StrEnum):
    """How far an incident is answered, as a person says it."""

    OPEN = "not recovered"
    ON_PROBATION = "on probation"
    RESOLVED = "recovered"
    FAILED = "its remedy did not hold"
    ENDED_ON_PROBATION = "the run ended on probation"


def stage(history: History, incident: Incident) -> Stage:
    """How far an incident is answered."""
    answer = history.answer_to(incident) if incident.opened.fatal else None
    if answer is not None and answer.attempt in history.tried.open:
        return Stage.ENDED_ON_PROBATION if history.finished else Stage.ON_PROBATION
    ended = None if answer is None else history.tried.ends.get(answer.attempt)
    if ended is not None and not ended.passed:
        return Stage.FAILED
    return Stage.RESOLVED if history.recovered(incident) else Stage.OPEN


@dataclass(frozen=True)
class Standing:
    """Where a trial stands."""

    epochs: int
    """Committed since the restart, and standing."""
    judged: int
    """Of these, with a test mIoU."""
    best: float | None
    """The highest test mIoU among those that are verified good."""
    latest: float | None
    """The newest test mIoU since the restart."""
    before: float | None
    """That of the last verified-good epoch before the incident; of an undoing, of the last one before it."""
    is_past: bool
    """Whether the run has come beyond the step at which it broke."""

    def reaches(self, share: float, miou: float | None) -> bool:
        return miou is not None and (self.before is None or miou >= share * self.before)


class Trial:
    """One plan on trial. New scores are folded on: what a look costs does not grow with the epochs since."""

    def __init__(self, plan: AttemptPlanned) -> None:
        self.plan = plan
        self._rewritten = -1
        self._place = 0
        self._best: float | None = None
        self._judged = 0

    def standing(self, history: History) -> Standing:
        line = history.lineage()
        began = bisect_right(line, self.plan.resume_epoch, key=lambda epoch: epoch.epoch)
        since = len(line) - began if self._runs(history) else 0
        self._fold(history)
        scored = history.scored_lineage()
        latest = scored[-1][1] if self._judged else None
        broke = None if self.plan.undoes is not None else history.incident(self.plan.incident)
        good = _newest_good(history, began) if broke is None else history.last_good_before(broke)
        before = None if good is None else good.miou("test")
        is_past = broke is None or (since > 0 and line[-1].step >= broke.opened.step)
        return Standing(since, self._judged, self._best, latest, before, is_past)

    def _runs(self, history: History) -> bool:
        """Until its worker starts, what stands behind its resume point is the line that it will leave."""
        return history.attempt(self.plan.attempt).spawned is not None

    def _fold(self, history: History) -> None:
        line = history.scored_lineage()
        if self._rewritten != history.rewritten:
            self._rewritten, self._best, self._judged = history.rewritten, None, 0
            self._place = bisect_right(line, self.plan.resume_epoch, key=lambda scored: scored[0].epoch)
        while self._runs(history) and self._place < len(line):
            epoch, miou = line[self._place]
            if not epoch.scored:
                break  # whether it is good is not known yet
            self._place += 1
            if epoch.attempt >= self.plan.attempt:
                self._judged += 1
                if epoch.verified_good and (self._best is None or miou > self._best):
                    self._best = miou


class Probations:
    """Every trial of one run, asked after every fact."""

    def __init__(self, config: RecoveryConfig) -> None:
        self._config = config
        self._kept: dict[int, Trial] = {}

    def ended(self, history: History) -> Iterator[ProbationEnded]:
        """The trials that are decided and not recorded as such."""
        self._kept = {attempt: trial for attempt, trial in self._kept.items() if attempt in history.tried.open}
        for plan in list(history.tried.open.values()):
            end = self._broken_off(history, plan) or self._judged(history, plan)
            if end is not None:
                yield end

    def at_the_end(self, history: History) -> Iterator[ProbationEnded]:
        """The run is over before its time: where the last score says enough, the trial is passed."""
        for plan in list(history.tried.open.values()):
            standing = self._trial(plan).standing(history)
            if standing.best is not None and standing.reaches(self._config.probation_share, standing.latest):
                words = f"the run ended {_counted(standing.epochs)} after it, with a sound score"
                yield _end(plan, standing, standing.latest, passed=True, because=words)

    def _trial(self, plan: AttemptPlanned) -> Trial:
        return self._kept.setdefault(plan.attempt, Trial(plan))

    def _broken_off(self, history: History, plan: AttemptPlanned) -> ProbationEnded | None:
        """By the same trouble."""
        wanted = _family(history, plan)
        since = takewhile(lambda incident: incident.opened.attempt >= plan.attempt, reversed(history.incidents))
        for incident in since:
            opened = incident.opened
            if opened.fatal and policy.family(opened.cause) == wanted:
                again = "came" if plan.undoes else "came back"
                words = f"{opened.cause} {again} in epoch {opened.epoch} (incident {opened.number:03d})"
                standing = self._trial(plan).standing(history)
                return _end(plan, standing, standing.best, passed=False, because=words)
        return None

    def _judged(self, history: History, plan: AttemptPlanned) -> ProbationEnded | None:
        """By its epochs and their scores; `None` while it may go either way."""
        config, standing = self._config, self._trial(plan).standing(history)
        before = "no score before it" if standing.before is None else f"{100 * standing.before:.2f} % before it"
        enough = standing.is_past and standing.epochs >= config.probation_epochs
        if enough and standing.reaches(config.probation_share, standing.best):
            assert standing.best is not None
            words = f"{_counted(standing.epochs)} since, test mIoU {100 * standing.best:.2f} % ({before})"
            return _end(plan, standing, standing.best, passed=True, because=words)
        if plan.undoes is None or standing.judged < config.probation_epochs or standing.before is None:
            return None
        reached = "no good score" if standing.best is None else f"test mIoU {100 * standing.best:.2f} % at best"
        words = f"{_counted(standing.judged)} since, {reached} ({before}; {config.probation_share:.0%} of it is asked)"
        return _end(plan, standing, standing.best, passed=False, because=words)


def on_trial_words(history: History) -> list[str]:
    """What is on probation now, a line each."""
    lines = []
    for plan in history.tried.open.values():
        now = Trial(plan).standing(history)
        what = f"{plan.undoes} taken back" if plan.undoes else str(plan.remedy)
        known = {"at best": now.best, "before": now.before}
        scores = [f"{name} {100 * miou:.2f} %" for name, miou in known.items() if miou is not None]
        told = f", test mIoU {', '.join(scores)}" if scores else ""
        lines.append(f"{what}, since attempt {plan.attempt}: {_counted(now.epochs)}{told}")
    return lines


def to_go_back_to(history: History) -> Epoch | None:
    """The epoch that the undoing on trial would be answered from; its training state must not go meanwhile."""
    undoings = [plan for plan in history.tried.open.values() if plan.undoes is not None]
    if not undoings:
        return None
    line = history.lineage()
    return _newest_good(history, bisect_right(line, undoings[-1].resume_epoch, key=lambda epoch: epoch.epoch))


def _newest_good(history: History, until: int) -> Epoch | None:
    """Among the first `until` of the standing line."""
    line = history.lineage()
    return next((line[place] for place in range(until - 1, -1, -1) if line[place].verified_good), None)


def _family(history: History, plan: AttemptPlanned) -> str:
    causes = (incident.opened.cause for incident in history.incidents if incident.number == plan.incident)
    return policy.family(Cause.NAN_LOSS if plan.undoes is not None else next(causes, Cause.NAN_LOSS))


def _end(plan: AttemptPlanned, standing: Standing, miou: float | None, *, passed: bool, because: str) -> ProbationEnded:
    return ProbationEnded(
        attempt=plan.attempt,
        incident=None if plan.undoes is not None else plan.incident,
        passed=passed,
        because=because,
        epochs=standing.epochs,
        miou=miou,
        miou_before=standing.before,
    )


def _counted(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"
