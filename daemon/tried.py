"""What a run has tried, folded from its facts: which remedies are on trial, how trials have ended. Judges nothing."""

from __future__ import annotations

from ..trainer.contract import Cause
from .events import AttemptPlanned, Diagnosed, Event, ProbationEnded

DIED = frozenset({Cause.WORKER_CRASHED, Cause.WORKER_HUNG, Cause.OUT_OF_MEMORY})
"""The numbers were fine: where nothing was changed but the process, a good epoch says enough."""


class Tried:
    """`open` are the plans, by attempt, whose remedy, or whose undoing of one, has not proved itself yet."""

    def __init__(self) -> None:
        self.open: dict[int, AttemptPlanned] = {}
        self.ends: dict[int, ProbationEnded] = {}
        """By the attempt that was on trial."""
        self.undone: list[AttemptPlanned] = []
        self.put_back: list[AttemptPlanned] = []
        self.when: dict[AttemptPlanned | Diagnosed | ProbationEnded, float] = {}
        """The moment at which each of these facts became known."""

    def note(self, moment: float, event: Event) -> None:
        if isinstance(event, AttemptPlanned | Diagnosed | ProbationEnded):
            self.when[event] = moment

    def plan(self, plan: AttemptPlanned, cause: Cause | None) -> None:
        """A plan, and of what it answers. On trial is any remedy, and whatever answers numbers that went wrong."""
        if plan.undoes is not None:
            self.undone.append(plan)
        if plan.puts_back is not None:
            self.put_back.append(plan)
        answers = cause is not None and (plan.remedy != "resume" or cause not in DIED)
        if plan.undoes is not None or answers:
            self.open[plan.attempt] = plan

    def end(self, event: ProbationEnded) -> None:
        self.ends[event.attempt] = event
        self.open.pop(event.attempt, None)

    def forget(self) -> None:
        """A person has stepped in: what was on trial is not what goes on."""
        self.open.clear()

    def holds(self, answer: AttemptPlanned) -> bool | None:
        """Whether an answer, or one after it, has proved itself; `None` where it never had to."""
        if answer.attempt in self.open:
            return False
        ended = self.ends.get(answer.attempt)
        if ended is None:
            return None
        return ended.passed or any(later.passed for attempt, later in self.ends.items() if attempt > answer.attempt)
