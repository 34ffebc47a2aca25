"""The facts of a run, in the order in which they became known: each a line of events.jsonl and a row of state.db.

Facts only: no clock, no file, no decision is taken here. `history` folds them into what the run is now.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from ..section import Record
from ..trainer.config import Amp
from ..trainer.contract import Cause, Drill
from ..trainer.diagnosis import Finding

Evidence = dict[str, float | int | str | None]


class Outcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    UNSTABLE = "unstable"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    KILLED = "killed"
    HUNG = "hung"
    PERMANENT = "permanent"
    REMEDY_FAILED = "remedy-failed"
    """The worker's echo says that it runs with other settings than it was given."""


class AlertState(StrEnum):
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    """It fired and is over."""
    WITHDRAWN = "withdrawn"
    """It was pending and went before it fired."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class RunCreated(Record):
    kind: Literal["run-created"] = "run-created"
    config_hash: str
    epochs: int
    class_names: tuple[str, ...]


class ConfigChanged(Record):
    """The user's file was edited between two calls of `segwatch run`; these settings hold from here on."""

    kind: Literal["config-changed"] = "config-changed"
    changes: dict[str, str]
    epochs: int


class AcceptedSplit(Record):
    """What became of the files of one split."""

    split: str
    before: str
    """Fingerprint of what the scores until then are of; empty where nobody knows it."""
    after: str
    count: str
    """Such as `2 files of test changed, 1 gone`."""
    files: tuple[str, ...] = ()
    """Such as `masks/one.png: changed`; of many only the first."""


class DataAccepted(Record):
    """A person takes the files as they are now: scores from here on compare with none of before."""

    kind: Literal["data-accepted"] = "data-accepted"
    splits: tuple[AcceptedSplit, ...]
    """Those whose files changed."""


class DaemonStarted(Record):
    kind: Literal["daemon-started"] = "daemon-started"
    pid: int
    create_time: float
    host: str


class DaemonStopped(Record):
    kind: Literal["daemon-stopped"] = "daemon-stopped"
    reason: str


class DrillsRequested(Record):
    kind: Literal["drills-requested"] = "drills-requested"
    drills: tuple[Drill, ...]


class DrillFired(Record):
    kind: Literal["drill-fired"] = "drill-fired"
    attempt: int
    drill: Drill


class AttemptPlanned(Record):
    """Written before anything of it is carried out, so that a remedy counts even if the daemon dies on the way."""

    kind: Literal["attempt-planned"] = "attempt-planned"
    attempt: int
    lr: float
    amp: Amp
    batch_size: int
    accumulate: int
    resume_from: str | None
    resume_epoch: int
    """Completed epochs at the resume point."""
    resume_step: int
    because: str
    """In words: what the daemon does and why."""
    incident: int | None = None
    """The incident that this attempt answers."""
    remedy: str | None = None
    """`lower-lr`, `amp-off`, `bf16`, `micro-batch`, `leave-out`, `resume`."""
    undoes: str | None = None
    """The remedy that this attempt takes back, to see whether it is still needed."""
    puts_back: str | None = None
    """The remedy that was taken back in vain and is in force again from this attempt on."""
    warm_up_steps: int = 0
    left_out: tuple[str, ...] = ()
    """All images that are not trained any more, by name."""
    decode_again: tuple[str, ...] = ()
    """All images whose entries in the pixel cache were found changed, by name: made anew where they still are."""
    delay_seconds: float = 0.0
    guessed: bool = False
    """Whether it was not found out what it was, or what helps against it: then `because` says why."""


class AttemptSpawned(Record):
    kind: Literal["attempt-spawned"] = "attempt-spawned"
    attempt: int
    pid: int
    create_time: float
    """Seconds from the boot."""
    boot: str = ""


class AttemptStarted(Record):
    """The worker's echo of what is in force."""

    kind: Literal["attempt-started"] = "attempt-started"
    attempt: int
    lr: float
    amp: Amp
    batch_size: int | None = None
    """`None` in runs of older releases."""
    device: str
    parameters: int
    steps_per_epoch: int


class AttemptEnded(Record):
    kind: Literal["attempt-ended"] = "attempt-ended"
    attempt: int
    outcome: Outcome
    cause: Cause | None
    message: str
    step: int
    epoch: int
    """Completed epochs."""
    stepped: bool


class EpochCommitted(Record):
    kind: Literal["epoch-committed"] = "epoch-committed"
    attempt: int
    epoch: int
    step: int
    manifest: str
    """Relative to the run directory."""
    sha256: str
    finite: bool


class EpochMoved(Record):
    """To `superseded/` by a roll-back, or to `quarantine/` because its bytes are not what was committed."""

    kind: Literal["epoch-moved"] = "epoch-moved"
    attempt: int
    epoch: int
    manifest: str
    reason: Literal["superseded", "quarantined"]
    message: str = ""
    """What is wrong with it, for one that was quarantined."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How a score stands to that of the last epoch that was really better: paired bootstrap over the same images."""

    against_attempt: int
    against_epoch: int
    difference: FiniteFloat
    """mIoU of this epoch minus that one's."""
    low: FiniteFloat
    high: FiniteFloat
    """The 95 % interval of `difference`: an interval that holds 0 is no difference that this split can show."""


class ScoreRecorded(Record):
    """One split of one epoch; no figures where the verdict says that there are none."""

    kind: Literal["score"] = "score"
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
    class_iou: tuple[float | None, ...] = ()
    miou_low: float | None = None
    miou_high: float | None = None
    """The 95 % interval of `miou` over images."""
    gain: Gain | None = None
    """`None` for the first score, and where the counts of the images are not there."""
    images: int
    skipped_images: int = 0
    """Left out by `on_bad_file = "skip"`."""
    seconds: float
    checkpoint_sha256: str
    data_fingerprint: str = ""
    """Of the files of the split: scores compare only where it is the same. Empty in runs of older releases."""
    message: str = ""


class GapMeasured(Record):
    """The noise in what choosing by val gives away on test, for one pair of winners: paired bootstrap over images."""

    kind: Literal["gap-measured"] = "gap-measured"
    by_test: tuple[int, int]
    """(attempt, epoch)"""
    by_val: tuple[int, int]
    low: float | None = None
    high: float | None = None
    """The 95 % interval; `None` where the counts of the images are not there."""


class IncidentOpened(Record):
    kind: Literal["incident"] = "incident"
    number: int
    attempt: int
    cause: Cause
    step: int
    epoch: int
    """The epoch under way, from 1."""
    message: str
    evidence: Evidence = {}
    drill: Drill | None = None
    fatal: bool
    """Whether it ended the attempt."""


class Diagnosed(Record):
    """What the replay of an incident has shown, or that there was none and the ladder of remedies decides."""

    kind: Literal["diagnosed"] = "diagnosed"
    incident: int
    finding: Finding
    because: str
    files: tuple[str, ...] = ()
    """Images that go wrong from two different good states."""
    decode_again: tuple[str, ...] = ()
    """Images that go wrong only because their entries in the pixel cache were changed: the files are sound."""
    bf16_is_finite: bool | None = None
    onset_step: int | None = None
    device_check: str = ""
    """What the device made of a task whose answer is known, in words; empty where it was not asked."""
    seconds: float = 0.0


class ProbationEnded(Record):
    """Whether a remedy, or the undoing of one, has proved itself."""

    kind: Literal["probation-ended"] = "probation-ended"
    attempt: int
    """The attempt that brought the remedy, or undid it."""
    incident: int | None
    """The incident that it answered; `None` for the undoing of a remedy."""
    passed: bool
    because: str
    """In words, with the numbers."""
    epochs: int = 0
    """Committed since."""
    miou: float | None = None
    """Test mIoU that decided."""
    miou_before: float | None = None
    """That of the last score before the incident, or before the undoing."""
    guessed: bool = False
    """Whether nobody knows that it was the undoing of which an attempt broke: the remedy is put back, for now."""


class AlertChanged(Record):
    kind: Literal["alert"] = "alert"
    fingerprint: str
    code: str
    severity: Severity
    state: AlertState
    since: float
    """Seconds since the epoch at which it began to hold."""
    cause: str
    evidence: Evidence
    action: str
    advice: str
    drill: str | None = None


class Attended(Record):
    """What a person said of alerts."""


class AlertAcknowledged(Attended):
    """A person has seen an alert that fires: nobody is written to about it again. One that begins anew is a new one."""

    kind: Literal["alert-acknowledged"] = "alert-acknowledged"
    fingerprint: str
    since: float
    """When the alert began that was seen."""
    by: str


class AlertsSilenced(Attended):
    """A person wants to hear nothing of a code for a while, however often it fires."""

    kind: Literal["alerts-silenced"] = "alerts-silenced"
    code: str
    until: float
    """Seconds since the epoch."""
    by: str


class SilenceEnded(Attended):
    """Its time was over, or a person lifted it: what still fires is told now."""

    kind: Literal["silence-ended"] = "silence-ended"
    code: str


class DiskSeen(Record):
    """The room on the disk of the run passed the limit, in either direction, or the disk refused to take a fact; or the
    checkpoint directory was gone, and was made anew.
    """

    kind: Literal["disk"] = "disk"
    state: Literal["fine", "low", "refused", "gone"]
    free_bytes: int
    needed_bytes: int
    """`watch.disk_free_gb`; 0 where it was not asked."""
    message: str = ""
    """What the disk said when it refused."""


class GaveUp(Record):
    kind: Literal["gave-up"] = "gave-up"
    reason: str
    exit_code: int = 1


class BudgetsForgiven(Record):
    """A person asked for another try after segwatch gave up."""

    kind: Literal["budgets-forgiven"] = "budgets-forgiven"


class RescoreWanted(Record):
    """Epochs that could not be scored are asked for again: a daemon began, so what was wrong may be mended."""

    kind: Literal["rescore-wanted"] = "rescore-wanted"
    former: tuple[tuple[int, int], ...] = ()
    """(attempt, epoch) whose scores are of files that were changed since: to be scored on the files of now as well."""


class RunFinished(Record):
    kind: Literal["run-finished"] = "run-finished"
    trained: int = 0
    """Epochs that stand."""
    unscored: int = 0
    """Of those, how many could not be scored."""


Event = Annotated[
    RunCreated
    | ConfigChanged
    | DataAccepted
    | DaemonStarted
    | DaemonStopped
    | DrillsRequested
    | DrillFired
    | AttemptPlanned
    | AttemptSpawned
    | AttemptStarted
    | AttemptEnded
    | EpochCommitted
    | EpochMoved
    | ScoreRecorded
    | GapMeasured
    | IncidentOpened
    | Diagnosed
    | ProbationEnded
    | AlertChanged
    | AlertAcknowledged
    | AlertsSilenced
    | SilenceEnded
    | DiskSeen
    | GaveUp
    | BudgetsForgiven
    | RescoreWanted
    | RunFinished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
