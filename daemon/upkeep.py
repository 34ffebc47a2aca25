"""Removes what retention lets go. What may go is decided by `checkpoints.retention`; nothing else is ever deleted."""

from __future__ import annotations

import logging
import os
from collections import deque
from itertools import chain, islice
from pathlib import Path

from ..checkpoints.config import CheckpointConfig
from ..checkpoints.retention import VERIFIED_GOOD_KEPT, Stored, plan
from ..trainer.diagnosis import STATE
from .history import History
from .members import Epoch
from .probation import to_go_back_to

log = logging.getLogger(__name__)


def remove_surplus(run_dir: Path, history: History, config: CheckpointConfig, cleared: set[int]) -> None:
    """One round by itself; see `Retention`. `cleared` grows by the incidents whose state is gone."""
    Retention(cleared).remove_surplus(run_dir, history, config)


class Retention:
    """Round after round. Only the first one looks at every epoch: then those are known that nothing is left of to go.

    So it costs the same late in a long run as early, and holds none of its tens of thousands of names.
    """

    def __init__(self, cleared: set[int] | None = None) -> None:
        self._cleared: set[int] = set() if cleared is None else cleared
        """The incidents whose state is gone, and which are not looked at again."""
        self._taken = 0
        """So many of the history's epochs were looked at."""
        self._open: list[Epoch] = []
        """Those of them that something may go of, now or later."""

    def remove_surplus(self, run_dir: Path, history: History, config: CheckpointConfig) -> None:
        """A file that cannot be removed is told of in the log; the next round tries again."""
        _remove_answered(run_dir, history, self._cleared)
        directory = run_dir / "checkpoints"
        self._take(directory, history, states_only=config.keep_epochs is None)
        standing = [_stored(directory, epoch, history) for epoch in self._open if (run_dir / epoch.manifest).exists()]
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

    def _take(self, directory: Path, history: History, *, states_only: bool) -> None:
        """The new epochs, and the others for as long as they have files to lose, wait for a score, or may be gone back
        to: `plan` counts the last of these as well.
        """
        suffixes = (".state.pth",) if states_only else (".state.pth", ".json")
        has = _names(directory, suffixes).__contains__ if not self._taken else lambda name: (directory / name).exists()
        still: list[Epoch] = []
        good: deque[Epoch] = deque(maxlen=VERIFIED_GOOD_KEPT)
        for epoch in chain(self._open, islice(history.epochs.values(), self._taken, None)):
            if epoch.moved is not None:
                continue
            if epoch.key in history.unscored or any(has(f"{_stem(epoch)}{suffix}") for suffix in suffixes):
                still.append(epoch)
            elif epoch.verified_good:
                good.append(epoch)
        self._taken = len(history.epochs)
        self._open = sorted((*still, *good), key=lambda epoch: epoch.key)


def _names(directory: Path, suffixes: tuple[str, ...]) -> set[str]:
    """The files that end so; none of the others is held in memory."""
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries if entry.name.endswith(suffixes)}


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


def _stored(directory: Path, epoch: Epoch, history: History) -> Stored:
    stem = _stem(epoch)
    state = f"{stem}.state.pth"
    return Stored(
        attempt=epoch.attempt,
        epoch=epoch.epoch,
        weights=f"{stem}.pth",
        state=state if (directory / state).exists() else None,
        manifest=f"{stem}.json",
        evaluated=epoch.key not in history.unscored,
        verified_good=epoch.verified_good is True,
    )
