"""Where a run is written and its data is read: room for all epochs, kind of file system, file events, reading speed."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from ..checkpoints.retention import VERIFIED_GOOD_KEPT
from ..data.cache import available_cores
from ..data.rasters import read_image
from ..errors import ConfigError
from .check import GIGA, Check, fail, gigabytes, ok, warn
from .config import RunConfig
from .memory_checks import training_of
from .storage import free_bytes
from .survey import Survey

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "ncpfs"})
RECOVERIES = 2
EVENT_SECONDS = 2.0
FILES_READ = 8
SLOW_BYTES_A_SECOND = 5e6
INOTIFY = Path("/proc/sys/fs/inotify")


def nearest(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    place = directory.resolve()
    while not place.is_dir():
        place = place.parent
    return place


def _in_the_way(directory: Path, above: Path) -> Path | None:
    """What stands below `above`, the nearest directory, where the next one would have to be made."""
    place = directory.resolve()
    if place == above:
        return None
    following = above / place.relative_to(above).parts[0]
    return following if os.path.lexists(following) else None


# --- room


def checkpoint_bytes(config: RunConfig, found: Survey, *, epochs: int | None = None) -> int:
    """What lies in checkpoints/ at its fullest: the weights that are kept, and the training states of a few."""
    training = training_of(config, found)
    weights = training.network.file_bytes
    state = training.network.state_bytes(config.trainer.optimizer)
    wanted = config.trainer.epochs if epochs is None else epochs
    keep = config.checkpoints.keep_epochs
    # Beside the newest: best by val, by test, the verified good, and one that waits for its scores.
    kept = wanted if keep is None else min(wanted, keep + 2 + VERIFIED_GOOD_KEPT + 1)
    with_state = 1 + VERIFIED_GOOD_KEPT + 1 + RECOVERIES  # before the first step, verified good, newest, recovery
    return kept * weights + (1 + RECOVERIES) * weights + with_state * state


def check_disk(config: RunConfig, found: Survey, runs_dir: Path, *, free: int | None = None) -> Check:
    """`free` bytes there; asked of the disk without it."""
    if free is None:
        free = free_bytes(nearest(runs_dir))
    pixels = found.cache_bytes(config.data.scale, native_labels=config.evaluator.resolution == "native")
    checkpoints = checkpoint_bytes(config, found)
    reserve = round(GIGA * config.watch.disk_free_gb)
    keep = config.checkpoints.keep_epochs
    kept = "all kept" if keep is None else f"the newest {keep} kept"
    words = (
        f"{gigabytes(free)} free in {runs_dir}; {config.trainer.epochs} epochs ({kept}) take "
        f"{gigabytes(checkpoints)}, the pixel cache {gigabytes(pixels)}"
    )
    if checkpoints + pixels + reserve <= free:
        return ok("disk", words)
    room = free - pixels - reserve
    keeps = [n for n in (50, 20, 10, 5, 2) if checkpoint_bytes(_keeping(config, n), found) <= room]
    here = f"checkpoints.keep_epochs = {keeps[0]} would fit; or " if keeps and (keep is None or keeps[0] < keep) else ""
    return fail("disk", words, f"{here}make room, or write to another disk: --runs-dir")


def _keeping(config: RunConfig, epochs: int) -> RunConfig:
    kept = config.checkpoints.model_copy(update={"keep_epochs": epochs})
    return config.model_copy(update={"checkpoints": kept})


# --- file system and file events


def check_writing(runs_dir: Path) -> Check:
    """Whether files can be written, flushed and locked there: a lock is what keeps two daemons apart."""
    place = nearest(runs_dir)
    if (obstacle := _in_the_way(runs_dir, place)) is not None:
        return fail("file system", f"{obstacle} is no directory", "move it away, or write elsewhere: --runs-dir")
    remedy = f"make it writable, or write elsewhere: --runs-dir (asked in {place})"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"segwatch")
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return fail("file system", f"refuses to write or lock: {error.strerror}", remedy)
    kind = file_system_of(place)
    if kind in NETWORK or kind.startswith("fuse."):
        return warn(
            "file system",
            f"{kind}: file events of other machines do not arrive, and locks are only as good as the server's",
            "nothing: the periodic scan finds every checkpoint; a local disk is quicker (--runs-dir)",
        )
    return ok("file system", f"{kind or 'of unknown kind'}: takes files and locks")


def file_system_of(place: Path) -> str:
    """Such as ext4 or nfs4; empty where the system does not tell."""
    mounts = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""


class _Heard(FileSystemEventHandler):
    def __init__(self) -> None:
        self.event = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - the name is watchdog's
        self.event.set()


def check_events(runs_dir: Path, *, scan_seconds: float) -> Check:
    """Whether a new file is heard of there; the limits of inotify where it cannot be."""
    carried = f"nothing must: the scan carries it, every {scan_seconds:g} s"
    try:
        with tempfile.TemporaryDirectory(dir=nearest(runs_dir), prefix=".segwatch-doctor-") as place:
            return _listen(Path(place), carried)
    except OSError as error:
        return warn("file events", f"cannot be tried: {error.strerror}", carried)


def _listen(place: Path, carried: str) -> Check:
    heard, observer = _Heard(), Observer()
    try:
        observer.schedule(heard, str(place))
        observer.start()
    except OSError as error:
        limit = {errno.ENOSPC: "max_user_watches", errno.EMFILE: "max_user_instances"}.get(error.errno or 0)
        if limit is None:
            return warn("file events", f"cannot be watched: {error.strerror}", carried)
        raised = 2 * (_limit(limit) or 4096)
        return warn(
            "file events",
            f"inotify is used up: {limit} is {_limit(limit)}",
            f"sudo sysctl fs.inotify.{limit}={raised}; until then {carried}",
        )
    try:
        (place / "event").touch()
        arrived = heard.event.wait(EVENT_SECONDS)
    finally:
        _end(observer)
    if not arrived:
        return warn("file events", "a new file was not heard of", carried)
    return ok("file events", f"arrive (inotify: {_limit('max_user_watches') or '?'} watches allowed)")


def _end(observer: BaseObserver) -> None:
    """What watchdog calls an error, events that are still read while it stops, is none: the file made them."""
    said = logging.getLogger("watchdog")
    before = said.level
    said.setLevel(logging.CRITICAL)
    try:
        observer.stop()
        observer.join()
    finally:
        said.setLevel(before)


def _limit(name: str) -> int | None:
    try:
        return int((INOTIFY / name).read_text())
    except (OSError, ValueError):  # no Linux, or no inotify
        return None


# --- reading


def check_reading(config: RunConfig, found: Survey) -> Check:
    """Read a few images and masks as if for the first time, and say what the first pass over all of them costs."""
    sample = found.sample[:: max(1, len(found.sample) // FILES_READ)][:FILES_READ]
    try:
        reading, decoding, size = _read(sample, config.data.scale)
    except (OSError, ConfigError) as error:
        return fail("reading", f"a file cannot be read: {error}", "`segwatch audit` names every file that cannot")
    each, speed = (reading + decoding) / len(sample), size / max(reading, 1e-9)
    cores = available_cores()
    minutes = found.total * max(each / cores, reading / len(sample)) / 60
    words = (
        f"{speed / 1e6:.0f} MB/s, {1 / each:.1f} images a second and core; the first pass over {found.total} takes "
        f"about {_minutes(minutes)} on {cores} {'core' if cores == 1 else 'cores'}, then they come from the cache"
    )
    if speed < SLOW_BYTES_A_SECOND:
        return warn("reading", words, "copy the data to a local disk: reading waits for the one it is on")
    return ok("reading", words)


def _read(sample: Sequence[tuple[Path, Path]], scale: float) -> tuple[float, float, int]:
    """(seconds to read, seconds to decode, bytes) of these pairs; the system is made to forget them first."""
    reading = decoding = 0.0
    size = 0
    for image, mask in sample:
        for path in (image, mask):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                began = time.perf_counter()
                size += len(file.read())
                reading += time.perf_counter() - began
        began = time.perf_counter()
        read_image(image, scale)
        decoding += time.perf_counter() - began
    return reading, decoding, size


def _minutes(minutes: float) -> str:
    return f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
