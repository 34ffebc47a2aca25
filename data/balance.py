"""PURE: what each class weighs in the loss, by how many pixels it has. Knows nothing about files, tensors or losses."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

Kind = Literal["none", "median-frequency", "inverse"]


def weights(kind: Kind, pixels: Sequence[int], seen: Sequence[int], limit: float) -> list[float]:
    """One weight per class, each within [1 / limit, limit].

    `pixels` are the training pixels of each class; `seen` the counted pixels of the images that hold it.

    - `median-frequency`: freq = pixels / seen, weight = median(freq) / freq (Eigen and Fergus 2015, arXiv 1411.4734).
      The pixels of images without the class do not make it rarer.
    - `inverse`: 1 / pixels, scaled so that the mean is 1 before the limit is applied.
    - `none`: 1 for each.

    A class without a training pixel weighs 1 and moves no other weight: there is nothing that its weight would act on.
    Raises ValueError when the two lists do not fit each other, or a limit is below 1.
    """
    if len(pixels) != len(seen):
        raise ValueError(f"{len(pixels)} classes have pixels, {len(seen)} have images")
    if not limit >= 1:
        raise ValueError(f"a limit of {limit:g} leaves no room: it is at least 1")
    occurring = [position for position, count in enumerate(pixels) if count]
    raw = _raw(kind, [pixels[position] for position in occurring], [seen[position] for position in occurring])
    found = [1.0] * len(pixels)
    for position, weight in zip(occurring, raw, strict=True):
        found[position] = min(max(weight, 1 / limit), limit)
    return found


def _raw(kind: Kind, pixels: list[int], seen: list[int]) -> list[float]:
    """Of classes that all occur, before the limit."""
    if kind == "none" or not pixels:
        return [1.0] * len(pixels)
    if kind == "inverse":
        mean = statistics.fmean(1 / count for count in pixels)
        return [1 / count / mean for count in pixels]
    frequency = [count / total for count, total in zip(pixels, seen, strict=True)]
    median = statistics.median(frequency)
    return [median / own for own in frequency]
