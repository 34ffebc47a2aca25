"""What a history is made of: attempts, epochs with their scores, incidents. Knows nothing of how they are folded."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import PurePosixPath
from struct import Struct, pack, unpack
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


FIGURES = (
    "miou",
    "fwiou",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_dice",
    "miou_low",
    "miou_high",
    "seconds",
)
"""Of a score, in the order in which they are packed; behind them those of its gain, then the IoU of each class."""
GAIN_FIGURES = ("against_attempt", "against_epoch", "difference", "low", "high")
_NO_GAIN = (nan,) * len(GAIN_FIGURES)
_FLOAT = Struct("d")


@dataclass(frozen=True, slots=True)
class Score:
    """A `ScoreRecorded` as it is kept: a tenth of its memory, which a run of 10,000 epochs needs 20,000 times."""

    attempt: int
    epoch: int
    step: int
    split: str
    verdict: str
    images: int
    skipped_images: int
    checkpoint_sha256: str
    data_fingerprint: str
    message: str
    packed: bytes
    """`FIGURES`, `GAIN_FIGURES` and the IoU of each class, NaN where unknown: a float by itself takes three times as
    much."""

    @classmethod
    def of(cls, event: ScoreRecorded, epoch: Epoch) -> Self:
        """What stands in `epoch` as well is shared with it: read from JSON, each would be an object of its own."""
        gain = _NO_GAIN if event.gain is None else [getattr(event.gain, name) for name in GAIN_FIGURES]
        known = [getattr(event, name) for name in FIGURES]
        figures = [nan if figure is None else figure for figure in (*known, *gain, *event.class_iou)]
        sha256 = event.checkpoint_sha256
        return cls(
            attempt=epoch.attempt,
            epoch=epoch.epoch,
            step=epoch.step if event.step == epoch.step else event.step,
            split=intern(event.split),
            verdict=intern(event.verdict),
            images=event.images,
            skipped_images=event.skipped_images,
            checkpoint_sha256=epoch.sha256 if sha256 == epoch.sha256 else sha256,
            data_fingerprint=intern(event.data_fingerprint),
            message=intern(event.message),
            packed=pack(f"{len(figures)}d", *figures),
        )

    def _figure(self, place: int) -> float | None:
        (figure,) = _FLOAT.unpack_from(self.packed, place * _FLOAT.size)
        return None if isnan(figure) else figure

    @property
    def miou(self) -> float | None:
        return self._figure(0)

    @property
    def fwiou(self) -> float | None:
        return self._figure(1)

    @property
    def pixel_accuracy(self) -> float | None:
        return self._figure(2)

    @property
    def mean_accuracy(self) -> float | None:
        return self._figure(3)

    @property
    def mean_dice(self) -> float | None:
        return self._figure(4)

    @property
    def miou_low(self) -> float | None:
        return self._figure(5)

    @property
    def miou_high(self) -> float | None:
        return self._figure(6)

    @property
    def seconds(self) -> float:
        return self._figure(7) or 0.0

    @property
    def gain(self) -> Gain | None:
        against, epoch, *figures = self._all()[len(FIGURES) : len(FIGURES) + len(GAIN_FIGURES)]
        return None if isnan(against) else Gain(int(against), int(epoch), *figures)

    @property
    def class_iou(self) -> tuple[float | None, ...]:
        return tuple(None if isnan(iou) else iou for iou in self._all()[len(FIGURES) + len(GAIN_FIGURES) :])

    def _all(self) -> tuple[float, ...]:
        return unpack(f"{len(self.packed) // _FLOAT.size}d", self.packed)


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
