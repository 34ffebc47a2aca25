"""PURE: which remedy is taken back to see whether it is still needed, and which is put back because it is.

One at a time, half precision first, then the learning rate in the steps in which it was lowered. What failed once is
latched for the run; what passed may be tried a second time, should its remedy have come again. Knows no clock, no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import RecoveryConfig
from .events import AttemptPlanned
from .history import History
from .policy import Remedy, ResumeFrom, Settings, remedy_of

TRIES = 2
"""Of taking back one kind of remedy in a run."""
AMP_KINDS = frozenset({"amp-off", "bf16"})
TOLERANCE = 1e-9
"""Relative: halved and doubled again, a rate is what it was but for rounding."""


@dataclass(frozen=True)
class Change:
    """Other settings than before, for another reason than an incident."""

    settings: Settings
    resume: ResumeFrom
    because: str
    undoes: Remedy | None = None
    puts_back: Remedy | None = None
    before_step: int | None = None
    warm_up_steps: int = 0


def to_put_back(history: History) -> Change | None:
    """The remedy whose undoing has failed, while it is not in force again."""
    if not history.tried.undone or history.current is None:
        return None
    undone, now = history.tried.undone[-1], settings_of(history.current.plan)
    ended = history.tried.ends.get(undone.attempt)
    done = any(plan.attempt > undone.attempt for plan in history.tried.put_back)
    if ended is None or ended.passed or done or _overruled(history, undone, now):
        return None
    kind, before = remedy_of(undone.undoes), history.attempt(undone.attempt - 1).plan
    assert kind is not None
    if kind in AMP_KINDS:
        settings = replace(now, amp=before.amp)
        words = f"AMP {now.amp} -> {before.amp}"
    else:
        settings = replace(now, lr=before.lr)
        words = f"learning rate {now.lr:g} -> {before.lr:g}"
    return Change(
        settings,
        "verified-good",
        f"the remedy is still needed, since without it {ended.because}: {words}, for the rest of the run",
        puts_back=kind,
        before_step=undone.resume_step + 1,
    )


def to_undo(history: History, wished: Settings, config: RecoveryConfig) -> Change | None:
    """The remedy that it is time to take back, towards what a person has `wished` for."""
    if not config.undo or not _quiet(history, config):
        return None
    assert history.current is not None
    now = settings_of(history.current.plan)
    return _less_of_amp_off(history, now, wished, config) or _less_of_lower_lr(history, now, wished, config)


def settings_of(plan: AttemptPlanned) -> Settings:
    return Settings(plan.lr, plan.amp, plan.batch_size, plan.accumulate)


def latched(history: History, kind: str) -> bool:
    """Whether a remedy stays for the rest of the run."""
    tried = [plan for plan in history.tried.undone if plan.undoes == kind]
    ends = [history.tried.ends.get(plan.attempt) for plan in tried]
    return len(tried) >= TRIES or any(end is not None and not end.passed for end in ends)


def _overruled(history: History, undone: AttemptPlanned, now: Settings) -> bool:
    """Whether a person, or a remedy, has set since what the undoing had set."""
    if undone.undoes in AMP_KINDS:
        return now.amp is not undone.amp or "trainer.amp" in history.edited
    return abs(now.lr - undone.lr) > TOLERANCE * undone.lr or "trainer.lr" in history.edited


def _quiet(history: History, config: RecoveryConfig) -> bool:
    """Nothing is on trial, open or about to happen, and there is time left to see what comes of it."""
    line, attempts = history.lineage(), history.attempts
    if not line or not attempts or history.tried.open or history.pending_drills or to_put_back(history) is not None:
        return False
    if any(incident.opened.fatal for incident in history.open_incidents()):
        return False
    newest = line[-1].epoch
    changed = (attempt.plan for attempt in reversed(attempts) if attempt.plan.remedy or attempt.plan.undoes)
    last = next(changed, None)
    if last is None or newest - last.resume_epoch < config.probation_epochs:
        return False
    return history.epochs_wanted - newest > config.probation_epochs


def _less_of_amp_off(history: History, now: Settings, wished: Settings, config: RecoveryConfig) -> Change | None:
    if now.amp is wished.amp:
        return None
    for before, plan in _neighbours(history):
        if plan.remedy in AMP_KINDS and plan.amp is now.amp and before.amp is not now.amp:
            if not _proved(history, plan):
                return None
            words = f"AMP {now.amp} -> {before.amp} again: {_why(config)}"
            return Change(replace(now, amp=before.amp), "latest", words, undoes=remedy_of(plan.remedy))
    return None


def _less_of_lower_lr(history: History, now: Settings, wished: Settings, config: RecoveryConfig) -> Change | None:
    if now.lr >= wished.lr * (1 - TOLERANCE):
        return None
    cuts = (plan for _, plan in _neighbours(history) if plan.remedy == "lower-lr")
    last = next(cuts, None)
    if last is None or not _proved(history, last):
        return None
    lr = now.lr / config.lr_factor
    lr = wished.lr if lr > wished.lr * (1 - TOLERANCE) else lr
    words = f"learning rate {now.lr:g} -> {lr:g} again: {_why(config)}"
    return Change(replace(now, lr=lr), "latest", words, undoes="lower-lr", warm_up_steps=config.warm_up_steps)


def _neighbours(history: History) -> list[tuple[AttemptPlanned, AttemptPlanned]]:
    """Each plan with the one before it, newest first."""
    plans = [attempt.plan for attempt in history.attempts]
    return list(zip(plans[-2::-1], plans[:0:-1], strict=True))


def _proved(history: History, plan: AttemptPlanned) -> bool:
    """Whether the remedy of a plan has passed its probation, or a later one has, and may be taken back."""
    passed = any(end.passed for attempt, end in history.tried.ends.items() if attempt >= plan.attempt)
    return passed and plan.remedy is not None and not latched(history, plan.remedy)


def _why(config: RecoveryConfig) -> str:
    return f"{config.probation_epochs} epochs went well without, now it is seen whether the remedy is still needed"
