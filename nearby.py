"""What a person may have meant by a name that is not there. Knows nothing about what is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

LEAST_LIKENESS = 0.6
"""Of `difflib`, from 0 to 1. Below, a proposal confuses more than it helps."""


def nearest(name: str, known: Iterable[str], *, likeness: float = LEAST_LIKENESS) -> str | None:
    """The one of `known` that is most like `name`, whatever its capitals."""
    lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=likeness)
    return lower[found[0]] if found else None


def nearest_beside(path: Path) -> str | None:
    """The name in the same directory that is most like that of `path`."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return None
    return nearest(path.name, (name for name in names if name != path.name))


def nearest_path(path: Path) -> Path | None:
    """Likewise, as one would type it in the place of `path`."""
    found = nearest_beside(path)
    return None if found is None else path.parent / found


def did_you_mean(found: str | Path | None, *, before: str = "", after: str = "") -> str:
    """`did you mean 'x'?` between two texts; nothing where nothing was found."""
    return "" if found is None else f"{before}did you mean {str(found)!r}?{after}"
