"""What a row of the table of mistakes is, and the ways to make one. For tests only."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = 78
USAGE = 2
FAILED = 1
HELD = 75
DISK = 74

RUN_TOML = """\
# The night of the long run
[data]
classes = "classes.json"
scale = 0.5
[data.train]
images = "images"
masks = "masks"
[data.val]
images = "images_val"
masks = "masks_val"
[data.test]
images = "images_test"
masks = "masks_test"
[trainer]
epochs = 3
lr = 1e-3
"""
"""A run.toml without a mistake, for the data that `place` has."""

Make = Callable[[Path], None]
CLOSING: list[Callable[[], object]] = []
"""What is to be called when a row has been told: what it left open, such as a lock that it holds."""


@dataclass(frozen=True)
class Mistake:
    """One slip of a person, and what has to be said of it."""

    name: str
    command: str
    """Without `segwatch`; it is called in the directory of run.toml."""
    says: tuple[str, ...]
    """What is wrong, where it is and how it is mended: each of these."""
    make: Make = lambda place: None
    code: int = CONFIG
    at: tuple[str, str] | None = None
    """(text that stands in run.toml, key): the message must name the line of that text, and the key."""


def wrong(old: str, new: str) -> Make:
    """A run.toml in which something else stands."""

    def make(place: Path) -> None:
        assert RUN_TOML.count(old) == 1, old
        (place / "run.toml").write_text(RUN_TOML.replace(old, new))

    return make


def added(text: str) -> Make:
    """A run.toml that goes on with this."""
    return written(RUN_TOML + text)


def written(text: str | bytes) -> Make:
    """Another run.toml altogether."""

    def make(place: Path) -> None:
        (place / "run.toml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def both(*steps: Make) -> Make:
    def make(place: Path) -> None:
        for step in steps:
            step(place)

    return make


def of_somebody_else(directory: str) -> Make:
    """A directory that only its owner may look into. The superuser may everywhere: the system's answer is put there."""

    def make(place: Path) -> None:
        closed = Path(os.path.realpath(place / directory))
        for name in ("stat", "listdir", "scandir"):
            _refuse(name, closed)

    return make


def _refuse(name: str, closed: Path) -> None:
    real = getattr(os, name)

    def guarded(path: Any = ".", *args: Any, **options: Any) -> Any:
        asked = Path(os.path.realpath(path)) if isinstance(path, str | os.PathLike) else Path()
        if closed in asked.parents or (asked == closed and name != "stat"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **options)

    setattr(os, name, guarded)
    CLOSING.append(lambda: setattr(os, name, real))
