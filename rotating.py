"""Logs that never fill a disk: a file that has grown too long makes room for a new one under its name.

Of an old one the beginning is kept, where the cause often stands, and what came last. Knows nothing about their lines.
"""

from __future__ import annotations

import os
from pathlib import Path

LIMIT_BYTES = 8 << 20
FIRST, BEFORE = ".first", ".1"


def rotate(path: Path) -> None:
    """`daemon.log` becomes `daemon.log.first` the first time, and `daemon.log.1` from then on. Raises OSError.

    Whoever has it open goes on writing to it under its new name, and nothing is lost; only what a later rotation finds
    as `.1` is gone then.
    """
    first = path.with_name(path.name + FIRST)
    path.replace(path.with_name(path.name + BEFORE) if first.exists() else first)


def rotate_if_long(path: Path, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Whether it was longer than the limit, and is not there any more. Raises OSError."""
    if not path.exists() or path.stat().st_size <= limit_bytes:
        return False
    rotate(path)
    return True


def reopen_if_long(path: Path, descriptors: tuple[int, ...], limit_bytes: int = LIMIT_BYTES) -> bool:
    """For a process whose open `descriptors` are this very log: they become those of a new one, for all its threads.

    Nothing is done where they are something else, such as a terminal. Raises OSError.
    """
    open_file = os.fstat(descriptors[0])
    if open_file.st_size <= limit_bytes or not path.exists() or not os.path.samestat(open_file, path.stat()):
        return False
    rotate(path)
    fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        for descriptor in descriptors:
            os.dup2(fresh, descriptor)  # inheritable, as standard streams are
    finally:
        os.close(fresh)
    return True
