"""What the evaluator is asked and what it answers. No torch.

Requests come as JSON lines on its standard input, answers leave as JSON lines on its standard output; a report is a
file that appears whole. The end of the input means that the daemon is gone: the evaluator leaves too.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from ..section import Record
from .metrics import Scores, broken_law, differing_figure, score


class Verdict(StrEnum):
    OK = "ok"
    SINGLE_CLASS = "single-class"
    """The network predicts one class everywhere although the truth has more; the score is kept and flagged."""
    NOT_FINITE = "not-finite"
    """Logits or weights were NaN or Inf, or a running variance is negative: argmax of NaN is class 0, so there is no
    score at all."""
    FAILED = "failed"
    """The evaluator could not score it (crash, out of memory, time limit); the reason is in the event."""
    CORRUPT = "corrupt"
    """Its bytes are not what its manifest says; it lies in quarantine/."""


class EvaluatorSpec(Record):
    run_dir: Path
    """Absolute."""
    data_lock: str = "run.lock.toml"
    files: str | None = None
    """Beside it, what the files held when the run began: only these are scored. `None`: whatever they hold."""
    cache_dir: Path
    device: str
    batch_size: int | None
    """`None`: chosen by measurement."""
    threads: int
    release_gpu: bool = False
    """Keep nothing on the GPU between requests."""
    resolution: Literal["scaled", "native"] = "scaled"
    window: int = 0
    overlap: float = 0.25


class Request(Record):
    """Score this checkpoint on these splits."""

    manifest: str
    """Relative to the run directory."""
    attempt: int
    epoch: int
    sha256: str
    """Of the weights, as the daemon knows it: a file that has changed since is corrupt."""
    splits: tuple[str, ...]
    foreign: bool = False
    """Not a checkpoint of this run: `manifest` names a bare state dict by its absolute path, and `attempt` is 0."""


class Interval(Record):
    """Where a figure would lie had the split held other images of the same kind: percentile bootstrap over images
    (Efron and Tibshirani, 1993).
    """

    low: float
    high: float
    level: float = 0.95
    resamples: int


class ImageScore(Record):
    name: str
    miou: float | None
    """Over the classes in this image's truth or prediction. Their mean over images is another quantity than `miou`."""


class EvaluationReport(Record):
    """The scores of one checkpoint on one split. Fractions, not percent; `None` where there is no score."""

    attempt: int
    epoch: int
    step: int
    split: str
    verdict: Verdict
    scores: Scores | None
    """`None` when the verdict says that there is none."""
    confusion: list[list[int]] | None
    """int64 (C, C), rows = truth, columns = prediction, over every counted pixel of the split."""
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    policy: str
    """In words: which classes the means average over, at which resolution, and what was ignored."""
    images: int
    skipped_images: int = 0
    ignored_pixels: int
    counted_pixels: int
    seconds: float
    device: str
    batch_size: int | None = None
    """Images per forward pass; `None` in reports of older releases."""
    batch_choice: str = ""
    """Why so many, with the rates that were measured; empty where it was set."""
    checkpoint_sha256: str
    data_fingerprint: str
    message: str = ""
    """What was not finite, or which class is the only one."""
    resolution: Literal["scaled", "native"] = "scaled"
    window: int = 0
    """Side of the sliding window in pixels after scaling; 0 where images went through whole."""
    overlap: float = 0.0
    miou_interval: Interval | None = None
    """Of `scores.miou`; `None` with fewer than two images."""
    worst_images: tuple[ImageScore, ...] = ()
    """Worst first."""
    per_image_foreground_dice: float | None = None
    """What common UNet code calls "Dice": see docs/metrics.md. Never comparable with `scores.mean_dice`."""
    per_image: str | None = None
    """The counts of every image by class, an .npz beside this report: file name."""

    @model_validator(mode="after")
    def _one_matrix_one_truth(self) -> Self:
        """No report is written or read whose figures cannot come from its one matrix."""
        if self.confusion is not None and (total := sum(map(sum, self.confusion))) != self.counted_pixels:
            raise ValueError(f"the matrix holds {total} pixels, {self.counted_pixels} were counted")
        if self.scores is not None and (broken := broken_law(self.scores)):
            raise ValueError(f"{broken}. These figures do not come from one confusion matrix")
        if self.scores is not None and self.confusion is not None:
            computed = score(np.array(self.confusion, dtype=np.int64))
            if other := differing_figure(self.scores, computed):
                raise ValueError(f"{other}: these figures do not come from this one confusion matrix")
        return self


def report_path(run_dir: Path, attempt: int, epoch: int, split: str) -> Path:
    return run_dir / "evaluations" / f"attempt{attempt:03d}_epoch{epoch}_{split}.json"


PictureKind = Literal["", "_worst", "_confusion"]
"""What a test score leaves to look at: the same images every epoch, the worst ones, the matrix."""


def picture_path(run_dir: Path, attempt: int, epoch: int, kind: PictureKind = "") -> Path:
    return run_dir / "evaluations" / "overlays" / f"attempt{attempt:03d}_epoch{epoch}{kind}.png"


def per_image_path(report: Path) -> Path:
    """Where the counts of the images stand, beside their report."""
    return report.with_suffix(".npz")


class Ready(Record):
    """torch and the data are loaded; requests are read from here on."""

    kind: Literal["ready"] = "ready"
    device: str
    seconds: float


class Unable(Record):
    """It cannot score anything: a device that is not there, data that cannot be read. It leaves with exit code 78."""

    kind: Literal["unable"] = "unable"
    message: str


class Working(Record):
    """So many images done: what a time limit is measured from."""

    kind: Literal["working"] = "working"
    what: str
    """`loading`, or the split that is being scored."""
    done: int
    total: int


class Scored(Record):
    kind: Literal["scored"] = "scored"
    attempt: int
    epoch: int
    split: str
    report: str
    """Relative to the run directory."""


class Refused(Record):
    """No report: the checkpoint could not be read or scored. The evaluator goes on with the next request."""

    kind: Literal["refused"] = "refused"
    attempt: int
    epoch: int
    reason: Literal["corrupt", "missing", "foreign", "out-of-memory", "error"]
    message: str


class Done(Record):
    """The request is answered; the next one may follow."""

    kind: Literal["done"] = "done"
    attempt: int
    epoch: int


Answer = Annotated[Ready | Unable | Working | Scored | Refused | Done, Field(discriminator="kind")]
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
