"""One thing that is wrong with the data, or remarkable: what, where, how to mend it. Does not know who found it."""

from __future__ import annotations

from pydantic import field_validator

from ..errors import ConfigError
from ..plain import speakable
from ..section import Record


class Problem(Record):
    """A finding of the audit. Whether it forbids training is said by the list that it stands in."""

    code: str
    """Stable and greppable, such as "unknown-colours" or "leak-sequence"."""
    what: str
    where: str | None = None
    remedy: str
    files: tuple[str, ...] = ()
    """Every file that has it, each with its own reason."""
    lines: tuple[str, ...] = ()
    """To be copied as they are, such as a class table: a printer must not break them."""

    @field_validator("what", "where", "remedy", "files", "lines", mode="before")
    @classmethod
    def _speakable(cls, value: object) -> object:
        """A name in it may not be UTF-8, which no file and no terminal takes."""
        if isinstance(value, tuple):
            return tuple(speakable(text) for text in value)
        return speakable(value) if isinstance(value, str) else value

    @classmethod
    def of(cls, error: ConfigError, code: str) -> Problem:
        """The same finding, as an error that stopped a reader told it."""
        return cls(code=code, what=error.what, where=error.where, remedy=error.remedy or "")
