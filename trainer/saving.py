"""Commits the worker's checkpoints and says so in the journal. Knows nothing about whether they are worth keeping.

Training waits for the copy in memory alone; a thread hashes, writes and flushes it, and the journal hears of it once it
is committed. At most one is under way: whoever wants the next one waits, and so a slow disk slows training down instead
of filling the memory.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import files
from ..checkpoints.manifest import Manifest, Role, read_manifest, scan_manifests
from ..errors import CorruptCheckpointError
from .contract import CheckpointLine, Phase
from .exhaustion import is_out_of_memory
from .journal import Journal
from .resume import Position

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
RECOVERIES_KEPT = 2


@dataclass(frozen=True)
class Held:
    """What one checkpoint will hold, on the CPU."""

    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]
    copied: bool
    """Whether it shares nothing with what is trained."""
    since: float
    """When training began to wait for it."""


@dataclass
class _Write:
    """A checkpoint on its way to the disk."""

    done: Future[Manifest]
    train_loss: float | None
    waited_seconds: float
    """How long training has waited for it."""


class Saver:
    """Writes below `run_dir`/checkpoints. Everything but the writing itself happens on the thread that calls."""

    def __init__(self, run_dir: Path, identity: files.Identity, journal: Journal) -> None:
        self._directory = run_dir / CHECKPOINTS
        self._identity = identity
        self._journal = journal
        self._saved_at = time.monotonic()
        self._write: _Write | None = None
        self._room: Held | None = None
        """The last copy, in whose memory the next one is made once it is on the disk."""
        self._sweep()

    def seconds_since(self) -> float:
        """Since training last went on with a checkpoint on its way, or since the attempt began."""
        return time.monotonic() - self._saved_at

    def has_initial(self) -> bool:
        return (self._directory / "initial.json").exists()

    def hold(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Held:
        """A copy for `save`, once the checkpoint before is on the disk: two copies are never in memory.

        It is valid until the next one is asked for.

        Where the memory does not suffice for one, what is trained itself, which must then stand still. Raises OSError
        that says where and how much room there is when the disk refused the one before.
        """
        self._journal.write(Phase(time=self._journal.now(), phase="saving"))
        self.settle()
        since = time.monotonic()
        room, self._room = self._room, None  # nothing is under way that would still read it
        try:
            held = Held(
                files.copied_weights(weights, None if room is None else room.weights),
                files.copied(state, None if room is None else room.state),
                copied=True,
                since=since,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no memory for a copy of the training state: training waits until it is written")
            return Held(weights, state, copied=False, since=since)
        self._room = held
        return held

    def save(self, role: Role, position: Position, held: Held, *, train_loss: float | None = None) -> None:
        """Begin to commit what `hold` gave. Returns at once where it is a copy, else when it is on the disk."""
        assert self._write is None, "a checkpoint is under way"
        # A thread for each: on the CPU one that stays keeps OpenMP threads of its own, more than there are cores, and
        # the runtime then lets those of the training step sleep at every barrier: 12 to 15 % of the step.
        with_one_thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        done = with_one_thread.submit(self._commit, role, replace(position), held)
        with_one_thread.shutdown(wait=False)
        self._saved_at = time.monotonic()
        self._write = _Write(done, train_loss, waited_seconds=self._saved_at - held.since)
        if not held.copied:
            self.settle()

    def tend(self) -> None:
        """Tell of what has been committed since. Raises OSError when the disk refused it."""
        if self._write is not None and self._write.done.done():
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is under way, and tell of it. Raises OSError when the disk refused it."""
        if self._write is None:
            return
        write, self._write = self._write, None
        began = time.monotonic()
        manifest = write.done.result()
        self._tell(manifest, write.train_loss, write.waited_seconds + time.monotonic() - began)

    def finish(self) -> None:
        """`settle` before something that matters more than a checkpoint: a disk that refuses is only logged."""
        if self._write is not None and not self._write.done.done():
            self._journal.write(Phase(time=self._journal.now(), phase="saving"))
        try:
            self.settle()
        except OSError as error:
            log.warning("%s", error)

    def make_room(self, position: Position) -> None:
        """Drop a recovery checkpoint of this very step: left by an attempt that got here and was killed."""
        stem = f"recovery_step{position.step}"
        if (self._directory / f"{stem}.json").exists():
            files.discard(self._directory, stem)

    def _tell(self, manifest: Manifest, train_loss: float | None, seconds: float) -> None:
        line = CheckpointLine(
            time=self._journal.now(),
            role=manifest.role.value,
            epoch=manifest.epoch,
            step=manifest.step,
            manifest=f"{CHECKPOINTS}/{manifest.stem}.json",
            sha256=manifest.weights.sha256,
            train_loss=train_loss,
            seconds=seconds,
        )
        self._journal.write(line)
        if manifest.role is Role.EPOCH:
            self._journal.reached.epoch = manifest.epoch
            log.info("epoch %d is saved: train loss %s", manifest.epoch, train_loss)

    def _sweep(self) -> None:
        """Remove what a worker that was killed had half written: nobody else writes here, and none of it has a name."""
        for path in self._directory.glob(".*.pth.*.tmp"):
            log.info("removed %s, which a killed worker left unfinished", path.name)
            path.unlink(missing_ok=True)

    # --- on the thread

    def _commit(self, role: Role, position: Position, held: Held) -> Manifest:
        try:
            manifest = files.commit(
                self._directory,
                self._identity,
                role=role,
                epoch=position.epoch,
                step=position.step,
                step_in_epoch=position.step_in_epoch,
                weights=held.weights,
                state=held.state,
            )
        except OSError as error:
            free = shutil.disk_usage(self._directory.parent).free
            what = f"cannot save a checkpoint: {error.strerror}; {free} bytes free"
            raise OSError(error.errno, what, str(self._directory)) from error
        if role is Role.RECOVERY:
            self._prune(manifest)
        return manifest

    def _prune(self, newest: Manifest) -> None:
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
