"""PURE: what one look has seen -> how the run stands: state, health, time left, how its scores compare.

Unknown is `None`. No clock, no file, no words for people: `--json` is what `status` returns, `status_view` words it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from .looking import Sight

HEALTHY_COURSE = ((1, 0.26), (10, 0.61), (30, 0.68), (65, 0.73))
"""Epoch and test mIoU of healthy runs on aerial images with 14 classes, as the field reports them."""
HEALTHY_MARGIN = 0.05
OWN_MARGIN = 0.02
"""Around what earlier runs on the same classes had reached: two runs differ by so much with the seed alone."""
GRADES = ((0.70, "excellent"), (0.50, "good"), (0.30, "acceptable"), (0.0, "needs-debugging"))
"""The least best test mIoU of each."""
TREND_SCORES = 10
FLAT_BELOW = 0.005
"""Half a point of mIoU between the halves of the last scores is no direction."""


def status(sight: Sight) -> dict[str, Any]:
    """The figures of `status --json`; fractions are of 1, moments seconds since the epoch."""
    figures, attempt, progress = sight.figures, sight.figures["attempt"], sight.progress
    state, state_since = _state(sight)
    health, reason, health_since = _health(sight, state)
    alerts = [attended(alert, sight) for alert in figures["firing"]]
    return {
        "run": str(sight.run.path),
        "state": state,
        "state_since": state_since,
        "health": health,
        "reason": reason,
        "health_since": health_since,
        "daemon_alive": sight.daemon_alive,
        "worker_pid": attempt["worker"]["pid"] if sight.worker_alive and attempt and attempt["worker"] else None,
        **_attempt(sight),
        "epoch": progress["epoch"] if progress else figures["committed_epoch"],
        "epochs": figures["epochs"],
        "step": progress["step"] if progress else (attempt and attempt["resume_step"]),
        "share_done": _share_done(sight),
        "seconds_left": seconds_left(sight),
        "epoch_seconds": figures["epoch_seconds"],
        **_last_words(sight),
        "last": _with_path(sight, figures["last"]),
        "best": _with_path(sight, figures["best"].get("test")),
        "best_val": _with_path(sight, figures["best"].get("val")),
        "grade": grade(figures["best"]),
        "trend": trend(figures["recent"]),
        "compared": compared(figures["last"], sight.siblings),
        "classes": worst_first(figures["classes"]),
        "unscored": figures["evaluation"]["waiting"],
        "evaluation": figures["evaluation"],
        "gpus": sight.gpus,
        "on_probation": figures["on_probation"],
        "firing": figures["firing_codes"],
        "firing_count": figures["firing_count"],
        "alerts": alerts,
        "silenced": _silenced(sight),
    }


def _attempt(sight: Sight) -> dict[str, Any]:
    attempt = sight.figures["attempt"] or {}
    names = ("lr", "amp", "batch_size", "accumulate", "because", "device")
    return {"attempt": attempt.get("number")} | {name: attempt.get(name) for name in names}


def _last_words(sight: Sight) -> dict[str, Any]:
    """What the worker said last, and when."""
    said = sight.progress or {}
    names = ("loss", "images_per_second", "skipped_steps", "memory_mb")
    return {
        "phase": sight.phase,
        "lr_now": said.get("lr"),
        **{name: said.get(name) for name in names},
        "last_word_at": said.get("time"),
    }


def _with_path(sight: Sight, scored: dict[str, Any] | None) -> dict[str, Any] | None:
    return scored and scored | {"path": str(sight.run.path / scored["path"])}


# --- state and health ------------------------------------------------------------------------------------------------


def _state(sight: Sight) -> tuple[str, float | None]:
    """And since when; `None` where nobody can know."""
    figures, attempt = sight.figures, sight.figures["attempt"]
    if figures["gave_up"] is not None:
        return "gave-up", figures["settled_at"]
    if figures["finished"]:
        return "finished", figures["settled_at"]
    if not sight.daemon_alive:
        if sight.worker_alive:
            return "unwatched", None
        if figures["stopped"] is not None:
            return "stopped", figures["stopped_at"]
        if sight.stopped_by_hand_at is not None:
            return "stopped", sight.stopped_by_hand_at
        return "interrupted", _last_sign(sight)
    if attempt is None:
        return "starting", figures["created_at"]
    ended = attempt["ended"]
    if ended is not None:
        if ended["outcome"] == "finished":
            return "evaluating", ended["at"]
        return "diagnosing" if sight.replaying else "recovering", ended["at"]
    if attempt["started_at"] is not None:
        return "training", attempt["started_at"]
    began = attempt["last_ended_at"] or figures["created_at"]
    return "recovering" if attempt["answers_incident"] else "starting", began


def _last_sign(sight: Sight) -> float | None:
    said: float | None = sight.progress["time"] if sight.progress else None
    return max((moment for moment in (sight.figures["last_at"], said) if moment is not None), default=None)


def _health(sight: Sight, state: str) -> tuple[str, str, float | None]:
    """The verdict, its reason, and since when; the gravest alert decides."""
    firing = sight.figures["firing"]
    for alert in firing:
        if alert["severity"] == "critical":
            return "unhealthy", f"{alert['code']}: {alert['cause']}", alert["since"]
    if state == "unwatched":
        return "degraded", f"the worker trains, but no daemon watches it: `{sight.again}` adopts it", None
    if state == "interrupted":
        return "degraded", f"daemon and worker are gone before the end: `{sight.again}` goes on", _last_sign(sight)
    for alert in firing:
        if alert["severity"] == "warning":
            return "degraded", f"{alert['code']}: {alert['cause']}", alert["since"]
    return "healthy", "nothing firing", sight.figures["eased_at"] or sight.figures["created_at"]


# --- progress --------------------------------------------------------------------------------------------------------


def _epochs_done(sight: Sight) -> float:
    """With the part of the epoch under way, where it is known."""
    progress, attempt = sight.progress, sight.figures["attempt"]
    committed = float(sight.figures["committed_epoch"] or 0)
    if progress is None or attempt is None or not attempt["steps_per_epoch"]:
        return committed
    return float(progress["epoch"]) - 1 + float(progress["step_in_epoch"]) / float(attempt["steps_per_epoch"])


def _share_done(sight: Sight) -> float | None:
    wanted = sight.figures["epochs"]
    return min(1.0, _epochs_done(sight) / wanted) if wanted else None


def seconds_left(sight: Sight) -> float | None:
    """Until every epoch is trained and scored, at the pace of the last epochs; `None` where nothing gets on.

    Evaluation runs beside training: whichever of the two is slower decides, and the last epoch is scored after it.
    """
    figures, attempt = sight.figures, sight.figures["attempt"]
    evaluation, each = figures["evaluation"], figures["evaluation"]["seconds_per_epoch"]
    if attempt is None or figures["finished"] or figures["gave_up"] is not None:
        return None
    if attempt["ended"] is not None:
        scoring = sight.daemon_alive and attempt["ended"]["outcome"] == "finished" and each is not None
        return float(each * evaluation["waiting"]) if scoring else None
    pace = _pace(sight)
    if not sight.worker_alive or pace is None:
        return None
    left = max(0.0, float(figures["epochs"]) - _epochs_done(sight))
    if each is None:
        return left * pace
    return max(left * pace + float(each), float(each) * (float(evaluation["waiting"]) + left))


def _pace(sight: Sight) -> float | None:
    """Seconds an epoch. Epochs that a daemon found all at once seem to have taken no time: the steps know better."""
    attempt, progress = sight.figures["attempt"], sight.progress
    known = [] if sight.figures["epoch_seconds"] is None else [float(sight.figures["epoch_seconds"])]
    if progress and attempt["steps_per_epoch"] and progress["images_per_second"] > 0:
        images = attempt["steps_per_epoch"] * attempt["batch_size"] * attempt["accumulate"]
        known.append(images / progress["images_per_second"])
    return max(known, default=None)


# --- scores ----------------------------------------------------------------------------------------------------------


def grade(best: dict[str, Any]) -> str | None:
    """Of the best test mIoU: above 70 % excellent, from 50 % good, from 30 % acceptable, else needs-debugging."""
    if best.get("test") is None:
        return None
    miou = best["test"]["miou"]
    return next(name for least, name in GRADES if miou > least or (miou == least and least != GRADES[0][0]))


def trend(recent: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Where the last scores go: the mean of their later half minus that of the earlier one."""
    last = recent[-TREND_SCORES:]
    if len(last) < 2:
        return None
    half = len(last) // 2
    change = fmean(miou for _, miou in last[-half:]) - fmean(miou for _, miou in last[:half])
    direction = "flat" if abs(change) < FLAT_BELOW else "rising" if change > 0 else "falling"
    return {
        "direction": direction,
        "change": change,
        "from_epoch": last[0][0],
        "to_epoch": last[-1][0],
        "mious": [miou for _, miou in recent],
    }


def compared(last: dict[str, Any] | None, siblings: dict[str, list[list[float]]]) -> dict[str, Any] | None:
    """The last test mIoU against what the user's earlier runs had at this epoch, or healthy runs of the field."""
    if last is None or last["miou"] is None:
        return None
    epoch, miou = last["epoch"], last["miou"]
    own = {name: found for name, course in siblings.items() if (found := at_epoch(course, epoch)) is not None}
    if own:
        low, high, margin = min(own.values()), max(own.values()), OWN_MARGIN
    else:
        reached = at_epoch(HEALTHY_COURSE, min(epoch, HEALTHY_COURSE[-1][0]))
        if reached is None:
            return None
        low, high, margin = reached, reached, HEALTHY_MARGIN
    verdict = "below" if miou < low - margin else "above" if miou > high + margin else "within"
    return {
        "verdict": verdict,
        "against": "earlier-runs" if own else "healthy-aerial-14",
        "runs": sorted(own),
        "epoch": epoch,
        "miou": miou,
        "low": low,
        "high": high,
    }


def at_epoch(course: Iterable[Sequence[float]], epoch: float) -> float | None:
    """The mIoU of a course at an epoch, straight between its points; `None` outside of them."""
    points = list(course)
    for (start, low), (end, high) in pairwise(points):
        if start <= epoch <= end:
            return low + (high - low) * (epoch - start) / (end - start)
    return next((miou for at, miou in points if at == epoch), None)


def worst_first(classes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those without an IoU, which occur in neither truth nor prediction, last."""
    return sorted(classes, key=lambda each: (each["iou"] is None, each["iou"] or 0.0))


# --- what people said of the alerts ----------------------------------------------------------------------------------


def attended(alert: dict[str, Any], sight: Sight) -> dict[str, Any]:
    """An alert with who acknowledged it and until when its code is silenced, wishes that still wait included."""
    fingerprint, since = alert["fingerprint"], alert["since"]
    seen = sight.figures["acknowledged"].get(fingerprint)
    by = seen["by"] if seen else None
    for wish in sight.wishes:
        if wish.kind == "ack" and (wish.since or {}).get(fingerprint) == since:
            by = by or wish.by
    return alert | {"acknowledged_by": by, "silenced_until": _silenced(sight).get(alert["code"])}


def _silenced(sight: Sight) -> dict[str, float]:
    """By code: until when."""
    until = {code: silence["until"] for code, silence in sight.figures["silenced"].items()}
    for wish in sight.wishes:
        if wish.kind == "silence" and wish.until is not None:
            if wish.until > wish.asked:
                until[wish.what] = wish.until
            else:
                until.pop(wish.what, None)
    return until
