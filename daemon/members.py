"""What a history is made of: attempts, epochs with their scores, incidents. Knows nothing of how they are folded."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from sys import intern
from typing import Self

from .events import (
    AttemptEnded,
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    Gain,
    IncidentOpened,
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

    def tell(self, moment: float, event: AttemptSpawned | AttemptStarted | AttemptEnded) -> None:
        match event:
            case AttemptSpawned():
                self.spawned, self.spawned_at = event, moment
            case AttemptStarted():
                self.started = event
            case AttemptEnded():
                self.ended, self.ended_at = event, moment


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
    data_fingerprint: str
    message: str

    @classmethod
    def of(cls, event: ScoreRecorded) -> Self:
        known = {name: getattr(event, name) for name in cls.__slots__ if name != "packed_iou"}
        known["packed_iou"] = array("d", [-1.0 if iou is None else iou for iou in event.class_iou])
        for name in ("split", "verdict", "message", "checkpoint_sha256", "data_fingerprint"):
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
    former: tuple[Score, ...] = ()
    """Scores on files that were changed since, where it was scored again."""
    best_before: float | None = None
    """Best test mIoU of the epochs scored earlier."""
    past_onset: bool = False
    """It was trained after the step from which on a spike or a collapse had begun."""

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
        if not self.finite or self.moved == "quarantined" or self.past_onset:
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
