"""What happened to a run, drawn into its curves: where it broke, where an attempt began, which learning rate it had.

`story_of` is PURE and loads no matplotlib; `draw_story` is handed the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .events import IncidentOpened
from .history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCIDENT = "#B00020"
ATTEMPT = "#666666"
EDGE = 0.04
"""Share of the width that stays free beside an incident: it would lie under the axis, and its name outside."""
NAME_WIDTH = 0.016
"""Share of the width that a name takes, which stands upright."""
NAMED_LIMIT = 12
"""Incidents up to which each is named in the picture; beyond, the names would hide the curves."""


@dataclass(frozen=True)
class Mark:
    """An incident: where in the run it was, and what it was."""

    place: float
    """Epochs completed before it; 0.5 is the middle of epoch 1."""
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
        Mark(_place(history, incident.opened), f"{incident.number} {incident.opened.cause}")
        for incident in history.incidents
    ]
    return RunStory(marks, stretches)


def _place(history: History, incident: IncidentOpened) -> float:
    """By its step; in the middle of its epoch where the attempt never told how many steps an epoch has."""
    started = history.attempt(incident.attempt).started
    before = incident.epoch - 1
    if started is None:
        return before + 0.5
    return min(max(incident.step / started.steps_per_epoch, before), incident.epoch)


def limits(first: int, last: int, story: RunStory | None) -> tuple[float, float]:
    """What the axis of epochs shows: every score between `first` and `last`, and every incident, none at the edge."""
    places = [] if story is None else [mark.place for mark in story.incidents]
    left, right = min([first - 0.5, *places]), max([last + 0.5, *places])
    margin = EDGE * (right - left)
    return (
        left - margin if places and min(places) < left + margin else left,
        right + margin if places and max(places) > right - margin else right,
    )


def draw_story(curves: Axes, lr: Axes, story: RunStory, *, last: float) -> None:
    """Mark incidents and attempts in `curves`; draw the learning rate of the attempts into `lr`, up to epoch `last`.

    An epoch stands at its end: what happened in epoch 3 is drawn between 2 and 3.
    """
    last = max([last, *(mark.place for mark in story.incidents)])
    for place, mark in enumerate(story.incidents):
        label = f"incident ({len(story.incidents)})" if place == 0 else None
        curves.axvline(mark.place, color=INCIDENT, linewidth=1.2, linestyle=":", label=label)
    if len(story.incidents) <= NAMED_LIMIT:
        _name_incidents(curves, story.incidents)
    for place, stretch in enumerate(story.stretches[1:]):
        label = "another attempt takes over" if place == 0 else None
        curves.axvline(stretch.begin, color=ATTEMPT, linewidth=1.0, label=label)
        lr.axvline(stretch.begin, color=ATTEMPT, linewidth=1.0)
    _draw_lr(lr, story.stretches, last)


def _name_incidents(axes: Axes, marks: Sequence[Mark]) -> None:
    """Beside the lines; a name that would lie over the one before it moves to the right."""
    left, right = axes.get_xlim()
    free = left
    for mark in sorted(marks, key=lambda mark: mark.place):
        at = max(mark.place, free)
        free = at + NAME_WIDTH * (right - left)
        axes.annotate(
            mark.name,
            (at, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            fontsize=8,
            color=INCIDENT,
            va="bottom",
        )


def _draw_lr(axes: Axes, stretches: Sequence[Stretch], last: float) -> None:
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
