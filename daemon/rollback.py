"""Which checkpoint to go back to, and the moves that a roll-back makes. Nothing is overwritten, nothing deleted.

Knows files and manifests; which *kind* of checkpoint is wanted was decided by `policy`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.manifest import Manifest, Role, StoredFile, read_manifest, scan_manifests, verify_file
from ..durable import sync_directory
from ..errors import CorruptCheckpointError
from .history import History
from .members import Epoch
from .policy import ResumeFrom


@dataclass(frozen=True)
class ResumePoint:
    manifest: str
    """Relative to the run directory."""
    epoch: int
    step: int


@dataclass(frozen=True)
class Broken:
    """A checkpoint that is not what was committed."""

    path: Path
    manifest: Manifest | None
    message: str


def choose(
    run_dir: Path, history: History, want: ResumeFrom, *, before_step: int | None = None
) -> tuple[ResumePoint | None, list[Broken]]:
    """The newest checkpoint of the wanted kind whose bytes are as committed, and the broken ones met on the way.

    `verified-good`: finite and scored without collapse, else the initial weights. `latest`: anything finite with its
    training state, from before an epoch that gave NaN in evaluation, whatever it says of itself. With `before_step`, of
    the first step at which something was wrong, only what is older, and of the recoveries only what led to a good epoch
    before it. `None` means that nothing usable was ever committed: start from the beginning.
    """
    broken: list[Broken] = []
    before_step = _earlier(before_step, _not_finite_from(history))
    proved_until = None if before_step is None else _proved_until(history, before_step)
    for path, manifest in _newest_first(run_dir, history, broken):
        if not _resumable(path, manifest) or not _wanted(manifest, history, want):
            continue
        if before_step is not None and manifest.step >= before_step and manifest.role is not Role.INITIAL:
            continue
        if not _is_proved(manifest, proved_until):
            continue
        try:
            for stored in _files(manifest):
                verify_file(path.parent, stored)
        except CorruptCheckpointError as error:
            broken.append(Broken(path, manifest, str(error)))
        else:
            return ResumePoint(str(path.relative_to(run_dir)), manifest.epoch, manifest.step), broken
    return None, broken


def _not_finite_from(history: History) -> int | None:
    """The step of the first epoch since the last good one that gave logits that are not finite."""
    step = None
    for epoch in reversed(history.lineage()):
        if epoch.verified_good:
            break
        if any(score.verdict == "not-finite" for score in epoch.scores.values()):
            step = epoch.step
    return step


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((step for step in (one, other) if step is not None), default=None)


def good_before(run_dir: Path, history: History, step: int, *, onset: int | None = None, number: int = 2) -> list[str]:
    """The newest checkpoints from before a step that hold good training states, as manifests; at most `number`.

    Good: finite, not known to be worse than that, and with the bytes that were committed. Each of another step: what
    goes wrong from two of them goes wrong from two different states. A broken one is passed over; `choose` tells of it.

    No score says anything of a recovery: where it is known from which step on something was wrong (`onset`), only those
    that led to a good epoch before it are good. Where it is not, the newest is near and worth one of the places.
    """
    step = step if onset is None else min(step, onset)
    proved_until = _proved_until(history, step)
    found: list[str] = []
    steps: set[int] = set()
    guesses = 0 if onset is not None else 1
    for path, manifest in _newest_first(run_dir, history, []):
        if len(found) == number:
            break
        if manifest.step >= step or manifest.step in steps or not _resumable(path, manifest):
            continue
        epoch = history.epochs.get((manifest.attempt, manifest.epoch)) if manifest.role is Role.EPOCH else None
        if not manifest.finite or (epoch is not None and epoch.verified_good is False):
            continue
        proved = _is_proved(manifest, proved_until)
        if not proved and guesses == 0:
            continue
        with contextlib.suppress(CorruptCheckpointError):
            for stored in _files(manifest):
                verify_file(path.parent, stored)
            found.append(str(path.relative_to(run_dir)))
            steps.add(manifest.step)
            guesses -= not proved
    return found


def _proved_until(history: History, before_step: int) -> int | None:
    """The step of the last verified-good epoch before `before_step`; `None` where there is none to go by."""
    good = (epoch.step for epoch in reversed(history.lineage()) if epoch.step < before_step and epoch.verified_good)
    return next(good, None)


def _is_proved(manifest: Manifest, until: int | None) -> bool:
    """Whether a recovery led to a good epoch; everything else says by itself how good it is."""
    return manifest.role is not Role.RECOVERY or until is None or manifest.step <= until


def _resumable(path: Path, manifest: Manifest) -> bool:
    """Whether its training state is there: retention lets it go, and what is left is scored but not gone on from."""
    return manifest.state is not None and (path.parent / manifest.state.name).exists()


def _newest_first(run_dir: Path, history: History, broken: list[Broken]) -> Iterator[tuple[Path, Manifest]]:
    """By step, since a recovery may lie before or after an epoch; unreadable manifests are added to `broken`.

    Each is read when it is its turn: of thousands, most often the first will do. Of those that the history knows it
    says where they belong; the others, a few, are read to know it.
    """
    found: list[tuple[int, int, Path]] = []
    for path in scan_manifests(run_dir / "checkpoints"):
        known: Epoch | Manifest | None = _known(history, path.name) or _read(path, broken)
        if known is not None:
            found.append((known.step, known.epoch, path))
    for _, _, path in sorted(found, reverse=True):
        manifest = _read(path, broken)
        if manifest is not None:
            yield path, manifest


def _read(path: Path, broken: list[Broken]) -> Manifest | None:
    try:
        return read_manifest(path)
    except CorruptCheckpointError as error:
        if all(entry.path != path for entry in broken):
            broken.append(Broken(path, None, str(error)))
        return None


def _known(history: History, name: str) -> Epoch | None:
    return history.standing.get(f"checkpoints/{name}")


def supersede(run_dir: Path, history: History, step: int) -> Iterator[tuple[Manifest, str]]:
    """Move every checkpoint of a later step to `superseded/<attempt>/`; yields its manifest and where it now is.

    Repeatable: what a daemon that died on the way has moved is simply no longer there. What the history knows to be
    older is not read.
    """

    def older(name: str) -> bool:
        known = _known(history, name)
        return known is not None and known.step <= step

    for path in list(scan_manifests(run_dir / "checkpoints", skip=older)):
        try:
            manifest = read_manifest(path)
        except CorruptCheckpointError:
            quarantine(run_dir, path, None)
            continue
        if manifest.step > step:
            target = run_dir / "checkpoints" / "superseded" / f"{manifest.attempt:03d}"
            yield manifest, str(_move(path, manifest, target).relative_to(run_dir))


def quarantine(run_dir: Path, path: Path, manifest: Manifest | None) -> str:
    """Move a broken checkpoint to `quarantine/`; returns where its manifest now is, relative to the run."""
    where = place_in_quarantine(run_dir, path, manifest)
    move_aside(run_dir, path, manifest, where)
    return where


def place_in_quarantine(run_dir: Path, path: Path, manifest: Manifest | None) -> str:
    """Where `quarantine` would move its manifest, relative to the run: for those who record it before it is done."""
    attempt = "unknown" if manifest is None else f"{manifest.attempt:03d}"
    base = run_dir / "checkpoints" / "quarantine"
    target, number = base / attempt, 1
    while (target / path.name).exists():
        number += 1
        target = base / f"{attempt}-{number}"
    return str((target / path.name).relative_to(run_dir))


def move_aside(run_dir: Path, path: Path, manifest: Manifest | None, where: str) -> None:
    """Its manifest to `where`, a path relative to the run, and its files beside it."""
    _move(path, manifest, (run_dir / where).parent)


def finish_quarantine(run_dir: Path, epoch: Epoch) -> None:
    """The move of one that was recorded as quarantined and may lie where it was: its daemon died in between."""
    if (run_dir / epoch.manifest).exists():
        return
    checkpoints = run_dir / "checkpoints"
    name = Path(epoch.manifest).name
    for path in (checkpoints / name, checkpoints / "superseded" / f"{epoch.attempt:03d}" / name):
        with contextlib.suppress(CorruptCheckpointError, FileNotFoundError):
            manifest = read_manifest(path)
            if (manifest.attempt, manifest.epoch) == epoch.key:
                move_aside(run_dir, path, manifest, epoch.manifest)


def _wanted(manifest: Manifest, history: History, want: ResumeFrom) -> bool:
    if not manifest.finite:
        return False
    if want == "latest" or manifest.role is Role.INITIAL:
        return True
    epoch = history.epochs.get((manifest.attempt, manifest.epoch))
    return manifest.role is Role.EPOCH and epoch is not None and epoch.verified_good is True


def _files(manifest: Manifest) -> list[StoredFile]:
    return [manifest.weights] if manifest.state is None else [manifest.weights, manifest.state]


def _move(path: Path, manifest: Manifest | None, target: Path) -> Path:
    """The files are linked first and let go last: a manifest has them beside it wherever this is cut short."""
    target.mkdir(parents=True, exist_ok=True)
    names = [] if manifest is None else [stored.name for stored in _files(manifest)]
    for name in names:
        if not (target / name).exists():
            with contextlib.suppress(OSError):  # not there, or a file system without hard links: moved below
                os.link(path.parent / name, target / name, follow_symlinks=False)
    sync_directory(target)
    moved = path.replace(target / path.name)
    for name in names:
        source = path.parent / name
        if (target / name).exists() and source.exists() and source.samefile(target / name):
            source.unlink()  # rename(2) does nothing between two links to one file
        elif source.exists() or source.is_symlink():
            source.replace(target / name)
    for directory in (target, path.parent):
        sync_directory(directory)
    return moved
