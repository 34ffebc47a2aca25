"""PURE: how an attempt ended, and what came before, in; what to do next, out. No clock, no process, no file, no torch.

What a replay has found out decides: the cheapest remedy that suffices. Where it could not be found out, a ladder does,
and its words say that it guessed: half precision overflows before anything else does, so it is ruled out first; then
the learning rate; what merely died is resumed with nothing changed. Budgets bound both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never, cast, get_args

from ..trainer.config import Amp
from ..trainer.contract import Cause
from ..trainer.diagnosis import Finding
from .config import RecoveryConfig
from .events import Diagnosed, Outcome

Remedy = Literal["lower-lr", "amp-off", "bf16", "micro-batch", "leave-out", "resume"]
ResumeFrom = Literal["verified-good", "latest"]
NUMERIC = frozenset(
    {
        Cause.NAN_LOSS,
        Cause.INF_GRADIENTS,
        Cause.NAN_WEIGHTS,
        Cause.AMP_UNSTABLE,
        Cause.LOSS_SPIKE,
        Cause.MIOU_COLLAPSE,
    }
)

OVERSHOT = frozenset({Cause.LOSS_SPIKE, Cause.MIOU_COLLAPSE})
"""Finite all the time: half precision is no suspect, the learning rate is."""
STEADY_BATCH = 4
"""Images of which BatchNorm's mean and variance are steady enough."""
TRUSTED_TRANSIENTS = 2
"""Something that cannot be repeated is believed so often in one place; then it is no accident any more."""


@dataclass(frozen=True)
class Settings:
    """What a remedy may change."""

    lr: float
    amp: Amp
    batch_size: int
    accumulate: int


@dataclass(frozen=True)
class Past:
    """An earlier incident that ended an attempt."""

    cause: Cause
    remedy: Remedy | None
    progress: bool | None
    """Whether a newer verified-good epoch stood between the incident before it and this one; `None` is unknown."""
    step: int = 0
    """At which it was, or began."""
    finding: Finding | None = None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, as far as deciding needs it."""

    outcome: Outcome
    cause: Cause | None
    message: str
    epoch_under_way: int
    stepped: bool
    """Whether this attempt completed a step."""
    ever_stepped: bool
    """Whether any attempt of the run did."""
    progress: bool | None
    """Whether a newer verified-good epoch has come since the incident before."""
    step: int = 0
    """At which the incident was, or began."""
    late_steps: int = 0
    """So many steps apart, two incidents are in one place all the same: the device tells its figures late."""


@dataclass(frozen=True)
class Complete:
    """The worker trained its last epoch."""


@dataclass(frozen=True)
class Restart:
    settings: Settings
    resume: ResumeFrom
    remedy: Remedy
    because: str
    delay_seconds: float = 0.0
    before_step: int | None = None
    """Only a checkpoint of an earlier step is gone back to."""
    warm_up_steps: int = 0
    leave_out: tuple[str, ...] = ()
    """Images that are not trained any more, besides those that are left out already."""
    decode_again: tuple[str, ...] = ()
    """Images whose entries in the pixel cache are made anew."""
    guessed: bool = False
    """Whether the ladder decided, because no finding did."""
    puts_back: Remedy | None = None
    """The remedy that was taken back in vain and is in force again."""


@dataclass(frozen=True)
class GiveUp:
    reason: str
    exit_code: int = 1


Decision = Complete | Restart | GiveUp


def decide(
    settings: Settings,
    past: Sequence[Past],
    ending: Ending,
    config: RecoveryConfig,
    diagnosis: Diagnosed | None = None,
) -> Decision:
    """The next thing to do after an attempt with `settings` ended. `past` is oldest first, without this ending.

    `diagnosis` is `None` where nothing was replayed, because nothing had to be or a person does not want it.
    """
    match ending.outcome:
        case Outcome.FINISHED:
            return Complete()
        case Outcome.PERMANENT:
            return GiveUp(f"trying again cannot help: {ending.message}", exit_code=78)
        case Outcome.CRASHED if not ending.ever_stepped:
            return GiveUp(f"the worker failed before its first step, so trying again cannot help: {ending.message}")
    assert ending.cause is not None, "everything else has a cause"
    if (spent := _spent_budget(past, ending, config)) is not None:
        return GiveUp(spent)
    if diagnosis is not None and (known := _known_remedy(settings, past, ending, config, diagnosis)) is not None:
        return known
    match ending.outcome:
        case Outcome.UNSTABLE:
            if diagnosis is not None and diagnosis.bf16_is_finite is False:
                config = config.model_copy(update={"amp_first": "off"})  # it was tried, or the device has none
            return _guessed(_steadier(settings, past, ending, config), past, ending, diagnosis)
        case Outcome.OUT_OF_MEMORY:
            return _smaller(settings, past, ending, config)
        case Outcome.CRASHED if diagnosis is not None and diagnosis.finding is not Finding.TRANSIENT:
            return _guessed(_again(settings, past, ending, config), past, ending, diagnosis)
        case Outcome.KILLED | Outcome.CRASHED | Outcome.HUNG | Outcome.STOPPED | Outcome.REMEDY_FAILED:
            return _again(settings, past, ending, config)
        case _:
            assert_never(ending.outcome)


def streak(past: Sequence[Past], ending: Ending, *, proved: bool = False) -> list[Past]:
    """The restarts since the last newer verified-good epoch. One whose progress is unknown is not counted.

    `proved`: since the last epoch that may be good, too, for what must not be said while scores are still to come.
    """
    counted: list[Past] = []
    progress = ending.progress
    for incident in reversed(past):
        if progress or (proved and progress is None):
            break
        if progress is False:
            counted.append(incident)
        progress = incident.progress
    return counted


def remedy_of(text: str | None) -> Remedy | None:
    """The remedy that an attempt was recorded with. Raises ValueError for one that this release does not know."""
    if text is not None and text not in get_args(Remedy):
        raise ValueError(f"{text!r} is no remedy")
    return cast("Remedy | None", text)


def family(cause: Cause) -> str:
    """Causes of one root share a budget: a NaN that shows itself in another place is the same trouble."""
    return "numeric" if cause in NUMERIC else cause.value


def _spent_budget(past: Sequence[Past], ending: Ending, config: RecoveryConfig) -> str | None:
    assert ending.cause is not None
    if len(past) >= config.whole_run:
        return f"{len(past)} restarts in this run, which is its budget (recovery.whole_run); last: {ending.message}"
    same = [incident for incident in streak(past, ending) if family(incident.cause) == family(ending.cause)]
    if len(same) >= config.same_cause:
        return (
            f"{ending.cause} came back after {len(same)} restarts without a newer good epoch, "
            f"which is the budget for one cause (recovery.same_cause); last: {ending.message}"
        )
    return None


def transients_here(past: Sequence[Past], ending: Ending) -> int:
    """How often something in this place could not be repeated."""
    near = [each for each in past if abs(each.step - ending.step) <= ending.late_steps]
    return sum(each.finding is Finding.TRANSIENT for each in near)


def _known_remedy(
    settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig, diagnosis: Diagnosed
) -> Decision | None:
    """What the finding of a replay asks for; `None` where it asks for nothing, and the ladder decides."""
    numeric, transients = ending.outcome is Outcome.UNSTABLE, transients_here(past, ending)
    if not has_remedy(diagnosis, settings.amp, numeric=numeric, transients=transients):
        return None
    where = f"{ending.cause} in epoch {ending.epoch_under_way}"
    match diagnosis.finding:
        case Finding.TRANSIENT:
            return _not_repeatable(settings, past, ending, diagnosis)
        case Finding.PRECISION:
            return _wider(settings, diagnosis, f"{where} is the precision")
        case Finding.DATA if not diagnosis.files:
            names = ", ".join(diagnosis.decode_again)
            words = f"{where} is the pixel cache: {names} decoded again, since the files are sound; nothing changed"
            return Restart(settings, "latest", "resume", words, decode_again=diagnosis.decode_again)
        case Finding.DATA:
            names = ", ".join(diagnosis.files)
            words = f"{where} is the data: {names} left out from here on, settings kept"
            again = diagnosis.decode_again
            return Restart(settings, "latest", "leave-out", words, leave_out=diagnosis.files, decode_again=again)
        case Finding.LEARNING_RATE:
            onset = ending.step if diagnosis.onset_step is None else diagnosis.onset_step
            why = f"{where} is the learning rate"
            return _lower(settings, past, ending, config, why=why, onset_step=onset)
        case Finding.CAPACITY:
            return _smaller(settings, past, ending, config)
        case Finding.UNKNOWN:
            return None
        case _:
            assert_never(diagnosis.finding)


def has_remedy(diagnosis: Diagnosed, amp: Amp, *, numeric: bool, transients: int) -> bool:
    """Whether a finding asks for a remedy under this precision; otherwise the ladder decides, and guesses.

    `numeric` says that numbers broke, `transients` how often something in this place could not be repeated before.
    """
    match diagnosis.finding:
        case Finding.TRANSIENT:
            return numeric and transients < TRUSTED_TRANSIENTS
        case Finding.PRECISION:
            return amp is not Amp.OFF
        case Finding.DATA:
            return bool(diagnosis.files or diagnosis.decode_again)
        case Finding.LEARNING_RATE:
            return numeric
        case Finding.CAPACITY:
            return True
        case Finding.UNKNOWN:
            return False
        case _:
            assert_never(diagnosis.finding)


def _wider(settings: Settings, diagnosis: Diagnosed, why: str) -> Restart:
    """A wider range of numbers, of which bf16 has as much as fp32 and costs nothing. Nothing poisoned is committed."""
    if settings.amp is Amp.FP16 and diagnosis.bf16_is_finite is True:
        words = f"{why}: AMP fp16 -> bf16, learning rate kept"
        return Restart(replace(settings, amp=Amp.BF16), "latest", "bf16", words)
    words = f"{why}: AMP {settings.amp} -> off, learning rate kept"
    return Restart(replace(settings, amp=Amp.OFF), "latest", "amp-off", words)


def _said(diagnosis: Diagnosed) -> str:
    """Its reason, as a part of a sentence."""
    return diagnosis.because.rstrip(". ")


def _not_repeatable(settings: Settings, past: Sequence[Past], ending: Ending, diagnosis: Diagnosed) -> Restart:
    again = transients_here(past, ending) > 0
    told = "for the second time in one place, which points at the device" if again else "it does not come back"
    return Restart(
        settings,
        "latest",
        "resume",
        f"{ending.cause} in epoch {ending.epoch_under_way} is transient, {told}: resume with nothing changed",
        before_step=diagnosis.onset_step,
    )


def _guessed(decision: Decision, past: Sequence[Past], ending: Ending, diagnosis: Diagnosed | None) -> Decision:
    """With a word on why the ladder had to decide."""
    why = why_guessed(diagnosis, transients_here(past, ending))
    match decision:
        case Restart():
            return replace(decision, because=f"{why}; guessed: {decision.because}", guessed=True)
        case GiveUp():
            return replace(decision, reason=f"{decision.reason}; {why}")
        case Complete():
            return decision
        case _:
            assert_never(decision)


def why_guessed(diagnosis: Diagnosed | None, transients: int) -> str:
    """Why no finding decides. `transients`: how often something in this place could not be repeated before."""
    if diagnosis is None:
        return "nothing was replayed"
    if diagnosis.finding is Finding.UNKNOWN:
        return f"what it was could not be found out ({_said(diagnosis)})"
    if diagnosis.finding is Finding.TRANSIENT:
        return f"it could not be repeated, but this is time {transients + 1} in one place"
    return f"the replay says {diagnosis.finding}, which has no remedy here ({_said(diagnosis)})"


def _steadier(settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig) -> Decision:
    """NaN, Inf or poisoned weights: roll back to verified good, and precision first, then the learning rate."""
    where = f"{ending.cause} in epoch {ending.epoch_under_way}"
    if ending.cause in OVERSHOT:
        return _lower(settings, past, ending, config, why=where)
    match settings.amp:
        case Amp.FP16 if config.amp_first == "bf16":
            return Restart(
                replace(settings, amp=Amp.BF16), "verified-good", "bf16", f"{where} under fp16: AMP fp16 -> bf16"
            )
        case Amp.FP16 | Amp.BF16:
            return Restart(
                replace(settings, amp=Amp.OFF),
                "verified-good",
                "amp-off",
                f"{where} under {settings.amp}: AMP {settings.amp} -> off, learning rate kept",
            )
        case Amp.OFF:
            return _lower(settings, past, ending, config, why=where)
        case _:
            assert_never(settings.amp)


def _lower(
    settings: Settings,
    past: Sequence[Past],
    ending: Ending,
    config: RecoveryConfig,
    *,
    why: str,
    onset_step: int | None = None,
) -> Decision:
    """Roll back past the onset, where it is known, and go on with a lower rate that rises over a short warm-up."""
    recent = streak(past, ending, proved=True)
    cuts = sum(incident.remedy == "lower-lr" for incident in recent)
    amp_was_tried = any(incident.remedy in {"amp-off", "bf16"} for incident in recent)
    if cuts >= 2 and not amp_was_tried:
        return GiveUp(f"{why}: lowering the learning rate {cuts} times brought no good epoch")
    lower = settings.lr * config.lr_factor
    return Restart(
        replace(settings, lr=lower),
        "verified-good",
        "lower-lr",
        f"{why}: learning rate {settings.lr:g} -> {lower:g}",
        before_step=onset_step,
        warm_up_steps=config.warm_up_steps,
    )


def _smaller(settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig) -> Decision:
    """Out of memory: the same effective batch from smaller pieces. At one image there is nothing left to halve."""
    effective = settings.batch_size * settings.accumulate
    smaller = max(
        (size for size in range(1, settings.batch_size // 2 + 1) if effective % size == 0),
        default=None,
    )
    if smaller is None:
        again = _again(settings, past, ending, config, first_at_once=False)  # whoever has the memory may let go of it
        return replace(again, because=f"{again.because}; at batch size 1 there is nothing left to halve")
    halved = replace(settings, batch_size=smaller, accumulate=effective // smaller)
    return Restart(
        halved,
        "latest",
        "micro-batch",
        f"out of memory: batch {settings.batch_size} x {settings.accumulate} -> {halved.batch_size} x "
        f"{halved.accumulate} (the same effective batch of {effective}), learning rate kept{_noisy(smaller)}",
    )


def _noisy(batch_size: int) -> str:
    """A word on a batch that is small for BatchNorm: it norms each micro-batch by itself."""
    return "" if batch_size >= STEADY_BATCH else f"; BatchNorm sees {batch_size} at a time, and is noisy below 4 images"


def _again(
    settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig, *, first_at_once: bool = True
) -> Restart:
    """Killed, crashed or hung: the numbers were fine, so nothing changes. At once, then after longer and longer waits.

    Most of what kills a worker once does not kill it twice, and only what comes back is a loop that needs a brake.
    """
    before = sum(incident.remedy == "resume" for incident in streak(past, ending)) - first_at_once
    doublings = min(before, 64)  # a float ends at 2 ** 1024, and every cap is reached long before
    delay = 0.0 if before < 0 else min(config.backoff_seconds * 2.0**doublings, config.backoff_limit_seconds)
    when = f"after {delay:g} s" if delay else "at once"
    return Restart(
        settings,
        "latest",
        "resume",
        f"{ending.cause} in epoch {ending.epoch_under_way}: resume with nothing changed, {when}",
        delay_seconds=delay,
    )
