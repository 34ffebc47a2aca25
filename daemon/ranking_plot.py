"""Draws mIoU over epochs as a picture: val and test with their intervals, the winners, what has no score.

Knows nothing about checkpoints or runs. matplotlib takes most of a second to load, so import this only to draw.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..durable import write_atomic
from .run_plot import RunStory, draw_story, limits

STYLES = {"val": ("#E69F00", "s", "--"), "test": ("#0072B2", "o", "-")}
"""Colour, marker, line: told apart in grey and by colour-blind eyes as well (Okabe and Ito, 2008)."""
INCHES = (10.0, 5.6)
DOTS_PER_INCH = 120
FOOTNOTE_COLUMNS = 130
MARKED_LIMIT = 80
"""Epochs up to which every one gets its marker."""


@dataclass(frozen=True)
class Point:
    """One epoch on one split. Fractions; `None` where there is no score."""

    epoch: int
    split: str
    miou: float | None
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `miou`."""


def draw(path: Path, points: Sequence[Point], *, title: str, footnote: str = "", story: RunStory | None = None) -> None:
    """Write a PNG that appears whole. An epoch whose points have no mIoU is marked at the bottom.

    With a `story`, incidents and attempts are marked, and the learning rate is drawn below. Raises ValueError where
    there is no point at all.
    """
    if not points:
        raise ValueError("there is no epoch to draw")
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    if story is None:
        axes = lowest = figure.add_subplot()
    else:
        axes, lowest = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for split in STYLES:
        _curve(axes, split, sorted((p for p in points if p.split == split), key=lambda point: point.epoch))
    _mark_unscored(axes, points)
    _mark_winners(axes, points)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
    below = textwrap.fill(footnote, FOOTNOTE_COLUMNS)
    lowest.set_xlabel(f"epoch\n{below}" if below else "epoch", parse_math=False)
    axes.set_ylabel("mIoU (%), band: 95 % interval over images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    epochs = [point.epoch for point in points]
    axes.set_xlim(limits(min(epochs), max(epochs), story))
    if story is not None:
        draw_story(axes, lowest, story, last=max(epochs))
    for part in {axes, lowest}:
        part.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        part.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    with warnings.catch_warnings():  # a name in letters that the font has not is drawn as boxes, and no more
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        write_atomic(path, lambda file: figure.savefig(file, format="png"))


def best(points: Sequence[Point], split: str) -> Point | None:
    """The highest mIoU on `split`; of equals the earliest epoch."""
    scored = [point for point in points if point.split == split and point.miou is not None]
    return max(scored, key=lambda point: (point.miou or 0.0, -point.epoch), default=None)


def _curve(axes: Axes, split: str, points: Sequence[Point]) -> None:
    if all(point.miou is None for point in points):
        return
    colour, marker, line = STYLES[split]
    epochs = [point.epoch for point in points]
    # A gap in the line where an epoch has no score: a line through it would look like one.
    mious = [math.nan if point.miou is None else 100 * point.miou for point in points]
    shown = marker if len(points) <= MARKED_LIMIT else ""
    axes.plot(epochs, mious, color=colour, linestyle=line, marker=shown, markersize=4, linewidth=1.6, label=split)
    lows = [math.nan if point.low is None else 100 * point.low for point in points]
    highs = [math.nan if point.high is None else 100 * point.high for point in points]
    axes.fill_between(epochs, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axes.vlines(epochs, lows, highs, color=colour, alpha=0.3, linewidth=1)  # a band of one point has no width


def _mark_unscored(axes: Axes, points: Sequence[Point]) -> None:
    scored = {point.epoch for point in points if point.miou is not None}
    unscored = sorted({point.epoch for point in points} - scored)
    if unscored:
        bottom = axes.get_xaxis_transform()  # x as an epoch, y as a share of the height
        label = f"no score ({len(unscored)})"
        axes.plot(unscored, [0.02] * len(unscored), "x", color="#B00020", transform=bottom, label=label)


def _mark_winners(axes: Axes, points: Sequence[Point]) -> None:
    for split, (colour, _, _) in STYLES.items():
        winner = best(points, split)
        if winner is None or winner.miou is None:
            continue
        axes.plot(
            [winner.epoch],
            [100 * winner.miou],
            marker="*",
            markersize=16,
            color=colour,
            markeredgecolor="black",
            markeredgewidth=0.7,
            linestyle="",
            zorder=5,
            label=f"best by {split}: epoch {winner.epoch}, {split} mIoU {100 * winner.miou:.2f} %",
        )
