"""One thing that is wrong with the data, or remarkable: what, where, how to mend it. Does not know who found it."""

from __future__ import annotations

from ..errors import ConfigError
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

    @classmethod
    def of(cls, error: ConfigError, code: str) -> Problem:
        """The same finding, as an error that stopped a reader told it."""
        return cls(code=code, what=error.what, where=error.where, remedy=error.remedy or "")
