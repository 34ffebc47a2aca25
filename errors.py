"""What a person has done that segwatch must explain. Knows nothing about how it is printed."""

from __future__ import annotations

from pathlib import Path

from .plain import one_line, plain

REMEDY_MARK = "\n  -> "
"""Stands before the remedy where an error is told as text."""


class SegwatchError(Exception):
    """A mistake that the command line explains without a traceback: what, where, how to mend it.

    `where` is a file, or a file and a key; `remedy` is the next thing to do. `exit_code` follows sysexits.h.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        what = plain(self.what)
        told = what if self.where is None else f"{one_line(self.where)}: {what}"
        return f"{told}{REMEDY_MARK}{plain(self.remedy)}" if self.remedy else told


class ConfigError(SegwatchError):
    """The configuration or the data cannot be used as they are (EX_CONFIG)."""

    exit_code = 78


class RunHeldError(SegwatchError):
    """Another daemon holds the run directory (EX_TEMPFAIL)."""

    exit_code = 75


class UsageError(SegwatchError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class CorruptCheckpointError(SegwatchError):
    """A checkpoint is not what its manifest says: cut short, changed, or not written by segwatch."""
