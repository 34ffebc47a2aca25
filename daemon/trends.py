"""PURE: what the scores say: the alerts about their level, a stall, a collapse, one class, and the two splits.

Thresholds are the field's: under 10 % mIoU after three epochs the classes are wrong; under 20 % at epoch 10 or 30 % at
epoch 50 somebody should look. A low IoU on a rare class is expected and is no alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..trainer.contract import Cause
from ..trainer.schedules import Schedule, rate_share
from .alert import Alert
from .collapse import Collapse, class_collapses, miou_collapse
from .events import Evidence, Severity
from .gains import Trend, gain_over
from .going_on import Calls
from .history import History

if TYPE_CHECKING:
    from .config import AlertsConfig

STALL_ADVICE = "A plateau is a fair place to lower lr or to stop; `segwatch best` names the epoch to use."
TAIL_ADVICE = (
    "None is needed: the run ends soon, and `segwatch best` names the epoch to use. More is to be had from a longer "
    "schedule (a new run with more trainer.epochs) than from what is left of this one."
)
TREND_CODES = frozenset({"miou-stall", "slow-start", "needs-debugging"})
TAIL_SHARE = 0.2
"""Of the base learning rate: below it a schedule is in its tail, which is made for a plateau."""


def score_alerts(
    history: History, trend: Trend, config: AlertsConfig, schedule: Schedule, calls: Calls
) -> Iterator[Alert]:
    if not trend.count:
        return
    yield from _level(trend, config, calls)
    yield from _stall(trend, config, share=rate_share(_done(history, trend), schedule))
    yield from _single_class(trend)
    yield from _disagreement(history, trend, config)
    yield from _parting(trend, config)


def _level(trend: Trend, config: AlertsConfig, calls: Calls) -> Iterator[Alert]:
    assert trend.best is not None
    latest, best = trend.latest, trend.best[1]
    evidence: Evidence = {"epoch": latest.epoch, "best_test_miou": round(best, 4)}
    if latest.epoch >= 50 and best < config.needs_debugging_miou:
        yield Alert(
            "needs-debugging",
            "needs-debugging",
            Severity.WARNING,
            f"best test mIoU {best:.1%} at epoch {latest.epoch}; a healthy run is above "
            f"{config.needs_debugging_miou:.0%} by 50",
            evidence,
            "None: training goes on.",
            "Look at overlays and per-class IoU; check masks against images, scale, and whether train and test are "
            "alike.",
        )
    elif latest.epoch >= 10 and best < config.slow_start_miou:
        yield Alert(
            "slow-start",
            "slow-start",
            Severity.WARNING,
            f"best test mIoU {best:.1%} at epoch {latest.epoch}; a healthy run is above "
            f"{config.slow_start_miou:.0%} by 10",
            evidence,
            "None: training goes on.",
            "Look at the training loss: flat means lr is too low or the masks are wrong; falling means give it time.",
        )
    if latest.epoch >= 3 and best < config.class_definition_miou:
        yield Alert(
            "class-definition",
            "class-definition",
            Severity.CRITICAL,
            f"test mIoU is still {best:.1%} after {latest.epoch} epochs: under {config.class_definition_miou:.0%} the "
            "class table is the first suspect",
            evidence,
            "None: training goes on.",
            f"Run `{calls.audit}`: ids that are not what their names say, masks read in a wrong format, "
            "or classes that test has and train has not.",
        )


def _done(history: History, trend: Trend) -> float:
    """The share of the run that is trained."""
    return min(1.0, trend.latest.epoch / max(1, history.epochs_wanted))


def _stall(trend: Trend, config: AlertsConfig, *, share: float) -> Iterator[Alert]:
    """`share` is that of the base learning rate."""
    fires = trend.stalled
    if 2 * trend.waited < config.patience or (not fires and trend.rises):
        return
    words, evidence = _not_gained(trend, config)
    tail = share <= TAIL_SHARE
    if tail:
        words += f". The schedule has brought lr down to {share:.1%} of its start: a plateau is what its tail is for"
        evidence["lr_share"] = round(share, 4)
    yield Alert(
        "miou-stall",
        "miou-stall",
        Severity.INFO if tail else Severity.WARNING,
        words,
        evidence,
        "None: training goes on.",
        TAIL_ADVICE if tail else STALL_ADVICE,
        pending=not fires,
    )


def _not_gained(trend: Trend, config: AlertsConfig) -> tuple[str, Evidence]:
    """The words and figures of a stall: the best epoch since the reference, which speaks most against it."""
    assert trend.reference is not None
    assert trend.best_since is not None, "a wait has epochs"
    (than, level), latest, (best, miou) = trend.reference, trend.latest.epoch, trend.best_since
    gain, images = gain_over(best, than), best.scores["test"].images
    words = f"test mIoU has not really gained since epoch {than.epoch}, {latest - than.epoch} epochs ago: at best "
    words += f"{100 * (miou - level):+.2f} points (epoch {best.epoch})"
    if gain is not None:
        words += f", 95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f} over {images} images"
    if gain is None or gain.low > 0:
        words += f"; {100 * config.min_delta:g} points would count (alerts.min_delta)"
    return words, {
        "epoch": latest,
        "reference_epoch": than.epoch,
        "reference_test_miou": round(level, 4),
        "best_epoch_since": best.epoch,
        "difference": round(miou - level, 4),
        "low": None if gain is None else round(gain.low, 4),
        "high": None if gain is None else round(gain.high, 4),
        "images": images,
        "min_delta": config.min_delta,
        "patience": config.patience,
    }


def collapse_alerts(history: History, trend: Trend, due: Collapse | None) -> Iterator[Alert]:
    """One that is about to be answered by a roll-back is told by its incident."""
    if any(incident.opened.cause is Cause.MIOU_COLLAPSE for incident in history.open_incidents()):
        return
    answered = due is not None and history.current is not None and history.current.ended is None
    fall = miou_collapse(trend)
    if fall is not None:
        yield Alert(
            "miou-collapse",
            "miou-collapse",
            Severity.CRITICAL,
            fall.message,
            fall.evidence,
            "None: training goes on. The best checkpoint is kept, and no roll-back chooses a collapsed epoch.",
            "One low epoch may be noise; if it stays, the learning rate is too high for this phase.",
            pending=fall.scores < 2 or answered,
        )
    for lost in class_collapses(trend, history):
        yield Alert(
            f"class-collapse:{lost.name}",
            "class-collapse",
            Severity.WARNING,
            lost.message,
            lost.evidence,
            "None: training goes on.",
            "Look at its overlays, and at what class it has become. If it is rare: loss.class_weights, "
            "loss.focal, or a lower lr. `segwatch best` names an epoch that still knows it.",
            pending=lost.scores < 2 or answered,
        )


def _single_class(trend: Trend) -> Iterator[Alert]:
    flagged, latest = trend.single_class, trend.latest
    if flagged:
        yield Alert(
            "single-class",
            "single-class",
            Severity.WARNING,
            f"the network predicts one class for every test pixel ({latest.scores['test'].message})",
            {"epoch": latest.epoch, "epochs_in_a_row": flagged},
            "None: training goes on.",
            "Normal in the first epoch of an unbalanced set. If it stays: lr too low or too high, or loss.dice is 0.",
            pending=flagged < 2,
        )


def _disagreement(history: History, trend: Trend, config: AlertsConfig) -> Iterator[Alert]:
    gap = best_gap(history)
    if gap is None or gap <= config.best_gap or trend.count < 3:
        return
    by_test, by_val, measured = history.best["test"], history.best["val"], history.measured_gap
    low, high = (None, None) if measured is None else (measured.low, measured.high)
    if low is not None and low <= 0:
        return  # over these test images the two winners are the same
    yield Alert(
        "best-disagrees",
        "best-disagrees",
        Severity.INFO,
        f"the best epoch by val ({by_val.epoch.epoch}) is {gap:.4f} mIoU worse on test than the best by test "
        f"({by_test.epoch.epoch})",
        {
            "by_test_epoch": by_test.epoch.epoch,
            "by_val_epoch": by_val.epoch.epoch,
            "gap": round(gap, 4),
            "low": low and round(low, 4),
            "high": high and round(high, 4),
            "images": by_test.epoch.scores["test"].images,
        },
        "Both are kept: best_test.pth and best_val.pth.",
        "Choosing on the test set is optimistic; a gap this wide says that val is small or unlike test.",
    )


def _parting(trend: Trend, config: AlertsConfig) -> Iterator[Alert]:
    if trend.parting is not None:
        val, test = trend.parting
        yield Alert(
            "splits-part",
            "splits-part",
            Severity.INFO,
            f"val rises while test falls, both beyond chance: {100 * val:+.1f} and {100 * test:+.1f} points in "
            f"{config.patience} epochs",
            {"epoch": trend.latest.epoch, "val_gain": round(val, 4), "test_gain": round(test, 4)},
            "None: every epoch is scored on both, and both winners are kept.",
            "Val no longer says what test will: scenes that it shares with train (`segwatch audit` looks for them), or "
            "a test set of another kind. An epoch chosen by val gets worse from here.",
        )


def best_gap(history: History) -> float | None:
    """Test mIoU that choosing the epoch by val gives away: best by test minus the test mIoU of the best by val."""
    by_test, by_val = history.best.get("test"), history.best.get("val")
    if by_test is None or by_val is None:
        return None
    chosen = by_val.epoch.miou("test")
    return None if chosen is None else by_test.miou - chosen
