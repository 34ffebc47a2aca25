"""PURE: a run's history in, the alerts that hold now out. No clock, no file, no memory of what was told before.

What the scores say stands in `trends`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.frozen import REFUSED
from ..errors import REMEDY_MARK
from ..trainer.config import Amp, Optimizer
from ..trainer.contract import Cause
from ..trainer.diagnosis import Finding
from .alert import Alert
from .collapse import Collapse, worth_a_roll_back
from .events import AlertState, Evidence, Severity
from .findings import advice_of_finding, suspect_device
from .gains import KeptUp, Trend
from .going_on import NOT_KNOWN, Calls
from .history import History
from .members import SCORED_SPLITS, Incident
from .series import DataChange
from .trends import TREND_CODES, collapse_alerts, score_alerts

if TYPE_CHECKING:
    from ..trainer.config import TrainerConfig
    from .config import AlertsConfig, RunConfig

FILES_NAMED = 5
RISKY_MOMENTUM = 0.99
HIDES_TRENDS = frozenset(cause.value for cause in Cause if cause is not Cause.INF_GRADIENTS)
"""While one of these holds, training is not running: what the scores do is its consequence, not news."""


class Rules:
    """The rules over one history, asked after every fact: what the scores say is folded on, not counted again."""

    def __init__(
        self,
        config: AlertsConfig,
        *,
        trainer: TrainerConfig | None = None,
        rolls_back: bool = False,
        calls: Calls = NOT_KNOWN,
    ) -> None:
        """`rolls_back` says that a collapse is answered (`recovery.on_collapse`), not only told; `calls` are the
        commands that are advised.
        """
        self._calls = calls
        self._config = config
        self._trainer = trainer
        self._rolls_back = rolls_back
        self._trend = KeptUp(
            lambda: Trend(
                patience=config.patience,
                min_delta=config.min_delta,
                collapse_drop=config.collapse_drop,
                split_gap=config.best_gap,
            )
        )

    @classmethod
    def of(cls, config: RunConfig, calls: Calls) -> Rules:
        rolls_back = config.recovery.on_collapse == "restart"
        return cls(config.alerts, trainer=config.trainer, rolls_back=rolls_back, calls=calls)

    def current_alerts(self, history: History) -> list[Alert]:
        """Every alert that holds; those that a graver one explains are marked."""
        trend, schedule = self._trend.with_(history), "constant" if self._trainer is None else self._trainer.schedule
        alerts = [
            *_risky_settings(history, self._trainer),
            *_incidents(history),
            *suspect_device(history),
            *_not_finite(history),
            *_broken_checkpoints(history),
            *_failed_evaluations(history),
            *_evaluation_lag(history, self._config),
            *_gave_up(history, self._calls),
            *_disk(history),
            *_data_changes(history),
            *score_alerts(history, trend, self._config, schedule, self._calls),
            *collapse_alerts(history, trend, self.collapse(history)),
        ]
        on_probation = {f"incident:{i.number}" for i in history.open_incidents() if history.trains_again(i)}
        if any(alert.code in HIDES_TRENDS and alert.fingerprint not in on_probation for alert in alerts):
            alerts = [replace(alert, inhibited=alert.code in TREND_CODES) for alert in alerts]
        return alerts

    def collapse(self, history: History) -> Collapse | None:
        """The collapse for which the worker has to go, if there is one."""
        return worth_a_roll_back(self._trend.with_(history), history) if self._rolls_back else None


def current_alerts(
    history: History, config: AlertsConfig, *, trainer: TrainerConfig | None = None, calls: Calls = NOT_KNOWN
) -> list[Alert]:
    """The same for a history that is looked at once."""
    return Rules(config, trainer=trainer, calls=calls).current_alerts(history)


# --- before anything happens ---------------------------------------------------------------------------------------


def _risky_settings(history: History, trainer: TrainerConfig | None) -> Iterator[Alert]:
    """Told at the start, and over when a remedy or a person has changed it, or when the run came through."""
    plan = None if history.current is None else history.current.plan
    if trainer is None or plan is None or history.finished:
        return
    risks: dict[str, str] = {}
    momentum = trainer.optimizer is Optimizer.RMSPROP and trainer.momentum >= RISKY_MOMENTUM
    if momentum:
        steps = 1 / (1 - trainer.momentum)
        why = f"RMSprop with momentum {trainer.momentum:g} adds up the last {steps:.0f} steps, a known road to NaN"
        risks[why] = 'trainer.momentum = 0.9 or trainer.optimizer = "adamw"'
    if plan.amp is Amp.FP16:
        why = "fp16 overflows at 65504, which logits and gradients may reach"
        risks[why] = 'trainer.amp = "bf16" where the GPU has it, else "off"'
    if risks:
        yield Alert(
            "risky-settings",
            "risky-settings",
            Severity.WARNING if momentum else Severity.INFO,
            "; ".join(risks),
            {"optimizer": trainer.optimizer.value, "momentum": trainer.momentum, "amp": plan.amp.value},
            f"Trains as configured. Safer: {'; '.join(risks.values())}.",
            "Nothing has to be done: what goes wrong is found and answered, which costs time that safer settings save. "
            "They belong to another run (--name), since they are part of what this one is.",
        )


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
    answer, found = history.answer_to(incident), history.diagnoses.get(incident.number)
    guessed = found is not None and found.finding is Finding.UNKNOWN  # then the answer says why itself
    if answer is not None:
        goes_on = f"{answer.because}. Attempt {answer.attempt} goes on {resume_words(answer.resume_from)}."
        return goes_on if found is None or guessed else f"{goes_on} A replay showed: {found.because}"
    if history.gave_up is not None:
        return f"Gave up: {history.gave_up.reason}"
    if found is not None:
        return f"The worker is stopped. Found: {found.finding}: {found.because}"
    return "The worker is stopped; what follows is decided when it is known what it was and which epoch is good."


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
    told = {incident.opened.attempt for incident in history.incidents_of(Cause.NAN_WEIGHTS)}
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
    """An alert for each epoch; one for all that changed files keep from their scores, since a night has many."""
    refused = False
    for epoch in history.failed_epochs():
        failed = [score for score in epoch.scores.values() if score.verdict == "failed"]
        why, _, remedy = failed[0].message.partition(REMEDY_MARK)
        data = REFUSED in why
        if data and refused:
            continue
        refused = refused or data
        yield Alert(
            fingerprint="evaluator-failed:data" if data else f"evaluator-failed:{epoch.attempt}:{epoch.epoch}",
            code="evaluator-failed",
            severity=Severity.WARNING,
            cause=f"epoch {epoch.epoch} {'and later ones ' if data else ''}could not be scored: {why}",
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


def _gave_up(history: History, calls: Calls) -> Iterator[Alert]:
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
            advice=f"Mend the cause, then `{calls.run} --retry` goes on from the last good state.",
        )


def _data_changes(history: History) -> Iterator[Alert]:
    """Until the run has finished once: an extension of it is no reason to tell them again."""
    for number, change in enumerate(history.series.changes, start=1):
        if number <= history.series.settled:
            continue
        scored = change.split in SCORED_SPLITS
        yield Alert(
            fingerprint=f"data-changed:{number}",
            code="data-changed",
            severity=Severity.WARNING,
            cause=change_words(change),
            evidence={
                "split": change.split,
                "first_epoch": change.first,
                "before": change.before or None,
                "after": change.after,
                "files": _some(change.accepted.files) if change.accepted else None,
            },
            action="Best, stall, collapse and gain look at the new series alone; results.csv tells the two apart "
            "(data_fingerprint)."
            if scored
            else "Training goes on. Files of train begin no new series of scores.",
            advice="`segwatch evaluate RUN` scores the epochs of before on the files of now as well, as far as their "
            "weights are kept."
            if scored
            else "To know what the change is worth, begin another run (--name): this one has learned from both.",
        )


def change_words(change: DataChange) -> str:
    """What changed, and where the new series begins."""
    told = f"{change.split}: the fingerprint of its files is another; which changed, an older release did not note"
    if change.accepted is not None:
        told = change.accepted.count
    if change.split in SCORED_SPLITS:
        return f"{told}: a new series of {change.split} scores begins with epoch {change.first}"
    return f"{told}: attempts that start from here on learn from them (epoch {change.first} and later)"


def _some(names: Sequence[str]) -> str | None:
    if not names:
        return None
    more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
    return "; ".join(names[:FILES_NAMED]) + more


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
    elif disk.state == "gone":
        yield Alert(
            "checkpoints-gone",
            "checkpoints-gone",
            Severity.CRITICAL,
            "the checkpoint directory was deleted or unmounted while the run goes on",
            {},
            "It was made anew and training goes on. Epochs not scored yet are lost, and the way back to any.",
            "Put the files back if there is a copy: until the next checkpoint, a restart begins from nothing.",
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
