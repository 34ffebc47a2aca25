"""Commits the worker's checkpoints and says so in the journal. Knows nothing about whether they are worth keeping."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import files
from ..checkpoints.manifest import Manifest, Role, read_manifest, scan_manifests
from ..errors import CorruptCheckpointError
from .contract import CheckpointLine, Phase
from .journal import Journal
from .resume import Position

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
RECOVERIES_KEPT = 2


class Saver:
    """Writes below `run_dir`/checkpoints."""

    def __init__(self, run_dir: Path, identity: files.Identity, journal: Journal) -> None:
        self._directory = run_dir / CHECKPOINTS
        self._identity = identity
        self._journal = journal
        self._saved_at = time.monotonic()

    def seconds_since(self) -> float:
        """Since the last commit, or since the attempt began."""
        return time.monotonic() - self._saved_at

    def has_initial(self) -> bool:
        return (self._directory / "initial.json").exists()

    def save(
        self,
        role: Role,
        position: Position,
        *,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Any],
        train_loss: float | None = None,
    ) -> Manifest:
        """Commit one checkpoint. Raises OSError that says where and how much room there is when the disk refuses."""
        began = time.monotonic()
        self._journal.write(Phase(time=self._journal.now(), phase="saving"))
        try:
            manifest = files.commit(
                self._directory,
                self._identity,
                role=role,
                epoch=position.epoch,
                step=position.step,
                step_in_epoch=position.step_in_epoch,
                weights=weights,
                state=state,
            )
        except OSError as error:
            free = shutil.disk_usage(self._directory.parent).free
            what = f"cannot save a checkpoint: {error.strerror}; {free} bytes free"
            raise OSError(error.errno, what, str(self._directory)) from error
        self._saved_at = time.monotonic()
        self._journal.write(
            CheckpointLine(
                time=self._journal.now(),
                role=role.value,
                epoch=manifest.epoch,
                step=manifest.step,
                manifest=f"{CHECKPOINTS}/{manifest.stem}.json",
                sha256=manifest.weights.sha256,
                train_loss=train_loss,
                seconds=self._saved_at - began,
            )
        )
        return manifest

    def make_room(self, position: Position) -> None:
        """Drop a recovery checkpoint of this very step: left by an attempt that got here and was killed."""
        stem = f"recovery_step{position.step}"
        if (self._directory / f"{stem}.json").exists():
            files.discard(self._directory, stem)

    def prune(self, newest: Manifest) -> None:
        """Keep `newest` and the recovery before it; what lies ahead of this attempt is not its own to remove."""
        older = [manifest for manifest in self._recoveries() if manifest.step < newest.step]
        for manifest in older[: 1 - RECOVERIES_KEPT]:
            files.discard(self._directory, manifest.stem)

    def _recoveries(self) -> list[Manifest]:
        found = []
        for path in scan_manifests(self._directory):
            try:
                manifest = read_manifest(path)
            except (CorruptCheckpointError, FileNotFoundError) as error:
                log.warning("left alone: %s", error)  # the daemon quarantines and moves checkpoints meanwhile
                continue
            if manifest.role is Role.RECOVERY:
                found.append(manifest)
        return found
