"""Reads a worker's journal from where it was left. A line that is not of the contract is counted, never trusted."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ..durable import read_lines
from ..trainer.contract import JOURNAL_LINE, JournalLine, Trouble

TAIL_BYTES = 64 << 10


class JournalReader:
    """The lines of one journal, each handed out once, from byte `offset` on."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.unreadable = 0

    def read(self) -> list[JournalLine]:
        """The lines since the last call; a file that has become shorter was replaced and is read from its start."""
        if self.path.exists() and self.path.stat().st_size < self.offset:
            self.offset = 0
        raw, self.offset = read_lines(self.path, self.offset)
        lines = []
        for text in raw:
            try:
                lines.append(JOURNAL_LINE.validate_json(text))
            except ValidationError:
                self.unreadable += 1
        return lines


def last_trouble(path: Path) -> Trouble | None:
    """Why the worker of this journal was about to leave, if it said so."""
    return next((line for line in reversed(tail(path)) if isinstance(line, Trouble)), None)


def tail(path: Path, size: int = TAIL_BYTES) -> list[JournalLine]:
    """The last lines of a journal, at the same cost however long it is."""
    if not path.exists():
        return []
    return JournalReader(path, max(0, path.stat().st_size - size)).read()
