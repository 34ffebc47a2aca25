"""PURE: from which step on losses or gradient norms grew and stayed high. No torch, no file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BASELINE_SHARE = 1 / 3
"""Of the series, from its beginning: what is taken as the time before."""
BASELINE_STEPS = 8
"""Fewer finite figures than this are no time before."""
HIGH = 6.0
"""In standard deviations, the logarithm's: batches of one image scatter widely."""
LEAST_DEVIATION = 0.1
"""Of the logarithm: a series that hardly moves must not make an onset out of a tenth more."""
HIGH_SHARE = 0.8
"""A batch here and there may be easy even for weights that are lost."""
SOON_STEPS = 5
LEAST_STEPS = 3
"""That are high and finite: one bad last step is an event, not a growth."""
SPREAD_OF_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Onset:
    step: int
    figure: str
    """What grew: "loss" or "gradient norm"."""
    before: float
    """Its median before."""
    highest: float
    """Its largest finite value since."""


def find_onset(recent: Sequence[tuple[int, float | None, float | None]]) -> Onset | None:
    """The earlier onset of loss and gradient norm in (step, loss, norm), oldest first; `None` where neither grew."""
    figures = {
        "loss": [(step, loss) for step, loss, _ in recent],
        "gradient norm": [(step, norm) for step, _, norm in recent],
    }
    found = [onset for name, series in figures.items() if (onset := _growth(name, series)) is not None]
    return min(found, key=lambda onset: onset.step, default=None)


def _growth(figure: str, series: Sequence[tuple[int, float | None]]) -> Onset | None:
    """The first step from which the robust z of the logarithm stays high to the end; what is not finite is high."""
    before = [value for _, value in series[: int(len(series) * BASELINE_SHARE)] if _usable(value)]
    if len(before) < BASELINE_STEPS:
        return None
    logarithms = [math.log(value) for value in before if value is not None]
    middle = statistics.median(logarithms)
    spread = SPREAD_OF_NORMAL * statistics.median(abs(value - middle) for value in logarithms)
    limit = middle + HIGH * max(spread, LEAST_DEVIATION)

    high = [value is None or not math.isfinite(value) or (value > 0 and math.log(value) > limit) for _, value in series]
    start = next((at for at in range(len(series)) if _stays(high, at)), len(series))
    finite = [value for _, value in series[start:] if value is not None and math.isfinite(value)]
    if len(finite) < LEAST_STEPS:
        return None
    return Onset(series[start][0], figure, before=math.exp(middle), highest=max(finite))


def _stays(high: Sequence[bool], start: int) -> bool:
    """Whether from `start` on nearly all are high: soon after it, and to the end."""
    soon, rest = high[start : start + SOON_STEPS], high[start:]
    return high[start] and min(sum(soon) / len(soon), sum(rest) / len(rest)) >= HIGH_SHARE


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
