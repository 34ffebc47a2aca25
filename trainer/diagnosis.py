"""What a diagnosis is asked and what it answers: the spec it is given, the file it leaves. No torch, no decision.

A diagnosis repeats the steps around a numeric incident in a process of its own, on the same device, and says which of
five things it was. What is done about it is the daemon's to decide.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..section import Record
from .config import Amp

DIAGNOSIS_SPEC = "diagnosis_spec.json"
DIAGNOSIS = "diagnosis.json"
DIAGNOSIS_LOG = "diagnosis.log"
STATE = "state.pt"
"""Beside `batch.pt`: weights, buffers, moments and scaler as the worker held them when it left."""


class Finding(StrEnum):
    """What a replay shows."""

    TRANSIENT = "transient"
    """Finite, with the same settings from the same state: nothing is wrong that can be repeated."""
    PRECISION = "precision"
    """Not finite in fp16, finite in bf16 or fp32."""
    DATA = "data"
    """Not finite, or raised, on these files from two different good states, while other batches are fine."""
    LEARNING_RATE = "learning-rate"
    """Finite on this batch from a good state, but the state at the incident was not good any more."""
    CAPACITY = "capacity"
    """Out of memory."""
    UNKNOWN = "unknown"
    """Could not be found out; what is done next is a guess."""


class DiagnosisSpec(Record):
    """Paths are relative to the run directory unless they are absolute."""

    run_dir: Path
    """Absolute."""
    incident: int
    attempt: int
    """Whose spec.json says with which settings to replay."""
    directory: str
    """`incidents/NNN`, with what the worker left; the answer is written there."""
    good: tuple[str, ...]
    """Manifests of good checkpoints with their training state from before the incident, newest first; at most two."""
    fallen: str | None = None
    """Manifest of the first epoch whose scores had fallen, where no step went wrong: then the way to it is repeated."""
    seconds: Annotated[float, Field(gt=0)]
    """No new replay begins after this long."""
    device: str | None = None
    """Where to repeat it; `None` for the device of the attempt."""


class Replay(Record):
    """One row of the table: where it began, what was changed, what came out."""

    start: str
    """The manifest, or "the state at the incident"."""
    first_step: int
    steps: int
    amp: Amp
    images: tuple[str, ...] = ()
    """Those of the last step; empty where there were too many to name."""
    result: Literal["finite", "not-finite", "raised"]
    loss: float | None = None
    """At the last step; `None` where it is not finite."""
    grad_norm: float | None = None
    message: str = ""
    """What was raised, or what is not finite, in words."""
    seconds: float


class FirstNonFinite(Record):
    """Where non-finite numbers first came up, in the order in which a step computes."""

    step: int
    layer: str
    """The module's name in the network, such as `down1.maxpool_conv.1.double_conv.0`; "loss" for the loss itself."""
    tensor: Literal["input", "weight", "buffer", "output", "loss", "gradient"]
    largest: float | None = None
    """The largest finite magnitude that went in."""


class BadFile(Record):
    """A file whose step goes wrong whatever the weights are."""

    image: str
    """Its name in the training split."""
    mask: str | None = None
    reproduced: int
    """From how many different states."""
    at_incident: bool = False
    """Whether one of them is the state at the incident, of which nobody knows how good it is."""
    what: str
    """In words: the values that do not belong, or that nothing can be seen in the file itself."""
    picture: str | None = None
    """PNG beside the answer: the image, and its mask with the bad values marked."""
    cached_only: bool = False
    """Whether the files are sound, and only their entry in the pixel cache is not."""

    @property
    def witnesses(self) -> str:
        """In words, from what it was reproduced."""
        good = self.reproduced - self.at_incident
        words = f"{good} good state{'' if good == 1 else 's'}"
        return f"{words} and the state at the incident" if self.at_incident else words


class Diagnosis(Record):
    """The answer."""

    finding: Finding
    because: str
    """One or two sentences for a person, with the numbers that decide."""
    replays: tuple[Replay, ...] = ()
    first_nonfinite: FirstNonFinite | None = None
    files: tuple[BadFile, ...] = ()
    bf16_is_finite: bool | None = None
    """Whether bf16 would do on this device, which has to have it in hardware; `None` where it was not tried."""
    onset_step: int | None = None
    """The step from which on norms or losses grew; `None` where nothing did."""
    device: str
    device_check: str = ""
    """What the device made of a task whose answer is known, in words; asked where nothing could be repeated."""
    seconds: float
