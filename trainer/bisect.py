"""PURE: which of several things each make a test fail, by halving. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def isolate(items: Sequence[Item], is_bad: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """Those of `items`, known to be bad together, that are bad alone: about 2 log2(n) tests for each of them.

    Nothing where the halves are fine and only the whole is bad: then it is no single one.
    """
    if len(items) == 1:
        return [items[0]]
    middle = len(items) // 2
    return [bad for half in (items[:middle], items[middle:]) if is_bad(half) for bad in isolate(half, is_bad)]
