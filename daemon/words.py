"""What a fact is called when it is told to a person, in one line. No state, no files, no terminal."""

from __future__ import annotations

from ..errors import REMEDY_MARK
from ..trainer.diagnosis import Finding
from .alerts import duration, stamp
from .events import (
    AlertAcknowledged,
    AlertChanged,
    AlertsSilenced,
    AlertState,
    AttemptEnded,
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    BudgetsForgiven,
    ConfigChanged,
    DaemonStopped,
    DataAccepted,
    Diagnosed,
    DiskSeen,
    DrillFired,
    DrillsRequested,
    EpochCommitted,
    EpochMoved,
    Event,
    Gain,
    GaveUp,
    IncidentOpened,
    Outcome,
    ProbationEnded,
    RescoreWanted,
    RunCreated,
    RunFinished,
    ScoreRecorded,
    SilenceEnded,
)
from .members import AnyScore
from .rules import resume_words


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as people read it; a dash where it is unknown."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def interval(score: AnyScore) -> str:
    """`61.0-67.2`: the 95 % interval of the mIoU in percent; empty where it is unknown."""
    if score.miou_low is None or score.miou_high is None:
        return ""
    return f"{100 * score.miou_low:.1f}-{100 * score.miou_high:.1f}"


def figure(score: AnyScore) -> str:
    """A mIoU with what it rests on: `64.51 % (95 %: 61.0-67.2 over 16 images, 2 skipped)`."""
    beside = [f"95 %: {interval(score)} over {score.images} images"] if interval(score) else []
    beside += [f"{score.skipped_images} skipped"] if score.skipped_images else []
    return percent(score.miou) + (f" ({', '.join(beside)})" if beside else "")


def gain_words(gain: Gain) -> str:
    """`better` and `worse` only where the interval leaves no doubt."""
    verdict = "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "no sure difference from"
    return f"{verdict} epoch {gain.against_epoch}: {points(gain.difference, gain.low, gain.high)}"


def points(difference: float, low: float, high: float) -> str:
    """`+1.20 points (95 %: +0.30 to +2.10)`, from fractions."""
    return f"{100 * difference:+.2f} points (95 %: {100 * low:+.2f} to {100 * high:+.2f})"


def sentence(event: Event) -> str | None:
    """One line, or `None` for what is not worth one."""
    match event:
        case RunCreated():
            return f"new run: {event.epochs} epochs, {len(event.class_names)} classes: {', '.join(event.class_names)}"
        case ConfigChanged():
            return "settings changed: " + ", ".join(f"{key} {change}" for key, change in event.changes.items())
        case DataAccepted():
            counts = "; ".join(told.count for told in event.splits)
            return f"data accepted as it is now: {counts}"
        case DrillsRequested():
            return "drills ahead: " + ", ".join(str(drill) for drill in event.drills)
        case AttemptPlanned() | AttemptSpawned() | AttemptStarted() | AttemptEnded():
            return _attempt(event)
        case DrillFired():
            return f"DRILL {event.drill}: this fault is made on purpose"
        case IncidentOpened():
            return _incident(event)
        case Diagnosed():
            return _diagnosed(event)
        case ProbationEnded():
            return probation_words(event)
        case EpochCommitted():
            return f"epoch {event.epoch} committed (step {event.step})"
        case EpochMoved():
            return f"epoch {event.epoch} of attempt {event.attempt} {event.reason}: now in {event.manifest}"
        case ScoreRecorded():
            return _scored(event)
        case AlertChanged():
            return _alert(event)
        case AlertAcknowledged():
            return f"alert {event.fingerprint} acknowledged by {event.by}: no more notifications of it"
        case AlertsSilenced():
            return f"{event.code} silenced by {event.by} until {stamp(event.until)}"
        case SilenceEnded():
            return f"{event.code} is no longer silenced"
        case DiskSeen(state="fine"):
            return f"the disk is as it should be: {event.free_bytes / 1e9:.1f} GB are free"
        case GaveUp():
            return f"GAVE UP: {event.reason}"
        case BudgetsForgiven():
            return "restart budgets are fresh again, on request"
        case DaemonStopped():
            return f"daemon leaves: {event.reason}"
        case RescoreWanted() if event.former:
            return f"{len(event.former)} epochs are scored again, on the files as they are now"
        case RescoreWanted():
            return "epochs that could not be scored are tried again"
        case RunFinished() if event.unscored:
            return f"finished: {event.trained} epochs trained, but {event.unscored} could NOT be scored (results.csv)"
        case RunFinished():
            return f"finished: {event.trained} epochs trained, every one scored"
        case _:
            return None


def _attempt(event: AttemptPlanned | AttemptSpawned | AttemptStarted | AttemptEnded) -> str | None:
    match event:
        case AttemptPlanned():
            return _planned(event)
        case AttemptSpawned():
            return f"attempt {event.attempt}: worker started (pid {event.pid})"
        case AttemptStarted():
            size = f"{event.parameters / 1e6:.2f} M parameters"
            return (
                f"attempt {event.attempt}: training on {event.device}, {size}, {event.steps_per_epoch} steps an epoch, "
                f"lr {event.lr:g}, AMP {event.amp}"
            )
        case AttemptEnded(outcome=Outcome.STOPPED):
            return f"attempt {event.attempt} ended: {event.message}"
        case AttemptEnded():
            return None  # what went wrong is told by the incident that follows


def _incident(event: IncidentOpened) -> str:
    drill = f" [DRILL {event.drill}]" if event.drill else ""
    place = f"attempt {event.attempt}, epoch {event.epoch}, step {event.step}"
    return f"INCIDENT {event.number:03d} {event.cause}{drill} ({place}): {event.message}"


def _diagnosed(event: Diagnosed) -> str:
    if event.finding is Finding.UNKNOWN:
        return f"incident {event.incident:03d}: what it was could not be found out: {event.because}"
    took = f" in {duration(event.seconds)}" if event.seconds >= 1 else ""
    files = f" [{', '.join(event.files)}]" if event.files else ""
    return f"incident {event.incident:03d} replayed{took}: {event.finding}{files}: {event.because}"


def probation_words(event: ProbationEnded) -> str:
    """How a trial ended."""
    what = "taking a remedy back" if event.incident is None else f"the remedy for incident {event.incident:03d}"
    held = "went well" if event.incident is None else "has proved itself"
    failed = "failed, it is put back" if event.incident is None else "did not hold"
    return f"{what} (attempt {event.attempt}) {held if event.passed else failed}: {event.because}"


def _planned(event: AttemptPlanned) -> str:
    batch = f"batch {event.batch_size}" + (f" x {event.accumulate}" if event.accumulate > 1 else "")
    warm = f", warm-up over {event.warm_up_steps} steps" if event.warm_up_steps else ""
    left = f", {_images(len(event.left_out))} left out" if event.left_out else ""
    wait = f", starting in {duration(event.delay_seconds)}" if event.delay_seconds >= 1 else ""
    return (
        f"attempt {event.attempt} {resume_words(event.resume_from)}: {event.because} "
        f"(lr {event.lr:g}, AMP {event.amp}, {batch}{warm}{left}{wait})"
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _scored(event: ScoreRecorded) -> str:
    who = f"epoch {event.epoch} {event.split:4}"
    if event.miou is None:
        return f"{who}: no score, {event.verdict}: {event.message.partition(REMEDY_MARK)[0]}"
    flag = "" if event.verdict == "ok" else f" [{event.verdict}: {event.message}]"
    spread = f" (95 %: {interval(event)})" if interval(event) else ""
    skipped = f" ({event.skipped_images} skipped)" if event.skipped_images else ""
    gain = f"; {gain_words(event.gain)}" if event.gain else ""
    return (
        f"{who}: mIoU {percent(event.miou)}{spread}, FWIoU {percent(event.fwiou)}, pixel accuracy "
        f"{percent(event.pixel_accuracy)} over {event.images} images{skipped} in {event.seconds:.1f} s{flag}{gain}"
    )


def _alert(event: AlertChanged) -> str | None:
    drill = f" [DRILL {event.drill}]" if event.drill else ""
    match event.state:
        case AlertState.PENDING | AlertState.WITHDRAWN:
            return None
        case AlertState.RESOLVED:
            return f"ALERT resolved {event.code}{drill}"
        case AlertState.FIRING:
            cause = "" if event.fingerprint.startswith("incident:") else f"{event.cause}. "
            return f"ALERT {event.severity} {event.code}{drill}: {cause}{event.action}"
