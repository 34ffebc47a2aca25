"""One thing that `segwatch doctor` looked at: what was found, and what to do. Knows nothing about any check."""

from __future__ import annotations

from typing import Literal

from ..section import Record

State = Literal["ok", "warn", "fail"]
GIGA = 1e9


class Check(Record):
    name: str
    state: State
    """`fail` keeps a run from working, `warn` makes it worse or slower."""
    found: str
    remedy: str | None = None
    """The next thing to do; `None` where nothing is to be done."""


def ok(name: str, found: str) -> Check:
    return Check(name=name, state="ok", found=found)


def warn(name: str, found: str, remedy: str) -> Check:
    return Check(name=name, state="warn", found=found, remedy=remedy)


def fail(name: str, found: str, remedy: str) -> Check:
    return Check(name=name, state="fail", found=found, remedy=remedy)


def gigabytes(size: float) -> str:
    """Such as 2.4 GB; two digits that are not 0 for less than one."""
    number = size / GIGA
    return f"{number:.1f} GB" if number >= 1 else f"{number:.2g} GB"
