"""PURE: a confusion matrix in, numbers out. Knows nothing about images, files or torch.

Rows are the truth, columns the prediction. Pixel accuracy, mean accuracy, mean IoU and frequency weighted IoU are those
of Long et al. (2015, arXiv:1411.4038). One matrix covers a whole split: means of per-image figures are other
quantities. A class that occurs in neither truth nor prediction has no IoU and enters no mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-9
"""Room for rounding in the sanity laws; far below any digit that is shown."""


@dataclass(frozen=True)
class ClassScore:
    """One class, as fractions; `None` where the class gives nothing to divide by."""

    iou: float | None
    dice: float | None
    accuracy: float | None
    """Recall: correct pixels of the class per true pixel of it."""
    support: int
    """Counted pixels whose truth is this class."""
    predicted: int
    """Counted pixels whose prediction is this class."""


@dataclass(frozen=True)
class Scores:
    """The figures of one split, as fractions; `None` where no pixel or class defines them."""

    miou: float | None
    """Unweighted mean IoU over the classes that occur in truth or prediction."""
    mean_dice: float | None
    """Over the same classes, from the same matrix: never per image."""
    mean_accuracy: float | None
    """Over the classes that occur in the truth."""
    fwiou: float | None
    """IoU weighted by the share of each class in the truth."""
    pixel_accuracy: float | None
    per_class: tuple[ClassScore, ...]
    """By training index: as many as the matrix has rows."""
    classes_averaged: int
    """How many classes `miou` and `mean_dice` are the mean of."""


def score(matrix: np.ndarray, *, average: Collection[int] | None = None) -> Scores:
    """The figures of an integer matrix (C, C), rows = truth.

    `average` names the classes that may enter the three means, all by default; pixels of the others still count as the
    errors they are. Raises ValueError for what is no confusion matrix, or for a class that it has not or that is named
    twice.
    """
    cells = _checked(matrix).tolist()  # Python's integers are exact at any number of pixels
    size = len(cells)
    averaged = _checked_classes(range(size) if average is None else average, size)
    per_class = tuple(_class_score(cells, index) for index in range(size))
    total = sum(entry.support for entry in per_class)
    means = [per_class[index] for index in averaged]
    ious = [entry.iou for entry in means if entry.iou is not None]
    scores = Scores(
        miou=_mean(ious),
        mean_dice=_mean([entry.dice for entry in means if entry.dice is not None]),
        mean_accuracy=_mean([entry.accuracy for entry in means if entry.accuracy is not None]),
        fwiou=math.fsum(entry.support / total * (entry.iou or 0.0) for entry in per_class) if total else None,
        pixel_accuracy=sum(cells[index][index] for index in range(size)) / total if total else None,
        per_class=per_class,
        classes_averaged=len(ious),
    )
    assert not broken_law(scores), broken_law(scores)
    return scores


def select(matrix: np.ndarray, keep: Sequence[int]) -> np.ndarray:
    """The matrix (len(keep), len(keep)) of the classes in `keep`: every pixel that another class is part of is dropped.

    That drops a pixel by what was *predicted* there too, which flatters: where a class is not to be scored, ignoring
    its truth (`without_truth`) keeps the mistakes. Raises ValueError for a class that the matrix has not, or that is
    named twice.
    """
    kept = _checked_classes(keep, len(_checked(matrix)))
    return matrix[np.ix_(kept, kept)]


def without_truth(matrix: np.ndarray, classes: Collection[int]) -> np.ndarray:
    """The matrix (C, C) as if the true pixels of `classes` had been ignored: they count nowhere.

    Predictions of those classes elsewhere remain errors of the true class there. For means without them, pass the
    other classes to `score` as `average`. Raises ValueError for a class that the matrix has not.
    """
    ignored = _checked_classes(classes, len(_checked(matrix)))
    remaining = matrix.copy()
    remaining[ignored] = 0
    return remaining


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore_index: int = 255) -> np.ndarray:
    """Count two integer arrays of one shape into an int64 matrix (classes, classes), rows = truth.

    A pixel whose truth is `ignore_index` counts nowhere, whatever is predicted there. Raises ValueError where the
    shapes differ, an array holds no whole numbers, or a counted pixel a class outside 0 ... classes - 1.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has the shape {truth.shape} and the prediction {prediction.shape}")
    for what, values in (("truth", truth), ("prediction", prediction)):
        if values.dtype.kind not in "iub":
            raise ValueError(f"the {what} holds {values.dtype}: classes are whole numbers")
    counted = truth != ignore_index
    # int64 before the product: in uint8 class 25 of 26 would land at 675 - 2 x 256.
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for what, values in (("truth", rows), ("prediction", columns)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"the {what} holds {values.min()} ... {values.max()}; {classes} classes end at {classes - 1}"
            )
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def _class_score(cells: list[list[int]], index: int) -> ClassScore:
    hits = cells[index][index]
    support = sum(cells[index])
    predicted = sum(row[index] for row in cells)
    union = support + predicted - hits
    return ClassScore(
        iou=hits / union if union else None,
        dice=2 * hits / (support + predicted) if union else None,
        accuracy=hits / support if support else None,
        support=support,
        predicted=predicted,
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _checked(matrix: np.ndarray) -> np.ndarray:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"a confusion matrix is square, not {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"a confusion matrix counts pixels: {matrix.dtype} is no integer type")
    if matrix.min() < 0:
        raise ValueError(f"a confusion matrix counts pixels: {matrix.min()} is negative")
    return matrix


def _checked_classes(classes: Collection[int], size: int) -> list[int]:
    if outside := sorted(index for index in classes if not 0 <= index < size):
        raise ValueError(f"no class {outside[0]} in a matrix of {size}")
    if repeated := sorted(index for index, times in Counter(classes).items() if times > 1):
        raise ValueError(f"class {repeated[0]} is named more than once: it would weigh more than the others")
    return list(classes)


def broken_law(scores: Scores) -> str:
    """In words, which law of figures from one matrix these break; empty where they hold all.

    Dice = 2 IoU / (1 + IoU) is concave and at least IoU, so that Jensen's inequality bounds the means from both sides.
    FWIoU weighs by the truth what pixel accuracy weighs alike, and IoU <= recall for each class; a class that is only
    predicted has the IoU 0 and no recall. Figures that break a law come from two definitions, or from two runs.
    """
    miou, dice, accuracy = scores.miou, scores.mean_dice, scores.mean_accuracy
    if (miou is None) != (dice is None):
        return f"mIoU {_percent(miou)} beside mean Dice {_percent(dice)}: both are means over the same classes"
    if miou is not None and dice is not None:
        highest = 2 * miou / (1 + miou)
        if not miou - TOLERANCE <= dice <= highest + TOLERANCE:
            between = f"lies between {_percent(miou)} and {_percent(highest)}"
            return f"mean Dice {_percent(dice)} beside mIoU {_percent(miou)}: from one matrix it {between}"
        if accuracy is not None and not miou <= accuracy + TOLERANCE:
            return f"mIoU {_percent(miou)} beside mean accuracy {_percent(accuracy)}: from one matrix it is no larger"
    fwiou, correct = scores.fwiou, scores.pixel_accuracy
    if (fwiou is None) != (correct is None):
        return f"FWIoU {_percent(fwiou)} beside pixel accuracy {_percent(correct)}: both are over the same pixels"
    if fwiou is not None and correct is not None and not fwiou <= correct + TOLERANCE:
        return f"FWIoU {_percent(fwiou)} beside pixel accuracy {_percent(correct)}: from one matrix it is no larger"
    return ""


def differing_figure(told: Scores, computed: Scores) -> str:
    """In words, the first figure that is `told` and was `computed` otherwise; empty where all are the same."""
    if len(told.per_class) != len(computed.per_class):
        return f"{len(told.per_class)} classes are told, {len(computed.per_class)} are in the matrix"
    for figure in ("miou", "mean_dice", "mean_accuracy", "fwiou", "pixel_accuracy", "classes_averaged"):
        if not _alike(said := getattr(told, figure), found := getattr(computed, figure)):
            return f"{figure} {said} is told, the matrix gives {found}"
    for index, (one, other) in enumerate(zip(told.per_class, computed.per_class, strict=True)):
        for figure in ("iou", "dice", "accuracy", "support", "predicted"):
            if not _alike(said := getattr(one, figure), found := getattr(other, figure)):
                return f"{figure} {said} of class {index} is told, the matrix gives {found}"
    return ""


def _alike(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and abs(one - other) <= TOLERANCE)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
