"""PURE: have the scores collapsed, as a whole or for one class, and is that worth a roll-back? No file, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..trainer.contract import Cause
from .events import Evidence
from .gains import GONE_IOU, HELD_IOU, Trend
from .history import History
from .members import Epoch

MATTERS_ABOVE = 0.10
"""A best mIoU below this is no level to fall from."""
RESTART_ABOVE = 0.20
"""And below this training has only begun: it is told, and nothing is done."""
RESTART_AFTER_SCORES = 5
CLASS_RESTARTS = 2
"""In one run: to give the whole run up over one class would cost more than the class."""


@dataclass(frozen=True)
class Collapse:
    """Scores that are far below what they were, up to the last one."""

    name: str | None
    """Of the class; `None` for the mIoU of all."""
    since: Epoch
    """The first of the low ones."""
    scores: int
    """How many of them; from two on it is no single bad epoch."""
    sure: bool
    """Whether the images of the test set leave no doubt that it fell."""
    message: str
    evidence: Evidence


def miou_collapse(trend: Trend) -> Collapse | None:
    """A fall by `alerts.collapse_drop` of the best test mIoU."""
    if trend.best is None or trend.low_since is None or trend.best[1] < MATTERS_ABOVE:
        return None
    (best_epoch, best), epoch = trend.best, trend.latest
    miou = epoch.miou("test")
    assert miou is not None, "the line holds what has a score"
    return Collapse(
        name=None,
        since=trend.low_since,
        scores=trend.low,
        sure=_surely_below(epoch, best_epoch),
        message=f"test mIoU fell from {best:.1%} (epoch {best_epoch.epoch}) to {miou:.1%}",
        evidence={
            "epoch": epoch.epoch,
            "test_miou": round(miou, 4),
            "best_test_miou": round(best, 4),
            "epochs_low": trend.low,
            **_interval(epoch),
        },
    )


def class_collapses(trend: Trend, history: History) -> Iterator[Collapse]:
    """Each class that was known and is forgotten. Over the same images, so that what moved is the network."""
    names = () if history.created is None else history.created.class_names
    for place, held in trend.classes.items():
        if held.best is None or held.gone_since is None:
            continue
        name = names[place] if place < len(names) else f"class {place}"
        best_epoch, best = held.best
        iou = trend.latest.scores["test"].class_iou[place]
        yield Collapse(
            name=name,
            since=held.gone_since,
            scores=held.gone,
            sure=True,
            message=f"the network has lost the class {name}: test IoU {best:.1%} (epoch {best_epoch.epoch}), and under "
            f"{GONE_IOU:.0%} since epoch {held.gone_since.epoch}",
            evidence={
                "class": name,
                "epoch": trend.latest.epoch,
                "test_iou": None if iou is None else round(iou, 4),
                "best_test_iou": round(best, 4),
                "known_from": HELD_IOU,
                "epochs_low": held.gone,
            },
        )


def worth_a_roll_back(trend: Trend, history: History) -> Collapse | None:
    """A collapse in two scores in a row, beyond the noise, of a run that had got somewhere.

    For one class at most once: what comes back after a roll-back is not mended by another.
    """
    if trend.best is None or trend.best[1] < RESTART_ABOVE or trend.count < RESTART_AFTER_SCORES:
        return None
    whole = miou_collapse(trend)
    if whole is not None and whole.scores >= 2 and whole.sure:
        return whole
    before = [incident.opened.evidence.get("class") for incident in history.incidents_of(Cause.MIOU_COLLAPSE)]
    if len(before) >= CLASS_RESTARTS:
        return None
    lost = (one for one in class_collapses(trend, history) if one.scores >= 2 and one.name not in before)
    return next(lost, None)


def _surely_below(epoch: Epoch, best: Epoch) -> bool:
    """By the comparison over the same images, else by the two intervals; where nothing was counted, the fall counts."""
    score, high = epoch.scores["test"], best.scores["test"]
    if score.gain is not None:
        return score.gain.high < 0
    if score.miou_high is not None and high.miou_low is not None:
        return score.miou_high < high.miou_low
    return True


def _interval(epoch: Epoch) -> Evidence:
    """How sure the fall is, where the images were counted."""
    gain = epoch.scores["test"].gain
    if gain is None:
        return {}
    return {
        "reference_epoch": gain.against_epoch,
        "difference": round(gain.difference, 4),
        "low": round(gain.low, 4),
        "high": round(gain.high, 4),
    }
