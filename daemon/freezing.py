"""What a run is, frozen in its directory: run.toml as the user wrote it, run.lock.toml as everything was resolved."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import tomli_w
from pydantic import ValidationError

from ..data.config import SPLITS
from ..data.frozen import FrozenFile, read_frozen, require_unchanged, write_frozen
from ..data.resolved import ResolvedData
from ..durable import dumps, write_atomic, write_text
from ..errors import ConfigError
from . import going_on
from .config import RunConfig, changed_keys
from .places import Places
from .rundir import FILES, LOCK, RunDir

log = logging.getLogger(__name__)
FREE_WHILE_RUNNING = (
    "trainer.epochs",
    "trainer.device",
    "trainer.threads",
    "trainer.compile",
    "trainer.recovery_seconds",
    "evaluator.device",
    "evaluator.batch_size",
    "evaluator.release_gpu",
    "evaluator.threads",
    "evaluator.timeout_seconds",
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


def create(run: RunDir, source: Path, config: RunConfig, data: ResolvedData, files: Sequence[FrozenFile] = ()) -> None:
    """Freeze a new run: the user's file as it is, everything as resolved, and what the `files` of its splits hold.

    Restartable at any point.
    """
    for name in ("attempts", "checkpoints", "evaluations", "incidents", "tensorboard/train", "tensorboard/eval"):
        (run.path / name).mkdir(parents=True, exist_ok=True)
    write_text(run.path / "run.toml", source.read_text())
    going_on.remember(run, source)
    write_frozen(run.path / FILES, files)
    _freeze(run, config, data)


def frozen_config(run: RunDir) -> RunConfig:
    """Raises ConfigError when the lock file is not ours any more."""
    lock = run.path / LOCK
    try:
        return RunConfig.model_validate(tomllib.loads(lock.read_text())["config"])
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, mistake["loc"])) for mistake in error.errors(include_url=False))
        raise ConfigError(
            f"settings that this release does not know: {keys}",
            where=lock,
            remedy="use the release of segwatch that began this run, a newer one it seems; or start a new run",
        ) from error
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", where=lock, remedy="start a new run") from error


def frozen_data(run: RunDir) -> ResolvedData:
    return ResolvedData.load(run.path / LOCK)


def require_same_files(run: RunDir, told: Callable[[str], None], *, splits: Sequence[str] = SPLITS) -> None:
    """Raises ConfigError where files of these splits do not hold what they held when the run began.

    `told` hears, in words, of what takes a while. A run that an older release began goes on without knowing.
    """
    path = run.path / FILES
    if not path.exists():
        log.warning("no %s: an older release began this run, and whether its data changed since is not known", FILES)
        return
    files = read_frozen(path)
    now = require_unchanged(
        frozen_data(run).root,
        files,
        splits=splits,
        where=run.path,
        again=going_on.command(run),
        told=lambda doubtful: told(f"{doubtful} files bear another time than before: their content is compared"),
    )
    if now != files:
        write_frozen(path, now)


def freeze_again(run: RunDir, config: RunConfig, data: ResolvedData, files: Sequence[FrozenFile]) -> None:
    """Other files, which a person accepted. `files.jsonl` last: until it is there, the files count as changed."""
    _freeze(run, config, data)
    write_frozen(run.path / FILES, files)


def accept(run: RunDir, source: Path, config: RunConfig, *, retry: bool = False) -> dict[str, str]:
    """Take an edited run.toml for a run that exists; returns what changed, in words.

    With `retry`, a run that gave up may go on with another learning rate or precision. Raises ConfigError when a
    setting was edited that makes it another run.
    """
    changes = changed_keys(frozen_config(run), config)
    words = {key: f"{_toml(old)} -> {_toml(new)}" for key, (old, new) in sorted(changes.items())}
    free = FREE_WHILE_RUNNING + FREE_AT_RETRY if retry else FREE_WHILE_RUNNING
    fixed = [key for key in words if not key.startswith(free)]
    if fixed:
        places = Places(source)
        raise ConfigError(
            "this run began with other settings:\n"
            + "\n".join(f"  {places.line(tuple(key.split('.')))}: {words[key]}" for key in fixed),
            where=source,
            remedy="put them back to go on, or start another run with --name",
        )
    going_on.remember(run, source)
    if changes:
        write_text(run.path / "run.toml", source.read_text())
        _freeze(run, config, frozen_data(run))
    return words


def _freeze(run: RunDir, config: RunConfig, data: ResolvedData) -> None:
    resolved = {"use": list(data.class_ids), **data.model_dump(mode="json")}
    table = {"config": _without_none(config.model_dump(mode="json")), "resolved": resolved}
    write_atomic(run.path / LOCK, lambda file: _dump(file, table))


def _dump(file: IO[bytes], table: dict[str, Any]) -> None:
    file.write(_LOCK_HEADER.encode())
    tomli_w.dump(table, file)


def _without_none(value: Any) -> Any:
    """TOML has no null: a setting that is not set is left out."""
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_none(entry) for entry in value]
    return value


def _toml(value: Any) -> str:
    return "(not set)" if value is None else dumps(value)
