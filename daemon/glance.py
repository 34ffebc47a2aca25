"""glance.json: all that `status` shows of a run's past, as plain JSON, written by the daemon whenever facts came.

`status` reads that instead of folding every fact, so that it answers as fast after 10,000 epochs as after ten. What is
written does not grow with the run either. Both ways go through `figures`, so both say the same. What is live, such as
which process runs, is not in it. Knows nothing about words.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..data.resolved import ResolvedData
from ..durable import dumps
from ..errors import ConfigError
from .events import AlertChanged, Severity
from .freezing import frozen_data
from .glance_file import FORMAT, GLANCE
from .history import History
from .members import Attempt, Epoch, Score
from .probation import on_trial_words
from .rundir import RunDir

log = logging.getLogger(__name__)
RECENT = 24
"""Scores that the trend is drawn from."""
FIRING_LIMIT = 50
"""Alerts that are shown in full; an evaluator that fails for weeks fires one for each epoch."""
MILESTONE_GROWTH = 1.2
GRAVITY = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


class Glance:
    """Keeps glance.json of a run that a daemon holds; `refresh` after facts came."""

    def __init__(self, run: RunDir, history: History) -> None:
        self._run = run
        self._history = history
        self._classes = class_shares(run)
        self._sequence = -1

    def refresh(self, sequence: int, events_bytes: int) -> None:
        """Write it anew, unless the last fact is the one that it was made from. Raises OSError.

        Whole or not at all, but not flushed: after a power cut it is made again from the facts.
        """
        if sequence == self._sequence:
            return
        self._sequence = sequence
        made_from = {"format": FORMAT, "events_bytes": events_bytes, "sequence": sequence}
        text = dumps(made_from | {"figures": figures(self._history, self._classes)})
        temporary = self._run.path / f".{GLANCE}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_text(text)
            temporary.replace(self._run.path / GLANCE)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def folded(run: RunDir) -> dict[str, Any]:
    """The same from all facts: where no daemon lived to write the last ones down. Seconds for thousands of epochs."""
    from .store import read_events

    history = History.of(read_events(run.path))
    told: dict[str, Any] = json.loads(dumps(figures(history, class_shares(run))))
    return told


def class_shares(run: RunDir) -> list[dict[str, Any]]:
    """By class, in training order: its name, and its share of the pixels of test and train; empty where not known."""
    try:
        data = frozen_data(run)
    except ConfigError as error:
        log.info("no shares of classes: %s", error)
        return []
    return [_class_share(data, index) for index in range(len(data.classes))]


def _class_share(data: ResolvedData, index: int) -> dict[str, Any]:
    entry = data.classes[index]
    return {
        "name": entry.name,
        "test_pixels": entry.pixels.get("test"),
        "test_share": data.share(index, "test"),
        "train_share": data.share(index, "train"),
    }


def figures(history: History, classes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the facts say, in numbers and names. Unknown is `None`. Its cost and size do not grow with the epochs."""
    chronicle, scored = history.chronicle, history.scored_lineage()
    last = scored[-1][0] if scored else None
    before = scored[-2][0] if len(scored) > 1 else None
    standing = history.lineage()
    return {
        "created_at": history.created_at,
        "epochs": history.epochs_wanted,
        "class_names": list(history.created.class_names) if history.created else [],
        "finished": history.finished,
        "gave_up": history.gave_up and history.gave_up.reason,
        "stopped": history.stopped_because,
        "last_at": history.last_at,
        "settled_at": chronicle.settled_at,
        "stopped_at": chronicle.stopped_at,
        "eased_at": chronicle.eased_at,
        "attempt": _attempt(history),
        "committed_epoch": standing[-1].epoch if standing else None,
        "epoch_seconds": chronicle.epoch_seconds,
        "evaluation": _evaluation(history),
        "last": last and _scored(last, "test"),
        "before": before and {"epoch": before.epoch, "attempt": before.attempt},
        "best": {split: _scored(best.epoch, split) for split, best in sorted(history.best.items())},
        "classes": _classes(last, before, history, classes),
        "recent": [[epoch.epoch, miou] for epoch, miou in scored[-RECENT:]],
        "milestones": milestones(scored),
        "undiagnosed": _undiagnosed(history),
        "on_probation": [] if history.finished else on_trial_words(history),
        **_attended(history),
    }


def _undiagnosed(history: History) -> int | None:
    """The number of the newest incident, where an attempt ended by it and no replay has said yet what it was."""
    newest = history.incidents[-1] if history.incidents else None
    if newest is None or not newest.opened.fatal or newest.number in history.diagnoses:
        return None
    return newest.number


def _attempt(history: History) -> dict[str, Any] | None:
    attempt = history.current
    if attempt is None:
        return None
    plan, spawned, ended = attempt.plan, attempt.spawned, attempt.ended
    return {
        "number": attempt.number,
        "lr": plan.lr,
        "amp": plan.amp.value,
        "batch_size": plan.batch_size,
        "accumulate": plan.accumulate,
        "resume_step": plan.resume_step,
        "because": plan.because,
        "answers_incident": plan.incident is not None,
        "worker": spawned and {"pid": spawned.pid, "create_time": spawned.create_time, "boot": spawned.boot},
        "spawned_at": attempt.spawned_at,
        **_echo(attempt, history),
        "ended": ended and {"outcome": ended.outcome.value, "at": attempt.ended_at},
        "last_ended_at": history.attempts[-2].ended_at if len(history.attempts) > 1 else None,
    }


def _echo(attempt: Attempt, history: History) -> dict[str, Any]:
    """What the worker said of itself when it began."""
    started = attempt.started
    return {
        "started_at": started and history.chronicle.started_at,
        "device": started and started.device,
        "steps_per_epoch": started and started.steps_per_epoch,
    }


def _evaluation(history: History) -> dict[str, Any]:
    """How far scoring is behind, and what one epoch costs it."""
    scores = [] if history.latest_scored is None else history.latest_scored.scores.values()
    oldest = next(iter(history.unscored.values()), None)
    return {
        "waiting": len(history.unscored),
        "oldest_epoch": oldest and oldest.epoch,
        "failed": len(history.failed),
        "seconds_per_epoch": round(sum(score.seconds for score in scores), 3) if scores else None,
    }


def _scored(epoch: Epoch, split: str) -> dict[str, Any]:
    """One epoch with its score on a split, and its test score beside it."""
    score: Score = epoch.scores[split]
    return {
        "epoch": epoch.epoch,
        "attempt": epoch.attempt,
        "miou": score.miou,
        "miou_low": score.miou_low,
        "miou_high": score.miou_high,
        "images": score.images,
        "skipped_images": score.skipped_images,
        "gain": score.gain and asdict(score.gain),
        "verdict": score.verdict,
        "test_miou": epoch.miou("test"),
        "path": epoch.weights,
    }


def _classes(
    last: Epoch | None, before: Epoch | None, history: History, shares: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Per class of the last score: test IoU, its change since the score before, and how much of the data it is."""
    names = history.created.class_names if history.created else ()
    now = last.scores["test"].class_iou if last else ()
    then = before.scores["test"].class_iou if before else ()
    if len(shares) != len(now):
        shares = [{"test_pixels": None, "test_share": None, "train_share": None} for _ in now]
    return [
        share
        | {
            "name": names[index] if index < len(names) else f"class {index}",
            "iou": iou,
            "change": None if index >= len(then) or (old := then[index]) is None or iou is None else iou - old,
        }
        for index, (iou, share) in enumerate(zip(now, shares, strict=True))
    ]


def milestones(scored: Sequence[tuple[Epoch, float]]) -> list[list[float]]:
    """The course of test mIoU in few points: [epoch, mIoU], close together at the beginning, each 1.2 x the one before.

    For a run that comes later, to be held against this one.
    """
    points: dict[int, float] = {}
    wanted = 1.0
    while scored and wanted <= scored[-1][0].epoch:
        place = bisect_right(scored, round(wanted), key=lambda one: one[0].epoch)
        if place:
            epoch, miou = scored[place - 1]
            points[epoch.epoch] = miou
        wanted = max(wanted + 1, wanted * MILESTONE_GROWTH)
    if scored:
        points[scored[-1][0].epoch] = scored[-1][1]
    return [[epoch, miou] for epoch, miou in points.items()]


def _attended(history: History) -> dict[str, Any]:
    """The alerts that fire, the gravest first, and what people said of them."""
    firing = sorted(history.firing(), key=lambda alert: (GRAVITY.index(alert.severity), alert.since))
    shown = firing[:FIRING_LIMIT]
    return {
        "firing": [_alert(alert) for alert in shown],
        "firing_codes": list(_first_of_each(alert.code for alert in firing)),
        "firing_count": len(firing),
        "acknowledged": {
            alert.fingerprint: {"since": seen.since, "by": seen.by}
            for alert in shown
            if (seen := history.attention.seen(alert)) is not None
        },
        "silenced": {
            code: {"until": silence.until, "by": silence.by}
            for code, (_, silence) in history.attention.silenced.items()
        },
    }


def _alert(alert: AlertChanged) -> dict[str, Any]:
    return alert.model_dump(mode="json", exclude={"kind"})


def _first_of_each(codes: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for code in codes:
        if code not in seen:
            seen.add(code)
            yield code
