"""PURE: the verdict on what was counted, and in words what its figures are figures of.

A score without its policy compares with nothing: which classes, at which size, what was left out, and what the network
may have seen before. Knows nothing about networks, devices or files.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoints.manifest import poison_in_words
from ..data.resolved import ResolvedData
from .metrics import Scores
from .report import Verdict
from .scoring import Tally
from .terms import Resolution, terms
from .windows import Window

NAMED = 3
"""How many images or tensors a message names before it only counts them."""


def judge(counted: Tally, class_names: Sequence[str], nonfinite_weights: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict, and what it rests on in words.

    A poisoned tensor is enough: an infinite running variance makes its channel 0, one just below 0 makes it large, and
    the logits look healthy.
    """
    if counted.nonfinite or nonfinite_weights:
        facts = []
        if counted.nonfinite:
            images = _named([counted.per_image.names[index] for index in counted.nonfinite])
            facts.append(f"the logits of {len(counted.nonfinite)} of {counted.images} images are NaN or Inf: {images}")
        if nonfinite_weights:
            facts.append(f"the checkpoint holds {poison_in_words(nonfinite_weights, NAMED)}")
        return Verdict.NOT_FINITE, "; ".join(facts)
    if not counted.counted_pixels:
        return Verdict.OK, "every pixel is ignored: there is nothing to score"
    predicted = counted.confusion.sum(axis=0).nonzero()[0]
    true = counted.confusion.sum(axis=1).nonzero()[0]
    if len(predicted) == 1 and len(true) >= 2:
        name = class_names[predicted[0]]
        return Verdict.SINGLE_CLASS, f"{name!r} is predicted everywhere; the truth has {len(true)} classes"
    return Verdict.OK, ""


def policy(scores: Scores | None, data: ResolvedData, split: str, resolution: Resolution, window: Window) -> str:
    """What the means are means of, for whoever compares them with another's."""
    return f"{_averaged(scores, data)}; {terms(data, split, resolution, window.side, window.overlap)}"


def _averaged(scores: Scores | None, data: ResolvedData) -> str:
    classes = len(data.classes)
    if scores is None:
        return f"no score over the {classes} classes in use"
    return f"mean over the {scores.classes_averaged} classes with truth or prediction, of the {classes} in use"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
