"""The directory of one run: its layout, what is frozen in it, who holds it, and where the newest one is."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout
from pydantic import ValidationError

from ..data.resolved import ResolvedData
from ..durable import dumps, write_atomic, write_json, write_text
from ..errors import ConfigError, RunHeldError, UsageError
from ..section import Record
from .config import RunConfig, changed_keys
from .process import Identity, myself

LOCK = "run.lock.toml"
FREE_WHILE_RUNNING = (
    "trainer.epochs",
    "trainer.device",
    "trainer.threads",
    "trainer.recovery_seconds",
    "evaluator.",
    "checkpoints.",
    "watch.",
    "alerts.",
    "recovery.",
)
"""Settings that may change between two calls of `segwatch run`; all others are what the run *is*."""
FREE_AT_RETRY = ("trainer.lr", "trainer.amp")
"""What a person may change as well for another try after a run gave up: the ladder may, so they may."""
_LOCK_HEADER = """\
# What this run uses: every setting with its default, and the data as the audit found it.
# Written by segwatch when the run began; edit run.toml where you keep it, not this file.

"""


class Holder(Record):
    """daemon.json: who runs this run."""

    pid: int
    create_time: float
    host: str
    since: float

    def alive(self) -> bool | None:
        """Whether that daemon runs; `None` when it runs on another host and cannot be seen from here."""
        if self.host != socket.gethostname():
            return None
        return Identity(self.pid, self.create_time).alive()


class RunDir:
    """Paths below `path`, and the lock that at most one daemon holds."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.checkpoints = self.path / "checkpoints"
        self.attempts = self.path / "attempts"
        self._lock = FileLock(self.path / "daemon.lock", timeout=0)

    @property
    def cache_dir(self) -> Path:
        """Pre-scaled pixels, shared by the runs of one directory."""
        return self.path.parent / ".cache"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: the lock file is what is written last."""
        return (self.path / LOCK).exists()

    def create(self, source: Path, config: RunConfig, data: ResolvedData) -> None:
        """Freeze a new run: the user's file as it is, and everything as resolved. Restartable at any point."""
        for name in ("attempts", "checkpoints", "evaluations", "incidents", "tensorboard/train", "tensorboard/eval"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        write_text(self.path / "run.toml", source.read_text())
        self._freeze(config, data)

    def hold(self) -> None:
        """Take the run for this process. Raises RunHeldError with the pid of the daemon that has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = self.holder()
            who = "another daemon" if holder is None else f"a daemon with pid {holder.pid} on {holder.host}"
            raise RunHeldError(
                f"{who} already watches this run",
                where=self.path,
                remedy=f"`segwatch status {_shown(self.path)}` shows it; `segwatch stop {_shown(self.path)}` ends it",
            ) from error
        me = myself()
        holder = Holder(pid=me.pid, create_time=me.create_time, host=socket.gethostname(), since=time.time())
        write_json(self.path / "daemon.json", holder.model_dump())

    def release(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        """Leave no trace of a run that could not begin; what holds anything else is left alone."""
        for name in ("daemon.json", "daemon.lock"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: somebody else's
            self.path.rmdir()

    def holder(self) -> Holder | None:
        """The daemon that took the run last, alive or not."""
        try:
            return Holder.model_validate_json((self.path / "daemon.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def frozen_config(self) -> RunConfig:
        try:
            return RunConfig.model_validate(tomllib.loads((self.path / LOCK).read_text())["config"])
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(f"cannot be read: {error}", where=self.path / LOCK, remedy="start a new run") from error

    def accept(self, source: Path, config: RunConfig, *, retry: bool = False) -> dict[str, str]:
        """Take an edited run.toml for a run that exists; returns what changed, in words.

        With `retry`, a run that gave up may go on with another learning rate or precision. Raises ConfigError when a
        setting was edited that makes it another run.
        """
        changes = changed_keys(self.frozen_config(), config)
        words = {key: f"{_toml(old)} -> {_toml(new)}" for key, (old, new) in sorted(changes.items())}
        free = FREE_WHILE_RUNNING + FREE_AT_RETRY if retry else FREE_WHILE_RUNNING
        fixed = [key for key in words if not key.startswith(free)]
        if fixed:
            raise ConfigError(
                "this run began with other settings:\n" + "\n".join(f"  {key}: {words[key]}" for key in fixed),
                where=source,
                remedy="put them back to go on, or start another run with --name",
            )
        if changes:
            write_text(self.path / "run.toml", source.read_text())
            self._freeze(config, ResolvedData.load(self.path / LOCK))
        return words

    def _freeze(self, config: RunConfig, data: ResolvedData) -> None:
        resolved = {"use": list(data.class_ids), **data.model_dump(mode="json")}
        table = {"config": _without_none(config.model_dump(mode="json")), "resolved": resolved}
        write_atomic(self.path / LOCK, lambda file: _dump(file, table))


def find_run(run: Path | None, runs_dir: Path) -> RunDir:
    """The run that a person means: a directory, the name of one below `runs_dir`, or the newest. Raises UsageError."""
    if run is not None:
        for candidate in (run, runs_dir / run):
            if RunDir(candidate).exists:
                return RunDir(candidate)
        raise UsageError(f"no run at {run}", remedy=f"runs here: {_names(runs_dir) or 'none'}")
    begun = _run_paths(runs_dir)
    if not begun:
        raise UsageError(
            f"no run in {runs_dir}", remedy="begin one with `segwatch run run.toml`, or name its directory"
        )
    return RunDir(max(begun, key=_began))


def _began(path: Path) -> float:
    holder = RunDir(path).holder()
    return (path / LOCK).stat().st_mtime if holder is None else holder.since


def _run_paths(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        return []
    return sorted(path for path in runs_dir.iterdir() if RunDir(path).exists)


def _names(runs_dir: Path) -> str:
    return ", ".join(path.name for path in _run_paths(runs_dir))


def _shown(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _dump(file: Any, table: dict[str, Any]) -> None:
    file.write(_LOCK_HEADER.encode())
    tomli_w.dump(table, file)


def _without_none(value: Any) -> Any:
    """TOML has no null: a setting that is not set is left out."""
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value


def _toml(value: Any) -> str:
    return "(not set)" if value is None else dumps(value)
