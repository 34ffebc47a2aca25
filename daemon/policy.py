"""PURE: how an attempt ended, and what came before, in; what to do next, out. No clock, no process, no file, no torch.

The ladder of remedies and its budgets. Half precision overflows before anything else does, so it is ruled out first;
then the learning rate; what merely died is resumed with nothing changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never, cast, get_args

from ..trainer.config import Amp
from ..trainer.contract import Cause
from .config import RecoveryConfig
from .events import Outcome

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


@dataclass(frozen=True)
class GiveUp:
    reason: str
    exit_code: int = 1


Decision = Complete | Restart | GiveUp


def decide(settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig) -> Decision:
    """The next thing to do after an attempt with `settings` ended. `past` is oldest first, without this ending."""
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
    match ending.outcome:
        case Outcome.UNSTABLE:
            return _steadier(settings, past, ending, config)
        case Outcome.OUT_OF_MEMORY:
            return _smaller(settings, past, ending, config)
        case Outcome.KILLED | Outcome.CRASHED | Outcome.HUNG | Outcome.STOPPED | Outcome.REMEDY_FAILED:
            return _again(settings, past, ending, config)
        case _:
            assert_never(ending.outcome)


def streak(past: Sequence[Past], ending: Ending) -> list[Past]:
    """The restarts since the last newer verified-good epoch. One whose progress is unknown is not counted."""
    counted: list[Past] = []
    progress = ending.progress
    for incident in reversed(past):
        if progress:
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


def _steadier(settings: Settings, past: Sequence[Past], ending: Ending, config: RecoveryConfig) -> Decision:
    """NaN, Inf or poisoned weights: roll back to verified good, and precision first, then the learning rate."""
    where = f"{ending.cause} in epoch {ending.epoch_under_way}"
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
            recent = streak(past, ending)
            cuts = sum(incident.remedy == "lower-lr" for incident in recent)
            amp_was_tried = any(incident.remedy in {"amp-off", "bf16"} for incident in recent)
            if cuts >= 2 and not amp_was_tried:
                return GiveUp(f"{where}: lowering the learning rate {cuts} times brought no good epoch")
            lower = settings.lr * config.lr_factor
            return Restart(
                replace(settings, lr=lower),
                "verified-good",
                "lower-lr",
                f"{where}: learning rate {settings.lr:g} -> {lower:g}",
            )
        case _:
            assert_never(settings.amp)


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
        f"{halved.accumulate} (the same effective batch of {effective}), learning rate kept",
    )


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
