"""What a run is, folded from its facts: attempts, epochs, scores, incidents, alerts. No clock, no file, no decision."""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from sys import intern
from typing import Self, assert_never

from ..trainer.contract import Cause, Drill
from .attention import Attention
from .chronicle import Chronicle
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
    Diagnosed,
    DiskSeen,
    DrillFired,
    DrillsRequested,
    EpochCommitted,
    EpochMoved,
    Event,
    Gain,
    GapMeasured,
    GaveUp,
    IncidentOpened,
    ProbationEnded,
    RescoreWanted,
    RunCreated,
    RunFinished,
    ScoreRecorded,
)

SCORED_SPLITS = ("val", "test")
COLLAPSE_SHARE = 0.7
"""A checkpoint that keeps less of the best mIoU before it is no place to go back to."""


@dataclass
class Attempt:
    """One worker process: planned, spawned, started, ended."""

    plan: AttemptPlanned
    spawned: AttemptSpawned | None = None
    started: AttemptStarted | None = None
    ended: AttemptEnded | None = None
    spawned_at: float | None = None
    ended_at: float | None = None

    @property
    def number(self) -> int:
        return self.plan.attempt


@dataclass(frozen=True, slots=True)
class Score:
    """A `ScoreRecorded` as it is kept: a sixth of its memory, which a run of 10,000 epochs needs 20,000 times."""

    attempt: int
    epoch: int
    step: int
    split: str
    verdict: str
    miou: float | None
    fwiou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_dice: float | None
    packed_iou: array[float]
    """By class, -1 where unknown."""
    miou_low: float | None
    miou_high: float | None
    gain: Gain | None
    images: int
    skipped_images: int
    seconds: float
    checkpoint_sha256: str
    message: str

    @classmethod
    def of(cls, event: ScoreRecorded) -> Self:
        known = {name: getattr(event, name) for name in cls.__slots__ if name != "packed_iou"}
        known["packed_iou"] = array("d", [-1.0 if iou is None else iou for iou in event.class_iou])
        for name in ("split", "verdict", "message", "checkpoint_sha256"):
            known[name] = intern(known[name])  # read from JSON, each would be a string of its own
        return cls(**known)

    @property
    def class_iou(self) -> tuple[float | None, ...]:
        return tuple(None if iou < 0 else iou for iou in self.packed_iou)


AnyScore = ScoreRecorded | Score


@dataclass(slots=True)
class Epoch:
    """One committed epoch of one attempt, with its scores by split."""

    attempt: int
    epoch: int
    step: int
    manifest: str
    sha256: str
    finite: bool
    moved: str | None = None
    """`superseded` or `quarantined`."""
    moved_because: str = ""
    scores: dict[str, Score] = field(default_factory=dict)
    best_before: float | None = None
    """Best test mIoU of the epochs scored earlier."""

    @property
    def key(self) -> tuple[int, int]:
        return self.attempt, self.epoch

    @property
    def scored(self) -> bool:
        return all(split in self.scores for split in SCORED_SPLITS)

    @property
    def weights(self) -> str:
        """Path of the weights, relative to the run directory."""
        return str(PurePosixPath(self.manifest).with_suffix(".pth"))

    @property
    def verified_good(self) -> bool | None:
        """Finite and scored without collapse, and its bytes are as committed; `None` while that is not known."""
        if not self.finite or self.moved == "quarantined":
            return False
        if not self.scored:
            return None
        if any(score.verdict not in {"ok", "single-class"} for score in self.scores.values()):
            return False
        miou = self.scores["test"].miou
        return miou is not None and (self.best_before is None or miou >= COLLAPSE_SHARE * self.best_before)

    def miou(self, split: str) -> float | None:
        score = self.scores.get(split)
        return None if score is None else score.miou


@dataclass
class Incident:
    opened: IncidentOpened
    at: float
    forgiven: bool = False
    """A person has asked for another try since."""

    @property
    def number(self) -> int:
        return self.opened.number


@dataclass
class Best:
    """The epoch with the highest mIoU on one split."""

    epoch: Epoch
    miou: float


class History:
    """The run as its facts tell it. `apply` is the only way in."""

    def __init__(self) -> None:
        self.created: RunCreated | None = None
        self.created_at: float | None = None
        self.epochs_wanted = 0
        self.attempts: list[Attempt] = []
        self.epochs: dict[tuple[int, int], Epoch] = {}
        self.unscored: dict[tuple[int, int], Epoch] = {}
        """Committed and not yet scored on every split, in order of commitment, which is numeric within an attempt."""
        self.standing: dict[str, Epoch] = {}
        """By manifest: what no roll-back and no quarantine has moved away."""
        self.quarantined: list[Epoch] = []
        self.failed: dict[tuple[int, int], Epoch] = {}
        """The epochs that the evaluator could not score on some split."""
        self._line: list[Epoch] | None = None
        self._test_line: list[tuple[Epoch, float]] | None = None
        self.rewritten = 0
        """How often the standing line has changed in another way than growing at its end."""
        self._good_until: dict[int, int] = {}
        """The last step of a verified-good epoch, by attempt."""
        self.incidents: list[Incident] = []
        self.diagnoses: dict[int, Diagnosed] = {}
        """By incident."""
        self.probations: list[ProbationEnded] = []
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
        self.best: dict[str, Best] = {}
        self._gap: GapMeasured | None = None
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
            case DaemonStarted():
                self.daemon, self.stopped_because = event, None
            case DaemonStopped():
                self.stopped_because = event.reason
            case DrillsRequested():
                self.drills_requested.extend(event.drills)
            case DrillFired():
                self.drills_fired.append((event.attempt, event.drill))
            case AttemptPlanned():
                self.attempts.append(Attempt(event))
                self.retry_asked, self.edited = False, frozenset()
            case AttemptSpawned():
                attempt = self.attempt(event.attempt)
                attempt.spawned, attempt.spawned_at = event, moment
            case AttemptStarted():
                self.attempt(event.attempt).started = event
            case AttemptEnded():
                attempt = self.attempt(event.attempt)
                attempt.ended, attempt.ended_at = event, moment
            case EpochCommitted():
                self._commit(event)
            case EpochMoved():
                self._move(event)
            case ScoreRecorded():
                self._score(event)
            case GapMeasured():
                self._gap = event
            case IncidentOpened():
                self._open_incident(Incident(event, moment))
            case Diagnosed():
                self.diagnoses[event.incident] = event
            case ProbationEnded():
                self.probations.append(event)
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
                self._forget_failed_scores()
            case RunFinished():
                self.finished = True
            case _:
                assert_never(event)

    def _forgive(self) -> None:
        self.gave_up, self.retry_asked = None, True
        for incident in self.incidents:
            incident.forgiven = True

    def attempt(self, number: int) -> Attempt:
        return self.attempts[number - 1]

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def pending_drills(self) -> tuple[Drill, ...]:
        fired = {drill for _, drill in self.drills_fired}
        return tuple(drill for drill in self.drills_requested if drill not in fired)

    def lineage(self) -> Sequence[Epoch]:
        """The epochs that stand, in numeric order: what a roll-back moved away is not among them."""
        if self._line is None:  # a roll-back moves many at once: the line is put together when it is asked for
            self._line = sorted(self._standing_epochs(), key=lambda epoch: epoch.epoch)
        return self._line

    def scored_lineage(self) -> Sequence[tuple[Epoch, float]]:
        """The standing epochs with a test mIoU, in numeric order. Grows at its end, or `rewritten` counts on."""
        if self._test_line is None:
            self._test_line = [(epoch, miou) for epoch in self.lineage() if (miou := epoch.miou("test")) is not None]
        return self._test_line

    def _standing_epochs(self) -> Iterator[Epoch]:
        return (epoch for epoch in self.epochs.values() if epoch.moved is None)

    @property
    def measured_gap(self) -> GapMeasured | None:
        """The interval of the gap between the two winners of now; `None` while it was not looked for."""
        by_test, by_val = self.best.get("test"), self.best.get("val")
        if self._gap is None or by_test is None or by_val is None:
            return None
        measured, wanted = (self._gap.by_test, self._gap.by_val), (by_test.epoch.key, by_val.epoch.key)
        return self._gap if measured == wanted else None

    def not_finite_in(self, attempt: int) -> list[Epoch]:
        """The standing epochs of an attempt that gave NaN or Inf in evaluation."""
        return [self.epochs[key] for key in self.not_finite if key[0] == attempt and self.epochs[key].moved is None]

    def firing(self) -> list[AlertChanged]:
        return [alert for alert in self.alerts.values() if alert.state is AlertState.FIRING]

    def fatal_incidents(self) -> Iterator[Incident]:
        return (incident for incident in self.incidents if incident.opened.fatal and not incident.forgiven)

    def progressed(self, after_attempt: int, until_attempt: int) -> bool | None:
        """Whether the attempts after one, up to and with another, left a verified-good epoch; `None` while unknown."""
        judged = [
            epoch.verified_good for epoch in self.epochs.values() if after_attempt < epoch.attempt <= until_attempt
        ]
        return True if True in judged else None if None in judged else False

    def recovered(self, incident: Incident) -> bool:
        """Whether training is past it: a verified-good epoch came after it, or the run reached its end."""
        return self.finished or self._outlived(incident)

    def open_incidents(self) -> list[Incident]:
        """Those that training is not past. What is past stays so, until a checkpoint turns out to be broken."""
        return [] if self.finished else list(self._open)

    def _outlived(self, incident: Incident) -> bool:
        opened = incident.opened
        if opened.fatal:
            return any(attempt > opened.attempt for attempt in self._good_until)
        return any(attempt >= opened.attempt and step > opened.step for attempt, step in self._good_until.items())

    def answer_to(self, incident: Incident) -> AttemptPlanned | None:
        """The attempt that was planned because of it."""
        plans = (attempt.plan for attempt in self.attempts)
        return next((plan for plan in plans if plan.incident == incident.number), None)

    def drill_behind(self, attempt: int, cause: Cause, step: int) -> Drill | None:
        """The drill of this attempt that explains a trouble of this cause at this step; each explains one."""
        explained = {i.opened.drill for i in self.incidents if i.opened.attempt == attempt}
        for fired_in, drill in self.drills_fired:
            fits = cause in _CAUSED_BY[drill.kind] and step >= drill.step - 1
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

    def _forget_failed_scores(self) -> None:
        for epoch in self.failed_epochs():
            epoch.scores = {split: score for split, score in epoch.scores.items() if score.verdict != "failed"}
            self.unscored[epoch.key] = epoch
            self.finished = False
        self.failed.clear()

    def _commit(self, event: EpochCommitted) -> None:
        epoch = Epoch(
            attempt=event.attempt,
            epoch=event.epoch,
            step=event.step,
            manifest=event.manifest,
            sha256=intern(event.sha256),
            finite=event.finite,
        )
        self.epochs[epoch.key] = self.unscored[epoch.key] = self.standing[epoch.manifest] = epoch
        if self._line is not None:
            insort(self._line, epoch, key=lambda one: one.epoch)

    def _move(self, event: EpochMoved) -> None:
        epoch = self.epochs[event.attempt, event.epoch]
        if self.standing.get(epoch.manifest) is epoch:
            del self.standing[epoch.manifest]
        epoch.manifest, epoch.moved, epoch.moved_because = event.manifest, event.reason, event.message
        self._rewrite()
        if event.reason == "quarantined":
            self.quarantined.append(epoch)
            self._choose_best()
            self._judge_again()

    def _rewrite(self) -> None:
        self._line = self._test_line = None
        self.rewritten += 1

    def _score(self, event: ScoreRecorded) -> None:
        epoch = self.epochs[event.attempt, event.epoch]
        again = event.split in epoch.scores
        epoch.scores[event.split] = Score.of(event)
        if event.split == "test":
            best = self.best.get("test")
            epoch.best_before = None if best is None else best.miou
        if event.verdict == "not-finite" and epoch.key not in self.not_finite:
            self.not_finite.append(epoch.key)
        if event.verdict == "failed":
            self.failed[epoch.key] = epoch
        if event.split == "test" and event.miou is not None and epoch.moved is None:
            self.latest_scored = epoch
            line = self._test_line
            if again or line is None or (line and epoch.epoch <= line[-1][0].epoch):
                self._rewrite()
            else:
                line.append((epoch, event.miou))
        if epoch.scored:
            self.unscored.pop(epoch.key, None)
            self._compete(epoch)
        if again:
            self._judge_again()
        elif epoch.verified_good:
            self._note_good(epoch)
            self._open = [incident for incident in self._open if not self._outlived(incident)]

    def _note_good(self, epoch: Epoch) -> None:
        self._good_until[epoch.attempt] = max(epoch.step, self._good_until.get(epoch.attempt, 0))

    def _open_incident(self, incident: Incident) -> None:
        self.incidents.append(incident)
        if not self._outlived(incident):
            self._open.append(incident)

    def _judge_again(self) -> None:
        """From every epoch: one that was good may be no more."""
        self._good_until.clear()
        for epoch in self.epochs.values():
            if epoch.verified_good:
                self._note_good(epoch)
        self.failed = {e.key: e for e in self.failed.values() if any(s.verdict == "failed" for s in e.scores.values())}
        self._open = [incident for incident in self.incidents if not self._outlived(incident)]

    def _compete(self, epoch: Epoch) -> None:
        """Epochs compete once both their scores are known, so that the two winners can be compared at any moment."""
        for split in SCORED_SPLITS:
            miou, best = epoch.miou(split), self.best.get(split)
            if miou is not None and (best is None or miou > best.miou):
                self.best[split] = Best(epoch, miou)

    def _choose_best(self) -> None:
        """Anew, because a winner may be gone."""
        self.best.clear()
        for epoch in self.epochs.values():
            if epoch.scored and epoch.moved != "quarantined":
                self._compete(epoch)


_CAUSED_BY: dict[str, frozenset[Cause]] = {
    "nan-loss": frozenset({Cause.NAN_LOSS, Cause.AMP_UNSTABLE}),
    "inf-gradients": frozenset({Cause.INF_GRADIENTS, Cause.AMP_UNSTABLE}),
    "poison-batchnorm": frozenset({Cause.NAN_WEIGHTS, Cause.NAN_LOSS}),
    "nan-weights": frozenset({Cause.NAN_WEIGHTS, Cause.NAN_LOSS}),
    "out-of-memory": frozenset({Cause.OUT_OF_MEMORY}),
    "kill": frozenset({Cause.WORKER_CRASHED}),
    "hang": frozenset({Cause.WORKER_HUNG}),
    "crash": frozenset({Cause.WORKER_CRASHED}),
}
