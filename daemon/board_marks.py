"""PURE: incidents as a curve. TensorBoard has no other way to mark a step: the curve is 0, and 1 where one happened."""

from __future__ import annotations

from collections.abc import Iterable


def needles(steps: Iterable[int]) -> dict[int, float]:
    """The points of that curve by step, ascending: each incident with a foot on either side, so that it is a needle."""
    tops = set(steps)
    feet = {step + side for step in tops for side in (-1, 1)} - tops
    return {step: float(step in tops) for step in sorted(tops | feet) if step >= 0}
