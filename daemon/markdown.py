"""Markdown that stays what it is whatever stands in it: names and messages come from files that somebody else wrote."""

from __future__ import annotations

from collections.abc import Sequence

from ..plain import one_line


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def code(name: str) -> str:
    """A name as it is, with nothing in it taken for markup."""
    return f"`{one_line(name).replace('`', chr(39))}`"
