"""PURE: on what terms a score is given, in words. Two scores on other terms are two quantities. No torch.

Knows nothing about what was counted: over how many classes a mean went is said beside it, in `judging`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..data.resolved import Reading, ResolvedData

Resolution = Literal["scaled", "native"]


def terms(data: ResolvedData, split: str, resolution: Resolution, side: int, overlap: float) -> str:
    """At which size, through windows of which `side` in pixels (0: whole images), and what was left out."""
    return "; ".join([_compared(data, resolution, side, overlap), *_left_out(data, split)])


def _compared(data: ResolvedData, resolution: Resolution, side: int, overlap: float) -> str:
    if resolution == "native":
        size = f"native: logits of images scaled to {data.scale:g}, enlarged to the size of each mask"
    else:
        size = f"scaled to {data.scale:g}, masks too"
    if not side:
        return f"{size}; images whole"
    apart = f"overlapping by at least {100 * overlap:g} %" if overlap else "side by side"
    return f"{size}; larger images in windows of {side} x {side} px, {apart}"


def _left_out(data: ResolvedData, split: str) -> Iterator[str]:
    for entry in data.classes:
        if len(entry.values) > 1:
            yield f"{entry.name or entry.id} joins the ids {', '.join(map(str, entry.values))}"
    yield "unused and unknown colours ignored" if data.reading is Reading.COLOURS else "id 255 and unused ids ignored"
    if skipped := data.skipped.get(split):
        yield f"{skipped} unusable {'image' if skipped == 1 else 'images'} skipped"
    if leaked := data.leaked.get(split):
        yield f"{leaked} of {len(data.splits[split])} images {'is' if leaked == 1 else 'are'} also in train"
