"""The directory of one run: its layout, who holds it, and where the newest one is. `freezing` knows what is in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import stat
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from ..durable import write_json
from ..errors import ConfigError, RunHeldError, UsageError
from .identity import Identity, myself

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = "run.lock.toml"
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""What the system says of a path that leads to nothing, or that no file can have."""
FILES = "files.jsonl"
"""What the files of all splits held. Beside the lock, not in it: `status` reads the lock, and should be quick."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """daemon.json: who runs this run. No model: `status` reads it, and should not wait for pydantic."""

    pid: int
    create_time: float
    boot: str = ""
    host: str
    since: float
    purpose: Literal["watch", "evaluate"] = "watch"
    """`evaluate` only fills in scores: nothing is watched."""

    @classmethod
    def of(cls, written: Any) -> Self:
        """Raises TypeError or ValueError for what is no holder; keys of a newer release are passed over."""
        if not isinstance(written, dict):
            raise TypeError("no JSON object")
        known = {field.name: written[field.name] for field in fields(cls) if field.name in written}
        holder = cls(**known)
        kinds = {"pid": int, "create_time": int | float, "boot": str, "host": str, "since": int | float}
        if not all(isinstance(getattr(holder, name), kind) for name, kind in kinds.items()):
            raise ValueError("a value of another kind")
        return holder

    def alive(self) -> bool | None:
        """Whether that daemon runs; `None` when it runs on another host and cannot be seen from here."""
        return None if self.host != socket.gethostname() else self.identity.alive()

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.create_time, self.boot)


class RunDir:
    """Paths below `path`, and the lock that at most one daemon holds."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))  # unlike `resolve`, it has no quarrel with a link to itself
        self.checkpoints = self.path / "checkpoints"
        self.attempts = self.path / "attempts"
        self._lock: FileLock | None = None

    @property
    def cache_dir(self) -> Path:
        """Pre-scaled pixels, shared by the runs of one directory."""
        return self.path.parent / ".cache"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: the lock is written last. Raises UsageError where we may not look."""
        try:
            (self.path / LOCK).stat()
        except OSError as error:
            if error.errno in NOT_THERE:
                return False
            raise _unreadable(self.path, error) from error
        return True

    def hold(self, purpose: Literal["watch", "evaluate"] = "watch") -> None:
        """Take the run for this process.

        Raises RunHeldError with the pid of the one that has it, ConfigError when others can write to it, StorageError
        when it cannot be made or written to.
        """
        try:
            self._take(purpose)
        except OSError as error:
            from .storage import StorageError

            raise StorageError(
                f"the run directory cannot be made or written to: {error.strerror}",
                where=self.path,
                remedy="make it writable, or say with --runs-dir where runs may be",
            ) from error

    def _take(self, purpose: Literal["watch", "evaluate"]) -> None:
        from filelock import FileLock, Timeout  # only who runs a run needs it; `status` should be quick

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._refuse_if_others_write()
        self._lock = FileLock(self.path / "daemon.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise self._held_by(self.holder()) from error
        me, before = myself(), self.holder()
        if before is not None and before.alive() and before.identity != me:  # somebody has deleted its lock
            self._lock.release()
            raise self._held_by(before)
        holder = Holder(
            pid=me.pid,
            create_time=me.create_time,
            boot=me.boot,
            host=socket.gethostname(),
            since=time.time(),
            purpose=purpose,
        )
        write_json(self.path / "daemon.json", asdict(holder))

    def _held_by(self, holder: Holder | None) -> RunHeldError:
        who = "another process" if holder is None else f"a process with pid {holder.pid} on {holder.host}"
        scores = holder is not None and holder.purpose == "evaluate"
        return RunHeldError(
            f"{who} already {'fills in the scores of' if scores else 'watches'} this run",
            where=self.path,
            remedy=f"`segwatch status {shown(self.path)}` shows it; `segwatch stop {shown(self.path)}` ends it",
        )

    def _refuse_if_others_write(self) -> None:
        """Whoever writes here decides what is loaded, resumed from and told."""
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"others can write to this run directory (mode {mode:04o})",
                where=self.path,
                remedy=f"chmod go-w {shlex.quote(str(self.path))} (where modes are not kept: mount with umask=022)",
            )

    def release(self) -> None:
        assert self._lock is not None
        self._lock.release()

    def abandon(self) -> None:
        """Leave no trace of a run that could not begin; what holds anything else is left alone.

        Before `release`: afterwards the lock may be another's, and deleting it would let a third one in.
        """
        for name in ("daemon.json", "daemon.lock"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: somebody else's
            self.path.rmdir()

    def holder(self) -> Holder | None:
        """The daemon that took the run last, alive or not."""
        try:
            return Holder.of(json.loads((self.path / "daemon.json").read_bytes()))
        except (FileNotFoundError, TypeError, ValueError):
            return None


def find_run(run: Path | None, runs_dir: Path) -> RunDir:
    """The run that a person means: a directory, the name of one below `runs_dir`, or the newest. Raises UsageError."""
    if run is not None:
        return _named(run, runs_dir)
    begun = run_paths(runs_dir)
    if not begun:
        raise _no_runs(runs_dir)
    return RunDir(max(begun, key=_began))


def _named(run: Path, runs_dir: Path) -> RunDir:
    refused: UsageError | None = None
    for candidate in (run, runs_dir / run):
        try:
            if RunDir(candidate).exists:
                return RunDir(candidate)
        except UsageError as error:
            refused = error
    raise refused or _no_run(run, runs_dir)


def _no_run(run: Path, runs_dir: Path) -> UsageError:
    """In words: nothing of that name, or something else, and what is there."""
    from ..nearby import did_you_mean, nearest  # `status` should be quick

    names = [path.name for path in run_paths(runs_dir)]
    what = f"no run at {run}"
    with contextlib.suppress(OSError):  # a name that no file can have
        if run.is_dir():
            what = f"no run at {run}: this is no run directory, it has no {LOCK}"
        elif run.is_file():
            what = f"no run at {run}: this is a file"
    near = did_you_mean(nearest(run.name, names), after=" ")
    return UsageError(what, remedy=f"{near}runs here: {', '.join(names) or f'none in {runs_dir}'}")


def _no_runs(runs_dir: Path) -> UsageError:
    from ..nearby import did_you_mean, nearest_path

    near = None if runs_dir.is_dir() else nearest_path(runs_dir)
    missing = "" if runs_dir.is_dir() else ", which is no directory"
    return UsageError(
        f"no run in {runs_dir}{missing}",
        remedy=f"{did_you_mean(near, after=' else ')}begin one with `segwatch run run.toml`, or name its directory",
    )


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot be looked at: {error.strerror}",
        where=path,
        remedy="ask who owns it to let you read it, or name another one",
    )


def _began(path: Path) -> float:
    try:
        holder = RunDir(path).holder()
        return (path / LOCK).stat().st_mtime if holder is None else holder.since
    except OSError:  # somebody else's: it is not what a person means by the newest
        return 0.0


def paths_in(runs_dir: Path) -> list[Path]:
    """What may be a run, by name; nothing where there is no such directory. Raises UsageError where we may not look."""
    try:
        return sorted(path for path in runs_dir.iterdir() if not path.name.startswith("."))
    except OSError as error:
        if error.errno in NOT_THERE:
            return []
        raise _unreadable(runs_dir, error) from error


def run_paths(runs_dir: Path) -> list[Path]:
    """The runs that can be seen: one of somebody else's hides no other."""
    begun = []
    for path in paths_in(runs_dir):
        with contextlib.suppress(UsageError):
            begun += [path] if RunDir(path).exists else []
    return begun


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
