"""PURE: the corpus of incidents: what is broken, with which settings, and what segwatch has to make of it.

Each kind breaks one run, each seed at another step and from other weights. Knows no process and no file.
"""

from __future__ import annotations

from dataclasses import dataclass

from segwatch.trainer.contract import Cause
from segwatch.trainer.diagnosis import Finding

SEEDS = 5
IMAGES = {"train": 32, "val": 6, "test": 8}
SIZE = (128, 128)
EPOCHS = 7
RUN_TOML = """\
[data]
root = "{root}"
classes = "classes.toml"
scale = 0.5
[data.train]
images = "images/train"
masks = "masks/train"
[data.val]
images = "images/val"
masks = "masks/val"
[data.test]
images = "images/test"
masks = "masks/test"
[model]
base_channels = 8
[trainer]
epochs = {epochs}
batch_size = {batch_size}
lr = 2e-3
amp = "{amp}"
schedule = "{schedule}"
seed = {seed}
threads = 1
[loss]
class_weights = "{class_weights}"
[evaluator]
threads = 1
{evaluator}
[alerts]
patience = {patience}
[watch]
scan_seconds = 0.5
hang_floor_seconds = {hang_floor}
[recovery]
undo = false
standby = false
diagnosis_seconds = 120
"""
"""Undoing and the standby have measurements and tests of their own; here they would only make each run longer."""


@dataclass(frozen=True)
class Settings:
    """What of a run.toml differs from row to row."""

    epochs: int = EPOCHS
    batch_size: int = 2
    amp: str = "off"
    schedule: str = "constant"
    class_weights: str = "none"
    evaluator: str = ""
    patience: int = 10
    hang_floor: float = 30.0

    def toml(self, *, root: str, seed: int) -> str:
        return RUN_TOML.format(root=root, seed=seed, **vars(self))


@dataclass(frozen=True)
class Kind:
    """One kind of incident, and what has to come of it."""

    name: str
    what: str
    """Is broken; in words for the table."""
    drill: str | None
    """Kind of the drill; `None` where the harness breaks something itself."""
    step: int
    """Of the fault with seed 0; two steps later with each further seed."""
    causes: frozenset[Cause]
    finding: Finding | None
    """`None` where nothing is to be replayed."""
    remedy: str
    settings: Settings = Settings()
    times: int = 1
    """So many steps in a row."""

    def drills(self, seed: int) -> tuple[str, ...]:
        if self.drill is None:
            return ()
        first = self.step + 2 * seed
        return tuple(f"{self.drill}@{step}" for step in range(first, first + self.times))


def _kind(
    name: str,
    what: str,
    drill: str | None,
    *causes: Cause,
    finding: Finding | None,
    remedy: str,
    step: int = 50,
    settings: Settings = Settings(),
    times: int = 1,
) -> Kind:
    return Kind(name, what, drill, step, frozenset(causes), finding, remedy, settings, times)


ONE_BY_ONE = Settings(batch_size=1)
"""32 steps an epoch: what takes some dozen steps is found before two scores have fallen."""
KINDS = (
    _kind(
        "precision",
        "activations leave fp16",
        "overflow",
        Cause.NAN_LOSS,
        Cause.AMP_UNSTABLE,
        finding=Finding.PRECISION,
        remedy="bf16",
        settings=Settings(amp="fp16"),
    ),
    _kind(
        "data",
        "a mask with a value that is no class",
        "bad-file",
        Cause.WORKER_CRASHED,
        finding=Finding.DATA,
        remedy="leave-out",
    ),
    _kind(
        "learning-rate",
        "the last layer grows from step to step",
        "lr-spike",
        Cause.NAN_LOSS,
        Cause.INF_GRADIENTS,
        Cause.LOSS_SPIKE,
        finding=Finding.LEARNING_RATE,
        remedy="lower-lr",
        step=98,
        settings=ONE_BY_ONE,
    ),
    _kind("transient", "a NaN once", "nan-loss", Cause.NAN_LOSS, finding=Finding.TRANSIENT, remedy="resume"),
    _kind("capacity", "out of memory", "out-of-memory", Cause.OUT_OF_MEMORY, finding=None, remedy="micro-batch"),
    _kind(
        "hang",
        "no step any more",
        "hang",
        Cause.WORKER_HUNG,
        finding=None,
        remedy="resume",
        settings=Settings(hang_floor=8.0),
    ),
    _kind("kill", "killed by the system", "kill", Cause.WORKER_CRASHED, finding=None, remedy="resume"),
    _kind(
        "poisoned-buffers",
        "Inf in a running variance",
        "poison-batchnorm",
        Cause.NAN_WEIGHTS,
        finding=Finding.TRANSIENT,
        remedy="resume",
    ),
    _kind(
        "drifting-scale",
        "eight skipped steps in a row: the fp16 scale falls 256-fold",
        "inf-gradients",
        Cause.AMP_UNSTABLE,
        finding=Finding.TRANSIENT,
        remedy="resume",
        step=66,
        settings=Settings(epochs=8, amp="fp16"),
        times=8,
    ),
    _kind(
        "spike",
        "the loss rises at once and stays, finite",
        "loss-spike",
        Cause.LOSS_SPIKE,
        finding=Finding.TRANSIENT,
        remedy="resume",
        step=130,
        settings=Settings(epochs=9, batch_size=1),
    ),
    _kind(
        "collapse",
        "running variances far too large: only the scores see it",
        "drift-batchnorm",
        Cause.MIOU_COLLAPSE,
        finding=Finding.TRANSIENT,
        remedy="resume",
        step=98,
        settings=Settings(epochs=16),  # an epoch takes 2 s: on a busy machine it would be over before two scores fell
    ),
    _kind(
        "corrupt-checkpoint",
        "the newest checkpoint broken on the disk, then killed",
        None,
        Cause.WORKER_CRASHED,
        finding=None,
        remedy="resume",
        settings=Settings(epochs=10),
    ),
)


@dataclass(frozen=True)
class Calm:
    """A run that nothing happens to, though much looks as if it did."""

    name: str
    what: str
    settings: Settings
    true_of_it: frozenset[str] = frozenset()
    """Codes of alerts that are right here."""


CALM = (
    Calm(
        "slow-evaluation",
        "every pixel scored four times over, one small window at a time: slower than training",
        Settings(evaluator='resolution = "native"\nwindow = 16\noverlap = 0.5\nbatch_size = 1'),
        frozenset({"evaluation-lag"}),
    ),
    Calm("fp16-start", "the scaler finds its scale", Settings(amp="fp16")),
    Calm("cosine-tail", "the rate goes to nothing", Settings(epochs=14, schedule="cosine", patience=4)),
    Calm(
        "legal-spikes",
        "batch 1, rare classes weighted",
        Settings(batch_size=1, class_weights="median-frequency"),
    ),
)
REFERENCE = "slow-evaluation"
"""Trains as `transient` does, but for the fault: its final weights are what that one's have to be."""
