"""PURE: a run's history in, the alerts that hold now out. No clock, no file, no memory of what was told before.

Thresholds are the field's: under 10 % mIoU after three epochs the classes are wrong; under 20 % at epoch 10 or 30 % at
epoch 50 somebody should look. A low IoU on a rare class is expected and is no alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import REMEDY_MARK
from ..trainer.contract import Cause
from .alert import Alert
from .events import AlertState, Evidence, Severity
from .findings import advice_of_finding, suspect_device
from .gains import KeptUp, Trend, gain_over
from .history import Epoch, History, Incident

if TYPE_CHECKING:
    from .config import AlertsConfig

COLLAPSE_MATTERS_ABOVE = 0.10
HIDES_TRENDS = frozenset({"worker-crashed", "worker-hung", "nan-loss", "nan-weights", "amp-unstable", "out-of-memory"})
"""While one of these holds, training is not running: what the scores do is its consequence, not news."""
TREND_CODES = frozenset({"miou-stall", "slow-start", "needs-debugging"})


class Rules:
    """The rules over one history, asked after every fact: what the scores say is folded on, not counted again."""

    def __init__(self, config: AlertsConfig) -> None:
        self._config = config
        self._trend = KeptUp(
            lambda: Trend(patience=config.patience, min_delta=config.min_delta, collapse_drop=config.collapse_drop)
        )

    def current_alerts(self, history: History) -> list[Alert]:
        """Every alert that holds; those that a graver one explains are marked."""
        alerts = [
            *_incidents(history),
            *suspect_device(history),
            *_not_finite(history),
            *_broken_checkpoints(history),
            *_failed_evaluations(history),
            *_evaluation_lag(history, self._config),
            *_gave_up(history),
            *_disk(history),
            *_trends(history, self._trend.with_(history), self._config),
        ]
        on_probation = {f"incident:{i.number}" for i in history.open_incidents() if history.trains_again(i)}
        if any(alert.code in HIDES_TRENDS and alert.fingerprint not in on_probation for alert in alerts):
            alerts = [replace(alert, inhibited=alert.code in TREND_CODES) for alert in alerts]
        return alerts


def current_alerts(history: History, config: AlertsConfig) -> list[Alert]:
    """The same for a history that is looked at once."""
    return Rules(config).current_alerts(history)


# --- what happened -------------------------------------------------------------------------------------------------

_ADVICE: dict[Cause, str] = {
    Cause.NAN_LOSS: (
        "If it comes back: look at the batch named in the incident (wrong mask values, an all-ignored image), "
        'start with a lower lr, keep amp = "off"; RMSprop with momentum 0.999 is a known road to NaN.'
    ),
    Cause.INF_GRADIENTS: (
        "A single one does no harm: that step was skipped. If they gather, lower lr or clip_grad_norm, "
        "and look at the batch named in the incident."
    ),
    Cause.NAN_WEIGHTS: (
        "Checkpoints from before it are sound and are the only ones segwatch goes back to. "
        "If it comes back with AMP off, lower lr and look for extreme activations or broken images."
    ),
    Cause.AMP_UNSTABLE: 'Train with amp = "bf16" where the GPU has it, or "off": fp16 overflows at 65504.',
    Cause.LOSS_SPIKE: ("If it comes back, start with a lower lr; look at the batch that the incident names."),
    Cause.MIOU_COLLAPSE: (
        "Look at the overlays of the two scores: one class everywhere, or noise? If it comes back, lower lr."
    ),
    Cause.OUT_OF_MEMORY: (
        "See what else uses the GPU (nvidia-smi). BatchNorm is noisy below 4 images: rather lower data.scale or "
        "base_channels than train long at batch 1."
    ),
    Cause.WORKER_CRASHED: (
        "Read the end of the attempt's worker.log. Exit by SIGKILL without a word is usually the system's "
        "out-of-memory killer (dmesg) or a person."
    ),
    Cause.WORKER_HUNG: (
        "The stacks at the end of worker.log show where it stood. Common: a data disk that no longer answers, a "
        "GPU that fell off the bus (dmesg). A legal long step needs a higher watch.hang_floor_seconds."
    ),
}


def _incidents(history: History) -> Iterator[Alert]:
    for incident in history.open_incidents():
        opened = incident.opened
        yield Alert(
            fingerprint=f"incident:{incident.number}",
            code=opened.cause,
            severity=Severity.CRITICAL if opened.fatal else Severity.WARNING,
            cause=opened.message,
            evidence={"attempt": opened.attempt, "epoch": opened.epoch, "step": opened.step, **opened.evidence},
            action=_action(history, incident),
            advice=advice_of_finding(history, incident) or _ADVICE[opened.cause],
            drill=None if opened.drill is None else str(opened.drill),
        )


def _action(history: History, incident: Incident) -> str:
    if not incident.opened.fatal:
        return "The step was skipped, really: neither weights nor moments saw it. Training goes on."
    answer = history.answer_to(incident)
    if answer is not None:
        return f"{answer.because}. Attempt {answer.attempt} goes on {resume_words(answer.resume_from)}."
    if history.gave_up is not None:
        return f"Gave up: {history.gave_up.reason}"
    found = history.diagnoses.get(incident.number)
    if found is not None:
        return f"The worker is stopped. Found: {found.finding}: {found.because}"
    return "The worker is stopped; waiting for the evaluator to tell which epoch is good to go back to."


def resume_words(manifest: str | None) -> str:
    """A resume point as a person says it."""
    if manifest is None:
        return "from the beginning"
    stem = manifest.rsplit("/", 1)[-1].removesuffix(".json")
    if stem == "initial":
        return "from the initial weights"
    if stem.startswith("recovery_step"):
        return f"from step {stem.removeprefix('recovery_step')}"
    return f"from epoch {stem.removeprefix('checkpoint_epoch')}"


def _not_finite(history: History) -> Iterator[Alert]:
    """An epoch that stands although it gives NaN: its worker had ended before the score was known."""
    if not history.not_finite:
        return
    told = {incident.opened.attempt for incident in history.incidents if incident.opened.cause is Cause.NAN_WEIGHTS}
    for key in history.not_finite:
        epoch = history.epochs[key]
        if epoch.moved is None and epoch.attempt not in told:
            message = next(score.message for score in epoch.scores.values() if score.verdict == "not-finite")
            yield Alert(
                fingerprint=f"not-finite:{epoch.attempt}:{epoch.epoch}",
                code=Cause.NAN_WEIGHTS,
                severity=Severity.CRITICAL,
                cause=f"epoch {epoch.epoch} gives logits that are not finite: {message}",
                evidence={"attempt": epoch.attempt, "epoch": epoch.epoch},
                action="It has no score, and no roll-back chooses it.",
                advice=_ADVICE[Cause.NAN_WEIGHTS],
            )


def _broken_checkpoints(history: History) -> Iterator[Alert]:
    for epoch in history.quarantined:
        yield Alert(
            fingerprint=f"checkpoint-corrupt:{epoch.attempt}:{epoch.epoch}",
            code="checkpoint-corrupt",
            severity=Severity.CRITICAL,
            cause=f"the checkpoint of epoch {epoch.epoch} is not what was committed: {epoch.moved_because}",
            evidence={"attempt": epoch.attempt, "epoch": epoch.epoch, "committed_sha256": epoch.sha256[:16]},
            action=f"Moved to {epoch.manifest.rsplit('/', 1)[0]}/; it is neither scored nor resumed from.",
            advice="Check the disk (dmesg, SMART) and what else writes to the run directory.",
        )


_EVALUATOR_ADVICE = 'Read evaluator.log. Out of GPU memory: set evaluator.device = "cpu" or a smaller batch_size.'


def _failed_evaluations(history: History) -> Iterator[Alert]:
    for epoch in history.failed_epochs():
        failed = [score for score in epoch.scores.values() if score.verdict == "failed"]
        why, _, remedy = failed[0].message.partition(REMEDY_MARK)
        yield Alert(
            fingerprint=f"evaluator-failed:{epoch.attempt}:{epoch.epoch}",
            code="evaluator-failed",
            severity=Severity.WARNING,
            cause=f"epoch {epoch.epoch} could not be scored: {why}",
            evidence={"attempt": epoch.attempt, "epoch": epoch.epoch, "splits": " ".join(s.split for s in failed)},
            action="Its rows in results.csv say so; the queue went on with the next epoch. Training is untouched.",
            advice=remedy[:1].upper() + remedy[1:] or _EVALUATOR_ADVICE,
        )


def _evaluation_lag(history: History, config: AlertsConfig) -> Iterator[Alert]:
    """Told from `evaluation_lag` epochs on, and over only when the queue is worked off: it may hover for days."""
    waiting = len(history.unscored)
    known = history.alerts.get("evaluation-lag")
    lags = known is not None and known.state is AlertState.FIRING and waiting > 1
    if waiting >= config.evaluation_lag or lags:
        scores = [] if history.latest_scored is None else history.latest_scored.scores.values()
        oldest = min(history.unscored.values(), key=lambda epoch: epoch.key)
        yield Alert(
            fingerprint="evaluation-lag",
            code="evaluation-lag",
            severity=Severity.WARNING,
            cause=f"{waiting} epochs wait for their scores, the oldest is epoch {oldest.epoch}: training is faster",
            evidence={
                "waiting": waiting,
                "oldest_epoch": oldest.epoch,
                "seconds_per_evaluation": round(sum(score.seconds for score in scores), 3) if scores else None,
            },
            action="None is left out: they are scored in order, and their checkpoints stay until they are.",
            advice="Give evaluation a device of its own or more threads ([evaluator]); watch the disk meanwhile. "
            "The scores come in any case, after training if need be.",
        )


def _gave_up(history: History) -> Iterator[Alert]:
    if history.gave_up is not None:
        best = history.best.get("test")
        kept = "no epoch was scored" if best is None else f"best test mIoU {best.miou:.4f} of epoch {best.epoch.epoch}"
        yield Alert(
            fingerprint="gave-up",
            code="gave-up",
            severity=Severity.CRITICAL,
            cause=history.gave_up.reason,
            evidence={"attempts": len(history.attempts), "incidents": len(history.incidents)},
            action=f"The worker stays down. Kept: {kept}; report.md says what happened.",
            advice="Mend the cause, then `segwatch run … --retry` goes on from the last good state.",
        )


def _disk(history: History) -> Iterator[Alert]:
    disk = history.disk
    if disk is None or disk.state == "fine":
        return
    evidence: Evidence = {"free_gb": round(disk.free_bytes / 1e9, 3), "disk_free_gb": disk.needed_bytes / 1e9}
    if disk.state == "low":
        yield Alert(
            "disk-low",
            "disk-low",
            Severity.WARNING,
            f"{disk.free_bytes / 1e9:.2f} GB are left where the run is written",
            evidence,
            "Training and scoring go on; no attempt is started until there is room.",
            "Make room, or lower checkpoints.keep_epochs. Nothing is lost when it runs out: what is being written is "
            "left out, and everything goes on from the last checkpoint.",
        )
    else:
        yield Alert(
            "disk-refused",
            "disk-refused",
            Severity.CRITICAL,
            f"the disk refused to take a fact: {disk.message}",
            evidence,
            "Nothing was built on it: the daemon started again from what lies on the disk. The worker was not touched.",
            "Full: make room. Read-only or I/O errors: see dmesg and SMART, and move the run to another disk.",
        )


# --- what the scores say -------------------------------------------------------------------------------------------


def _trends(history: History, trend: Trend, config: AlertsConfig) -> Iterator[Alert]:
    if not trend.count:
        return
    yield from _level(trend, config)
    yield from _stall(trend, config)
    yield from _collapse(trend)
    yield from _single_class(trend)
    yield from _disagreement(history, trend, config)


def _level(trend: Trend, config: AlertsConfig) -> Iterator[Alert]:
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
            "Run `segwatch audit run.toml`: ids that are not what their names say, masks read in a wrong format, "
            "or classes that test has and train has not.",
        )


def _stall(trend: Trend, config: AlertsConfig) -> Iterator[Alert]:
    fires = trend.stalled
    if 2 * trend.waited < config.patience or (not fires and trend.rises):
        return
    yield Alert(
        "miou-stall",
        "miou-stall",
        Severity.WARNING,
        *_not_gained(trend, config),
        "None: training goes on.",
        "A plateau is a fair place to lower lr or to stop; `segwatch best` names the epoch to use.",
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


def _collapse(trend: Trend) -> Iterator[Alert]:
    assert trend.best is not None
    (best_epoch, best), epoch, low = trend.best, trend.latest, trend.low
    if best >= COLLAPSE_MATTERS_ABOVE and low:
        miou = epoch.miou("test")
        assert miou is not None, "the line holds what has a score"
        yield Alert(
            "miou-collapse",
            "miou-collapse",
            Severity.CRITICAL,
            f"test mIoU fell from {best:.1%} (epoch {best_epoch.epoch}) to {miou:.1%}",
            {
                "epoch": epoch.epoch,
                "test_miou": round(miou, 4),
                "best_test_miou": round(best, 4),
                "epochs_low": low,
                **_interval(epoch),
            },
            "None: training goes on. The best checkpoint is kept, and no roll-back chooses a collapsed epoch.",
            "One low epoch may be noise; if it stays, the learning rate is too high for this phase.",
            pending=low < 2,
        )


def _interval(epoch: Epoch) -> Evidence:
    """How sure the fall is, where the images were counted. No condition: to miss a collapse costs more than a look."""
    gain = epoch.scores["test"].gain
    if gain is None:
        return {}
    return {
        "reference_epoch": gain.against_epoch,
        "difference": round(gain.difference, 4),
        "low": round(gain.low, 4),
        "high": round(gain.high, 4),
    }


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


def best_gap(history: History) -> float | None:
    """Test mIoU that choosing the epoch by val gives away: best by test minus the test mIoU of the best by val."""
    by_test, by_val = history.best.get("test"), history.best.get("val")
    if by_test is None or by_val is None:
        return None
    chosen = by_val.epoch.miou("test")
    return None if chosen is None else by_test.miou - chosen
