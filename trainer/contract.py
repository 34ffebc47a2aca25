"""All that the daemon knows of a worker: the spec it is given, the lines it writes, how it ends. No torch.

Worker and daemon share files only, so that either may die alone.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ..data.config import AugmentConfig
from ..nearby import did_you_mean, nearest
from ..section import Record
from .config import Amp, Compile, LossConfig, ModelConfig, Optimizer

JOURNAL = "journal.jsonl"
SPEC = "spec.json"
EXIT = "exit.json"
LOG = "worker.log"
WORKER_LOCK = "worker.lock"
"""Held (flock) by the worker from before it exists, and inherited by whatever it starts: free means the GPU is free."""
WORKER_LOCK_FD = "SEGWATCH_LOCK_FD"
"""Environment variable that tells the worker which inherited descriptor is the lock."""

READBACK_STEPS = 8
"""So many steps late at most the worker sees the figures of a step on a GPU; on the CPU it sees them at once."""

COMPILED = "compiled: "
"""So `Started.compiled` begins where the network is; the rest of it says what that brings."""


class ExitCode(IntEnum):
    FINISHED = 0
    CRASHED = 1
    """An exception that nobody foresaw; Python's own exit code for it."""
    UNSTABLE = 10
    OUT_OF_MEMORY = 11
    STOPPED = 12
    """Asked to stop: state saved at a step boundary."""
    PERMANENT = 78
    """Configuration, data or import: trying again cannot help (EX_CONFIG)."""


class Cause(StrEnum):
    """What went wrong, in the words of the alert codes."""

    NAN_LOSS = "nan-loss"
    INF_GRADIENTS = "inf-gradients"
    NAN_WEIGHTS = "nan-weights"
    AMP_UNSTABLE = "amp-unstable"
    LOSS_SPIKE = "loss-spike"
    """The loss stays far above what it was, though finite."""
    MIOU_COLLAPSE = "miou-collapse"
    """The scores fell, and stayed down, while the numbers of training look sound."""
    OUT_OF_MEMORY = "out-of-memory"
    WORKER_CRASHED = "worker-crashed"
    WORKER_HUNG = "worker-hung"


class DrillKind(StrEnum):
    NAN_LOSS = "nan-loss"
    INF_GRADIENTS = "inf-gradients"
    POISON_BATCHNORM = "poison-batchnorm"
    NAN_WEIGHTS = "nan-weights"
    OUT_OF_MEMORY = "out-of-memory"
    KILL = "kill"
    HANG = "hang"
    CRASH = "crash"
    OVERFLOW = "overflow"
    """Weights so large that an activation leaves the range of fp16, while bf16 and fp32 do not mind."""
    BAD_FILE = "bad-file"
    """From then on the run reads one mask with a value that is no class, from a pixel cache of its own."""
    LR_SPIKE = "lr-spike"
    """From then on the last layer grows at every step, as under a far too high rate, until nothing is finite."""
    LOSS_SPIKE = "loss-spike"
    """The last features are dead and one class drowns the others: the loss rises at once, stays finite, and stays."""
    DRIFT_BATCHNORM = "drift-batchnorm"
    """BatchNorm's running variances become far too large, though finite: training never sees them, every score does."""


class Drill(Record):
    """A fault made on purpose, once, while global step `step` (from 1) is under way."""

    kind: DrillKind
    step: Annotated[int, Field(ge=1)]

    def __str__(self) -> str:
        return f"{self.kind}@{self.step}"

    @classmethod
    def parse(cls, text: str) -> Drill:
        """From KIND@STEP. Raises ValueError that lists the kinds."""
        match = re.fullmatch(r"([a-z-]+)@([1-9]\d*)", text)
        if match is None or match[1] not in set(DrillKind):
            kind, _, step = text.partition("@")
            near = nearest(kind, DrillKind)
            example = did_you_mean(near and f"{near}@{step if re.fullmatch('[1-9][0-9]*', step) else 30}", before="; ")
            kinds = ", ".join(DrillKind)
            raise ValueError(f"{text!r} is not KIND@STEP with a step from 1{example}; kinds: {kinds}")
        return cls(kind=DrillKind(match[1]), step=int(match[2]))


class AttemptSpec(Record):
    """Every effective value of one attempt. Paths are relative to the run directory unless they are absolute."""

    run_dir: Path
    """Absolute."""
    attempt: int
    resume_from: str | None
    """A manifest (`checkpoints/checkpoint_epoch2.json`), or `None` for a fresh start."""
    lr: float
    """The base learning rate, applied after the state is loaded: loading would restore the old one."""
    amp: Amp
    batch_size: int
    accumulate: int
    optimizer: Optimizer
    schedule: Literal["constant", "poly", "cosine"] = "constant"
    weight_decay: float
    momentum: float
    clip_grad_norm: float
    seed: int
    epochs: int
    """The last epoch of the run, counted from its first."""
    device: str = "auto"
    threads: int = 0
    compile: Compile = False
    recovery_seconds: float
    model: ModelConfig
    loss: LossConfig
    """With `class_weights` as numbers, one per class, or "none"."""
    augment: AugmentConfig = AugmentConfig()
    data_lock: str = "run.lock.toml"
    """Where the resolved data stands."""
    cache_dir: Path
    """Absolute: the pre-scaled pixels, shared by worker, evaluator and later runs."""
    config_hash: str
    warm_up_steps: int = 0
    """From the resume point on the rate rises linearly to that of the schedule over so many steps."""
    left_out: tuple[str, ...] = ()
    """Images, by their names in the training split, in whose place the next image of the epoch's order is trained."""
    decode_again: tuple[str, ...] = ()
    """Images, by the same names, whose entries in the pixel cache are made anew where they differ from the files."""
    drills: tuple[Drill, ...] = ()
    """Only those that have not happened yet."""

    @property
    def directory(self) -> Path:
        return attempt_dir(self.run_dir, self.attempt)


def attempt_dir(run_dir: Path, attempt: int) -> Path:
    return run_dir / "attempts" / f"{attempt:03d}"


class _Line(Record):
    time: float
    """Seconds since the epoch, for people; nothing is decided by it."""


class Started(_Line):
    """The first line: what is really in force, read back from the optimizer after loading."""

    kind: Literal["started"] = "started"
    attempt: int
    pid: int
    lr: float
    amp: Amp
    batch_size: int
    accumulate: int
    device: str
    parameters: int
    epoch: int
    """Completed epochs at the resume point."""
    step: int
    """Completed optimizer steps at the resume point."""
    steps_per_epoch: int
    epochs: int
    loss: str = ""
    """The recipe in words."""
    class_weights: dict[str, float] = {}
    """By class, as "id name"; empty where every class counts alike."""
    augment: str = ""
    """What is changed at random, in words; empty where nothing is."""
    compiled: str = ""
    """Whether the network is, and why, in words; empty where nobody wished it."""


class Phase(_Line):
    """The worker enters a phase, or gets on inside `loading`, which has no steps but may be long."""

    kind: Literal["phase"] = "phase"
    phase: Literal["loading", "first-step", "training", "saving"]
    done: int | None = None
    total: int | None = None


class Progress(_Line):
    """About one a second. A figure that is not finite is `None` and named in `nonfinite`."""

    kind: Literal["progress"] = "progress"
    step: int
    epoch: int
    """The epoch under way, from 1."""
    step_in_epoch: int
    loss: float | None
    """Mean over the steps since the last line."""
    grad_norm: float | None
    """Before clipping, at the last step."""
    lr: float
    images_per_second: float
    p99_step_seconds: float
    """Over the last few hundred steps: what hang detection multiplies."""
    amp_scale: float | None = None
    skipped_steps: int = 0
    """Optimizer steps skipped so far in this attempt; under fp16 a few are normal."""
    loss_spikes: int = 0
    """Single losses far above the usual so far in this attempt: legal, with rare classes and small batches."""
    loss_high_since: int | None = None
    """The step from which on losses are high, while they are; what stays so becomes trouble."""
    grad_norm_high_since: int | None = None
    """The same for gradient norms: by itself never trouble."""
    memory_mb: float | None = None
    """Peak device memory, or resident memory on the CPU."""
    nonfinite: tuple[str, ...] = ()


class CheckpointLine(_Line):
    """A manifest was committed."""

    kind: Literal["checkpoint"] = "checkpoint"
    role: Literal["initial", "epoch", "recovery"]
    epoch: int
    step: int
    manifest: str
    """Relative to the run directory."""
    sha256: str
    """Of the weights."""
    train_loss: float | None = None
    """Mean over the epoch, where the checkpoint closes one."""
    seconds: float
    """How long saving held up training."""


class DrillLine(_Line):
    """Written and flushed before the fault is made, so that it happens once even when it kills the worker."""

    kind: Literal["drill"] = "drill"
    drill: Drill


class Trouble(_Line):
    """Something went wrong. `fatal` says whether the worker leaves because of it."""

    kind: Literal["trouble"] = "trouble"
    cause: Cause
    step: int
    epoch: int
    """The epoch under way, from 1."""
    message: str
    evidence: dict[str, float | int | str | None] = {}
    fatal: bool
    incident: str | None = None
    """Directory with the batch and the random states, relative to the run directory."""


class Finished(_Line):
    """The last line of a worker that left by itself."""

    kind: Literal["finished"] = "finished"
    outcome: Literal["finished", "unstable", "out-of-memory", "permanent", "stopped", "crashed"]
    epoch: int
    step: int


JournalLine = Annotated[
    Started | Phase | Progress | CheckpointLine | DrillLine | Trouble | Finished, Field(discriminator="kind")
]
JOURNAL_LINE: TypeAdapter[JournalLine] = TypeAdapter(JournalLine)


class ExitRecord(Record):
    """exit.json: why the worker left. Its absence means that it was killed."""

    code: ExitCode
    cause: Cause | None
    message: str
    step: int
    epoch: int
    """Completed epochs."""
    stepped: bool
    """Whether this attempt completed a step: what fails before that is not tried again."""
    traceback: str | None = None
