"""What a run is, folded from its facts: attempts, epochs, scores, incidents, alerts. No clock, no file, no decision."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from sys import intern
from typing import assert_never

from ..trainer.contract import Cause, Drill
from .attention import Attention
from .chronicle import Chronicle
from .drilled import explains
from .events import (
    AlertChanged,
    AlertState,
    AttemptEnded,
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    Attended,
    BudgetsForgiven,
    ConfigChanged,
    DaemonStarted,
    DaemonStopped,
    DataAccepted,
    Diagnosed,
    DiskSeen,
    DrillFired,
    DrillsRequested,
    EpochCommitted,
    EpochMoved,
    Event,
    GapMeasured,
    GaveUp,
    IncidentOpened,
    ProbationEnded,
    RescoreWanted,
    RunCreated,
    RunFinished,
    ScoreRecorded,
)
from .line import Line
from .members import SCORED_SPLITS, Attempt, Epoch, Incident, Score
from .series import Series
from .tried import Tried
from .winners import Best, Winners


class History:
    """The run as its facts tell it. `apply` is the only way in."""

    def __init__(self) -> None:
        self.created: RunCreated | None = None
        self.created_at: float | None = None
        self.epochs_wanted = 0
        self.attempts: list[Attempt] = []
        self.epochs: dict[tuple[int, int], Epoch] = {}
        self._of_attempt: dict[int, list[Epoch]] = {}
        self.unscored: dict[tuple[int, int], Epoch] = {}
        """Committed and not yet scored on every split, in order of commitment, which is numeric within an attempt.
        An epoch that is to be scored again on changed files is among them, with its former scores."""
        self.standing: dict[str, Epoch] = {}
        """By manifest: what no roll-back and no quarantine has moved away."""
        self.quarantined: list[Epoch] = []
        self.failed: dict[tuple[int, int], Epoch] = {}
        """The epochs that the evaluator could not score on some split."""
        self._verdicts: dict[int, set[bool | None]] = {}
        """By attempt: whether its epochs are verified good, until one of them changes."""
        self._good_until: dict[int, int] = {}
        """The last step of a verified-good epoch, by attempt."""
        self._good_attempt = 0
        """The newest attempt with one."""
        self.incidents: list[Incident] = []
        self._by_cause: dict[Cause, list[Incident]] = {}
        self._answers: dict[int, AttemptPlanned] = {}
        """By incident: the first attempt that was planned because of it."""
        self.diagnoses: dict[int, Diagnosed] = {}
        """By incident."""
        self.probations: list[ProbationEnded] = []
        self.tried = Tried()
        self._open: list[Incident] = []
        """Not known to be recovered."""
        self.alerts: dict[str, AlertChanged] = {}
        self.told: dict[str, tuple[float, AlertChanged]] = {}
        """Of each alert that a person heard of: its last word, and when. One that begins again and goes before it fires
        takes nothing back."""
        self.not_finite: list[tuple[int, int]] = []
        """Epochs whose logits were not finite."""
        self.latest_scored: Epoch | None = None
        """The standing epoch that was given a test mIoU last."""
        self.series = Series()
        self._line = Line(self.series)
        self._winners = Winners(self.series, SCORED_SPLITS)
        self.drills_requested: list[Drill] = []
        self.drills_fired: list[tuple[int, Drill]] = []
        self.disk: DiskSeen | None = None
        """`None` while it was never short of room."""
        self.gave_up: GaveUp | None = None
        self.retry_asked = False
        """A person wants another attempt, and none was planned since."""
        self.edited: frozenset[str] = frozenset()
        """Settings that a person has changed since the last attempt was planned."""
        self.finished = False
        self.daemon: DaemonStarted | None = None
        self.stopped_because: str | None = None
        self.last_at: float | None = None
        self.chronicle = Chronicle()
        self.attention = Attention()

    @classmethod
    def of(cls, events: Iterable[tuple[float, Event]]) -> History:
        history = cls()
        for moment, event in events:
            history.apply(moment, event)
        return history

    def apply(self, moment: float, event: Event) -> None:
        self.last_at = moment
        self.tried.note(moment, event)
        self.chronicle.apply(moment, event)
        self._fold(moment, event)

    def _fold(self, moment: float, event: Event) -> None:
        match event:
            case RunCreated():
                self.created, self.created_at, self.epochs_wanted = event, moment, event.epochs
            case ConfigChanged():
                if event.epochs > self.epochs_wanted:
                    self.finished = False
                self.epochs_wanted = event.epochs
                self.edited |= event.changes.keys()
            case DataAccepted():
                self._accept(event)
            case DaemonStarted():
                self.daemon, self.stopped_because = event, None
            case DaemonStopped():
                self.stopped_because = event.reason
            case DrillsRequested():
                self.drills_requested.extend(event.drills)
            case DrillFired():
                self.drills_fired.append((event.attempt, event.drill))
            case AttemptPlanned():
                self._plan(event)
            case AttemptSpawned() | AttemptStarted() | AttemptEnded():
                self.attempt(event.attempt).tell(moment, event)
            case EpochCommitted():
                self._commit(event)
            case EpochMoved():
                self._move(event)
            case ScoreRecorded():
                self._score(event)
            case GapMeasured():
                self._winners.gap = event
            case IncidentOpened():
                self._open_incident(Incident(event, moment))
            case Diagnosed():
                self.diagnoses[event.incident] = event
            case ProbationEnded():
                self._end_trial(event)
            case AlertChanged():
                self.alerts[event.fingerprint] = event
                if event.state in (AlertState.FIRING, AlertState.RESOLVED):
                    self.told[event.fingerprint] = moment, event
            case Attended():
                self.attention.apply(moment, event)
            case DiskSeen():
                self.disk = event
            case GaveUp():
                self.gave_up = event
            case BudgetsForgiven():
                self._forgive()
            case RescoreWanted():
                self._ask_again(event)
            case RunFinished():
                self.finished = True
                self.series.settle()
            case _:
                assert_never(event)

    def _plan(self, event: AttemptPlanned) -> None:
        self.attempts.append(Attempt(event))
        if event.incident is not None:
            self._answers.setdefault(event.incident, event)
        self.retry_asked, self.edited = False, frozenset()
        answered = (i.opened.cause for i in reversed(self.incidents) if i.number == event.incident)
        self.tried.plan(event, next(answered, None))

    def _end_trial(self, event: ProbationEnded) -> None:
        self.probations.append(event)
        self.tried.end(event)
        self._open = [incident for incident in self._open if not self._outlived(incident)]

    def _forgive(self) -> None:
        self.gave_up, self.retry_asked = None, True
        for incident in self.incidents:
            incident.forgiven = True
        self.tried.forget()

    def attempt(self, number: int) -> Attempt:
        return self.attempts[number - 1]

    def trained_until(self, attempt: Attempt) -> int:
        """The last epoch that it committed, or that it resumed from."""
        committed = self._of_attempt.get(attempt.number)
        return committed[-1].epoch if committed else attempt.plan.resume_epoch

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def pending_drills(self) -> tuple[Drill, ...]:
        fired = {drill for _, drill in self.drills_fired}
        return tuple(drill for drill in self.drills_requested if drill not in fired)

    def lineage(self) -> Sequence[Epoch]:
        """The epochs that stand, in numeric order: what a roll-back moved away is not among them."""
        return self._line.epochs

    def scored_lineage(self) -> Sequence[tuple[Epoch, float]]:
        """The standing epochs with a test mIoU on the files as they are now, in numeric order.

        Grows at its end, or `rewritten` counts on.
        """
        return self._line.scored()

    @property
    def rewritten(self) -> int:
        return self._line.rewritten

    def unchanged_below(self, rewritten: int) -> int | None:
        """The epoch below which `scored_lineage` is what it was at this count; `None` where all of it is."""
        return self._line.unchanged_below(rewritten)

    def missing(self, epoch: Epoch) -> tuple[str, ...]:
        """The splits on which it has still to be scored."""
        old = () if epoch.key not in self.unscored else self.series.former(epoch)
        return tuple(split for split in SCORED_SPLITS if split not in epoch.scores or split in old)

    @property
    def best(self) -> dict[str, Best]:
        """The winner by val and by test."""
        return self._winners.best

    @property
    def measured_gap(self) -> GapMeasured | None:
        """The interval of the gap between the two winners of now; `None` while it was not looked for."""
        return self._winners.measured_gap()

    def not_finite_in(self, attempt: int) -> list[Epoch]:
        """The standing epochs of an attempt that gave NaN or Inf in evaluation."""
        return [self.epochs[key] for key in self.not_finite if key[0] == attempt and self.epochs[key].moved is None]

    def firing(self) -> list[AlertChanged]:
        return [alert for alert in self.alerts.values() if alert.state is AlertState.FIRING]

    def fatal_incidents(self) -> Iterator[Incident]:
        return (incident for incident in self.incidents if incident.opened.fatal and not incident.forgiven)

    def incidents_of(self, cause: Cause) -> Sequence[Incident]:
        """Those of one cause: what is asked after every fact must not look through all of a long run."""
        return self._by_cause.get(cause, ())

    def progressed(self, after_attempt: int, until_attempt: int) -> bool | None:
        """Whether the attempts after one, up to and with another, left a verified-good epoch; `None` while unknown."""
        judged = {verdict for n in range(after_attempt + 1, until_attempt + 1) for verdict in self._verdicts_of(n)}
        return True if True in judged else None if None in judged else False

    def _verdicts_of(self, attempt: int) -> set[bool | None]:
        if attempt not in self._verdicts:
            self._verdicts[attempt] = {epoch.verified_good for epoch in self._of_attempt.get(attempt, ())}
        return self._verdicts[attempt]

    def recovered(self, incident: Incident) -> bool:
        """Whether its remedy has proved itself; without one, whether a good epoch came; or the run is over."""
        return self.finished or self._outlived(incident)

    def open_incidents(self) -> list[Incident]:
        """Those that training is not past. What is past stays so, until a checkpoint turns out to be broken."""
        return [] if self.finished else list(self._open)

    def _outlived(self, incident: Incident) -> bool:
        answer = self.answer_to(incident) if incident.opened.fatal else None
        holds = None if answer is None else self.tried.holds(answer)
        return self.trains_again(incident) if holds is None else holds

    def trains_again(self, incident: Incident) -> bool:
        """Whether a verified-good epoch came after it."""
        opened = incident.opened
        if opened.fatal:
            return self._good_attempt > opened.attempt
        return any(attempt >= opened.attempt and step > opened.step for attempt, step in self._good_until.items())

    def answer_to(self, incident: Incident) -> AttemptPlanned | None:
        """The attempt that was planned because of it."""
        return self._answers.get(incident.number)

    def incident(self, number: int | None) -> Incident | None:
        return next((incident for incident in reversed(self.incidents) if incident.number == number), None)

    def last_good_before(self, incident: Incident) -> Epoch | None:
        """The newest verified-good epoch of those that stood when an incident opened, also if it was moved away since.

        Behind an onset none is good, so for scores that collapsed it is the last one before their fall.
        """
        until = incident.opened.step
        for number in range(incident.opened.attempt, 0, -1):
            trained = self._of_attempt.get(number, ())
            for place in range(bisect_right(trained, until, key=lambda epoch: epoch.step) - 1, -1, -1):
                if trained[place].verified_good:
                    return trained[place]
            until = min(until, self.attempt(number).plan.resume_step)
        return None

    def drill_behind(self, attempt: int, cause: Cause, step: int) -> Drill | None:
        """The drill of this attempt that explains a trouble of this cause at this step; each explains one."""
        explained = {i.opened.drill for i in self.incidents if i.opened.attempt == attempt}
        for fired_in, drill in self.drills_fired:
            fits = explains(drill, cause) and step >= drill.step - 1
            if fired_in == attempt and fits and drill not in explained:
                return drill
        return None

    @property
    def ever_stepped(self) -> bool:
        """Whether anything was trained at all; an attempt that still runs may have."""
        return bool(self.epochs) or any(a.ended is None or a.ended.stepped for a in self.attempts)

    def failed_epochs(self) -> list[Epoch]:
        """The epochs that the evaluator could not score."""
        return sorted(self.failed.values(), key=lambda epoch: epoch.key)

    def _ask_again(self, event: RescoreWanted) -> None:
        """A failed score is forgotten; a former one stays until the new one is there."""
        for epoch in self.failed_epochs():
            epoch.scores = {split: score for split, score in epoch.scores.items() if score.verdict != "failed"}
            self._verdicts.pop(epoch.attempt, None)
        for key in [*self.failed, *event.former]:
            self.unscored[key] = self.epochs[key]
            self.finished = False
        self.failed.clear()

    def _accept(self, event: DataAccepted) -> None:
        waiting = [epoch.epoch for epoch in (self.unscored | self.failed).values() if epoch.moved is None]
        last = max((epoch.epoch for epoch in self.lineage()), default=0)
        self.series.accept(event, first=min(waiting, default=last + 1))
        self._begin_series()

    def _begin_series(self) -> None:
        """The winners stay until something is scored on the new files; nothing else is compared with what was."""
        self._winners.gap = self.latest_scored = None
        self._line.rewrite(0)

    def _commit(self, event: EpochCommitted) -> None:
        epoch = Epoch(
            attempt=event.attempt,
            epoch=event.epoch,
            step=event.step,
            manifest=event.manifest,
            sha256=event.sha256,
            finite=event.finite,
        )
        self.epochs[epoch.key] = self.unscored[epoch.key] = self.standing[epoch.manifest] = epoch
        self._of_attempt.setdefault(epoch.attempt, []).append(epoch)
        self._verdicts.pop(epoch.attempt, None)
        self._line.add(epoch)

    def _move(self, event: EpochMoved) -> None:
        epoch = self.epochs[event.attempt, event.epoch]
        if self.standing.get(epoch.manifest) is epoch:
            del self.standing[epoch.manifest]
        if epoch.moved is None:
            self._line.remove(epoch)
        epoch.manifest, epoch.moved, epoch.moved_because = event.manifest, event.reason, event.message
        self._verdicts.pop(epoch.attempt, None)
        if event.reason == "quarantined":
            self.quarantined.append(epoch)
            self._winners.choose(self.epochs.values())
            self._judge_again()

    def _score(self, event: ScoreRecorded) -> None:
        epoch = self.epochs[event.attempt, event.epoch]
        old = epoch.scores.get(event.split)
        again = old is not None
        if self.series.note(event):
            self._begin_series()
        if old is not None and old.data_fingerprint != event.data_fingerprint:
            epoch.former = (*epoch.former, old)
        epoch.scores[intern(event.split)] = Score.of(event, epoch)
        self._verdicts.pop(epoch.attempt, None)
        if event.split == "test":
            epoch.best_before = self._best_before(epoch)
        if event.verdict == "not-finite" and epoch.key not in self.not_finite:
            self.not_finite.append(epoch.key)
        if event.verdict == "failed":
            self.failed[epoch.key] = epoch
        if event.split == "test" and event.miou is not None and epoch.moved is None:
            self.latest_scored = epoch
            self._line.score(epoch, event.miou, again=again)
        if not self.missing(epoch):
            self.unscored.pop(epoch.key, None)
            self._winners.compete(epoch, self.epochs.values())
        if again:
            self._judge_again()
        elif epoch.verified_good:
            self._note_good(epoch)
            self._open = [incident for incident in self._open if not self._outlived(incident)]

    def _note_good(self, epoch: Epoch) -> None:
        self._good_until[epoch.attempt] = max(epoch.step, self._good_until.get(epoch.attempt, 0))
        self._good_attempt = max(epoch.attempt, self._good_attempt)

    def _open_incident(self, incident: Incident) -> None:
        self.incidents.append(incident)
        self._by_cause.setdefault(incident.opened.cause, []).append(incident)
        onset = incident.opened.evidence.get("onset_step")
        if incident.opened.fatal and incident.opened.cause in _HAS_ONSET and isinstance(onset, int):
            for epoch in self._line.epochs:
                epoch.past_onset = epoch.past_onset or epoch.step >= onset
            self._verdicts.clear()
        if not self._outlived(incident):
            self._open.append(incident)

    def _judge_again(self) -> None:
        """From every epoch: one that was good may be no more."""
        self._good_until.clear()
        self._good_attempt = 0
        for epoch in self.epochs.values():
            if epoch.verified_good:
                self._note_good(epoch)
        self.failed = {e.key: e for e in self.failed.values() if any(s.verdict == "failed" for s in e.scores.values())}
        self._open = [incident for incident in self.incidents if not self._outlived(incident)]

    def _best_before(self, epoch: Epoch) -> float | None:
        if epoch.former:  # scored again, when later ones may be: those say nothing of whether it was a fall
            return max((miou for one, miou in self.scored_lineage() if one.epoch < epoch.epoch), default=None)
        best = self._winners.standing("test")
        return None if best is None else best.miou


_HAS_ONSET = frozenset({Cause.LOSS_SPIKE, Cause.MIOU_COLLAPSE})
