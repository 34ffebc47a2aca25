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

from ..trainer.diagnosis import Finding
from . import policy
from .config import RecoveryConfig
from .events import AttemptPlanned, Diagnosed, Outcome, ProbationEnded
from .findings import late_steps, place_of
from .history import History
from .members import Epoch, Incident
from .undoing import AMP_KINDS


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
            if any(self._is_in_question(history, incident) for incident in _since(history, plan)):
                continue  # its replay will say whether it speaks against the trial; until then, scores do not decide
            end = self._broken_off(history, plan) or self._judged(history, plan)
            if end is not None:
                yield end

    def at_the_end(self, history: History) -> Iterator[ProbationEnded]:
        """The run is over before its time: where the last score says enough, the trial is passed."""
        for plan in list(history.tried.open.values()):
            standing = self._trial(plan).standing(history)
            sound = standing.best is not None and standing.reaches(self._config.probation_share, standing.latest)
            if standing.is_past and sound:
                words = f"the run ended {_counted(standing.epochs)} after it, with a sound score"
                yield _end(plan, standing, standing.latest, passed=True, because=words)

    def _trial(self, plan: AttemptPlanned) -> Trial:
        return self._kept.setdefault(plan.attempt, Trial(plan))

    def _broken_off(self, history: History, plan: AttemptPlanned) -> ProbationEnded | None:
        """By the same trouble; an undoing by what its remedy was against, and by what nobody knows."""
        for incident in _since(history, plan):
            opened = incident.opened
            if plan.undoes is None:
                answered = history.incident(plan.incident)
                if answered is None or not _is_the_same(history, answered, incident):
                    continue
                came, guess = "came back" if opened.cause is answered.opened.cause else "came", ""
            else:
                against = _against(history, plan, incident)
                if against is None:
                    continue
                came, guess = "came", against
            words = f"{opened.cause} {came} in epoch {opened.epoch} (incident {opened.number:03d})"
            words += f", and {guess}" if guess else ""
            standing = self._trial(plan).standing(history)
            end = _end(plan, standing, standing.best, passed=False, because=words)
            return end.model_copy(update={"guessed": bool(guess)})
        return None

    def _is_in_question(self, history: History, incident: Incident) -> bool:
        """Whether its replay is still to come."""
        if not self._config.diagnose or incident.number in history.diagnoses or history.gave_up is not None:
            return False
        raised = _outcome(history, incident) is Outcome.CRASHED
        return (incident.opened.cause in policy.NUMERIC or raised) and history.answer_to(incident) is None

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


def _since(history: History, plan: AttemptPlanned) -> Iterator[Incident]:
    """What has ended attempts since one was planned, newest first."""
    since = takewhile(lambda incident: incident.opened.attempt >= plan.attempt, reversed(history.incidents))
    return (incident for incident in since if incident.opened.fatal)


def _is_the_same(history: History, answered: Incident, later: Incident) -> bool:
    """By what replays have found, where they did; else by what it looked like. One killed has not crashed."""
    first, second = _found(history, answered), _found(history, later)
    if first is not None and second is not None:
        other_files = first.files and second.files and not set(first.files) & set(second.files)
        return first.finding is second.finding and not other_files
    same_end = _outcome(history, answered) is _outcome(history, later)
    return answered.opened.cause is later.opened.cause and same_end


def _found(history: History, incident: Incident) -> Diagnosed | None:
    found = history.diagnoses.get(incident.number)
    return None if found is None or found.finding is Finding.UNKNOWN else found


def _outcome(history: History, incident: Incident) -> Outcome | None:
    ended = history.attempt(incident.opened.attempt).ended
    return None if ended is None else ended.outcome


def _against(history: History, plan: AttemptPlanned, incident: Incident) -> str | None:
    """Whether an incident speaks against doing without a remedy. Empty: it does, a replay has shown it. Words: nobody
    knows, and why. `None`: it has a remedy of its own, or none is needed.
    """
    found = history.diagnoses.get(incident.number)
    fitting = Finding.PRECISION if plan.undoes in AMP_KINDS else Finding.LEARNING_RATE
    if found is not None and found.finding is fitting:
        return ""
    if incident.opened.cause not in policy.NUMERIC:
        return None
    amp, before = history.attempt(incident.opened.attempt).plan.amp, _transients_before(history, incident)
    if found is not None and policy.has_remedy(found, amp, numeric=True, transients=before):
        return None
    return policy.why_guessed(found, before)


def _transients_before(history: History, incident: Incident) -> int:
    """How often something in its place could not be repeated."""
    earlier = takewhile(lambda one: one.number != incident.number, history.fatal_incidents())
    apart = late_steps(history, incident.opened.attempt)
    near = (one for one in earlier if abs(place_of(one) - place_of(incident)) <= apart)
    found = (history.diagnoses.get(one.number) for one in near)
    return sum(one is not None and one.finding is Finding.TRANSIENT for one in found)


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
