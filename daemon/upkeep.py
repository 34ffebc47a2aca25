"""Removes what retention lets go. What may go is decided by `checkpoints.retention`; nothing else is ever deleted."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from ..checkpoints.config import CheckpointConfig
from ..checkpoints.retention import Stored, plan
from ..trainer.diagnosis import STATE
from .history import History
from .members import Epoch
from .probation import to_go_back_to

log = logging.getLogger(__name__)


def remove_surplus(run_dir: Path, history: History, config: CheckpointConfig, cleared: set[int]) -> None:
    """A file that cannot be removed is told of in the log; the next round tries again.

    `cleared` grows by the incidents whose state is gone, and which are not looked at again.
    """
    _remove_answered(run_dir, history, cleared)
    directory = run_dir / "checkpoints"
    present = set(os.listdir(directory))  # noqa: PTH208 - a path for each of 30,000 files takes long
    standing = [_stored(present, epoch, history) for epoch in history.lineage() if f"{_stem(epoch)}.json" in present]
    best = {split: found.epoch.key for split, found in history.best.items()}
    kept = to_go_back_to(history)
    resumed_from = {attempt.plan.resume_from for attempt in history.attempts[-1:]}
    for name in plan(
        standing,
        keep_epochs=config.keep_epochs,
        best_by_val=best.get("val"),
        best_by_test=best.get("test"),
        in_use={stored.key for stored in standing if f"checkpoints/{stored.manifest}" in resumed_from}
        | ({kept.key} if kept is not None else set()),
    ):
        _remove(directory / name)


def _remove_answered(run_dir: Path, history: History, cleared: set[int]) -> None:
    """The state at an incident is as large as a checkpoint: kept while the incident is open, and of the newest."""
    fatal = [incident.number for incident in history.incidents if incident.opened.fatal]
    still_open = {incident.number for incident in history.open_incidents()}
    for number in fatal[:-1]:
        if number in still_open or number in cleared:
            continue
        if _remove(run_dir / "incidents" / f"{number:03d}" / STATE):
            cleared.add(number)


def _remove(path: Path) -> bool:
    """Whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)
        return False
    return True


def _stem(epoch: Epoch) -> str:
    return epoch.manifest.rsplit("/", 1)[-1].removesuffix(".json")


def _stored(present: Collection[str], epoch: Epoch, history: History) -> Stored:
    stem = _stem(epoch)
    state = f"{stem}.state.pth"
    return Stored(
        attempt=epoch.attempt,
        epoch=epoch.epoch,
        weights=f"{stem}.pth",
        state=state if state in present else None,
        manifest=f"{stem}.json",
        evaluated=epoch.key not in history.unscored,
        verified_good=epoch.verified_good is True,
    )
