"""What happened to a run, drawn into its curves: where it broke, where an attempt began, which learning rate it had.

`story_of` is PURE and loads no matplotlib; `draw_story` is handed the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCIDENT = "#B00020"
ATTEMPT = "#666666"
NAMED_LIMIT = 12
"""Incidents up to which each is named in the picture; beyond, the names would hide the curves."""


@dataclass(frozen=True)
class Mark:
    """An incident: the epoch that was under way, and what it was."""

    epoch: int
    name: str


@dataclass(frozen=True)
class Stretch:
    """The epochs of the line that stands which one attempt has trained."""

    attempt: int
    begin: int
    """Completed epochs before it."""
    end: int | None
    """Completed epochs where the next attempt takes over; `None` where none does."""
    lr: float
    amp: str


@dataclass(frozen=True)
class RunStory:
    incidents: Sequence[Mark]
    stretches: Sequence[Stretch]


def story_of(history: History) -> RunStory:
    """A roll-back shortens the attempts before it; one of which nothing stands is no stretch."""
    stretches: list[Stretch] = []
    for attempt in history.attempts:
        plan = attempt.plan
        kept = [stretch for stretch in stretches if stretch.begin < plan.resume_epoch]
        if kept:
            kept[-1] = replace(kept[-1], end=plan.resume_epoch)
        stretches = [*kept, Stretch(attempt.number, plan.resume_epoch, None, plan.lr, plan.amp.value)]
    marks = [
        Mark(incident.opened.epoch, f"{incident.number} {incident.opened.cause}") for incident in history.incidents
    ]
    return RunStory(marks, stretches)


def draw_story(curves: Axes, lr: Axes, story: RunStory, *, last: int) -> None:
    """Mark incidents and attempts in `curves`, up to epoch `last`; draw the learning rate of the attempts into `lr`.

    An epoch stands at its end: what happened in epoch 3 is drawn between 2 and 3.
    """
    for place, mark in enumerate(story.incidents):
        label = f"incident ({len(story.incidents)})" if place == 0 else None
        curves.axvline(mark.epoch - 0.5, color=INCIDENT, linewidth=1.2, linestyle=":", label=label)
    if len(story.incidents) <= NAMED_LIMIT:
        _name_incidents(curves, story.incidents)
    for place, stretch in enumerate(story.stretches[1:]):
        label = "another attempt takes over" if place == 0 else None
        curves.axvline(stretch.begin, color=ATTEMPT, linewidth=1.0, label=label)
        lr.axvline(stretch.begin, color=ATTEMPT, linewidth=1.0)
    _draw_lr(lr, story.stretches, last)


def _name_incidents(axes: Axes, marks: Sequence[Mark]) -> None:
    """Names of one epoch stand below each other's beginning, side by side."""
    beside: dict[int, int] = {}
    for mark in marks:
        place = beside.setdefault(mark.epoch, 0)
        beside[mark.epoch] += 1
        axes.annotate(
            mark.name,
            (mark.epoch - 0.5, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3 + 10 * place, 0),
            textcoords="offset points",
            rotation=90,
            fontsize=8,
            color=INCIDENT,
            va="bottom",
        )


def _draw_lr(axes: Axes, stretches: Sequence[Stretch], last: int) -> None:
    left, _ = axes.get_xlim()
    for stretch in stretches:
        end = last if stretch.end is None else min(stretch.end, last)
        axes.hlines(stretch.lr, stretch.begin, max(end, stretch.begin), color="#333333", linewidth=1.8)
        amp = "" if stretch.amp == "off" else f", AMP {stretch.amp}"
        axes.annotate(
            f"{stretch.lr:g}{amp}",
            (max(stretch.begin, left), stretch.lr),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8,
        )
    rates = [stretch.lr for stretch in stretches]
    if rates and min(rates) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(rates) / 1.6, max(rates) * 3)
        axes.minorticks_off()
        axes.set_yticks(sorted(set(rates)), labels=[f"{rate:g}" for rate in sorted(set(rates))])
    axes.set_ylabel("lr, by attempt", fontsize=9)
