"""PURE: which remedy is taken back to see whether it is still needed, and which is put back because it is.

One at a time, half precision first, then the learning rate in the steps in which it was lowered. A remedy without which
the run broke, or learned less, is latched for the run; where nobody knows what broke, it is put back and tried once
more. Each remedy has its own tries: one that comes for another incident is another one. Knows no clock, no file.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

from .config import RecoveryConfig
from .events import AttemptPlanned
from .history import History
from .policy import Remedy, ResumeFrom, Settings, remedy_of

TRIES = 2
"""Of doing without one remedy."""
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
    guessed: bool = False


@dataclass(frozen=True)
class Cut:
    """A remedy: the attempt that brought it, and the one before that."""

    before: AttemptPlanned
    plan: AttemptPlanned


@dataclass(frozen=True)
class Tries:
    """What was taken back of the remedies of a run."""

    made: tuple[tuple[AttemptPlanned, Cut], ...]
    """Each undoing with the remedy that it does without, oldest first."""
    in_force: tuple[Cut, ...]
    """The remedies that no undoing has shown to be needless, oldest first."""

    def of(self, cut: Cut) -> list[AttemptPlanned]:
        return [plan for plan, undone in self.made if undone is cut]

    def newest(self, kinds: Collection[str]) -> Cut | None:
        return next((cut for cut in reversed(self.in_force) if cut.plan.remedy in kinds), None)


def tries(history: History) -> Tries:
    """The newest remedy of its kind goes first."""
    made: list[tuple[AttemptPlanned, Cut]] = []
    in_force: list[Cut] = []
    for before, plan in pairwise(attempt.plan for attempt in history.attempts):
        if plan.remedy is not None and plan.puts_back is None:
            in_force.append(Cut(before, plan))
        cut = next((cut for cut in reversed(in_force) if cut.plan.remedy == plan.undoes), None)
        if plan.undoes is None or cut is None:
            continue
        made.append((plan, cut))
        ended = history.tried.ends.get(plan.attempt)
        if ended is not None and ended.passed:
            in_force.remove(cut)
    return Tries(tuple(made), tuple(in_force))


def put_back_after(history: History, undoing: AttemptPlanned) -> AttemptPlanned | None:
    """The attempt by which a remedy was in force again; `None` where its undoing went well, or is on trial."""
    later = [plan.attempt for plan in history.tried.undone if plan.attempt > undoing.attempt]
    until = min(later, default=len(history.attempts) + 1)
    return next((plan for plan in history.tried.put_back if undoing.attempt < plan.attempt < until), None)


def changes_for(history: History, incident: int) -> list[AttemptPlanned]:
    """The attempts that took the remedy for an incident back, and that put it back for no incident of its own."""
    found: list[AttemptPlanned] = []
    for undoing, cut in tries(history).made:
        if cut.plan.incident == incident:
            back = put_back_after(history, undoing)
            found += [undoing] if back is None or back.incident is not None else [undoing, back]
    return found


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
    guess = "guessed: " if ended.guessed else ""
    long = "for the rest of the run" if latched(history, kind) else "until it is tried once more"
    return Change(
        settings,
        "verified-good",
        f"{guess}the remedy is still needed, since without it {ended.because}: {words}, {long}",
        puts_back=kind,
        before_step=undone.resume_step + 1,
        guessed=ended.guessed,
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
    """Whether the newest remedy of a kind stays for the rest of the run: it was seen to be needed, or tried enough."""
    known = tries(history)
    cut = known.newest({kind})
    tried = [] if cut is None else known.of(cut)
    ends = [history.tried.ends.get(plan.attempt) for plan in tried]
    needed = any(end is not None and not end.passed and not end.guessed for end in ends)
    return needed or len(tried) >= TRIES


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
    cut = tries(history).newest(AMP_KINDS)
    if cut is None or cut.plan.amp is not now.amp or cut.before.amp is now.amp or not _proved(history, cut):
        return None
    words = f"AMP {now.amp} -> {cut.before.amp} again: {_why(config)}"
    return Change(replace(now, amp=cut.before.amp), "latest", words, undoes=remedy_of(cut.plan.remedy))


def _less_of_lower_lr(history: History, now: Settings, wished: Settings, config: RecoveryConfig) -> Change | None:
    if now.lr >= wished.lr * (1 - TOLERANCE):
        return None
    cut = tries(history).newest({"lower-lr"})
    if cut is None or cut.plan.lr >= cut.before.lr or not _proved(history, cut):
        return None
    lr = now.lr * cut.before.lr / cut.plan.lr
    lr = wished.lr if lr > wished.lr * (1 - TOLERANCE) else lr
    words = f"learning rate {now.lr:g} -> {lr:g} again: {_why(config)}"
    return Change(replace(now, lr=lr), "latest", words, undoes="lower-lr", warm_up_steps=config.warm_up_steps)


def _proved(history: History, cut: Cut) -> bool:
    """Whether a remedy has passed its probation, or a later one has, and may be taken back."""
    passed = any(end.passed for attempt, end in history.tried.ends.items() if attempt >= cut.plan.attempt)
    return passed and cut.plan.remedy is not None and not latched(history, cut.plan.remedy)


def _why(config: RecoveryConfig) -> str:
    return f"{config.probation_epochs} epochs went well without, now it is seen whether the remedy is still needed"
