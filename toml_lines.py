"""On which line of a TOML file a key stands: `tomllib` reads a file and forgets it. Knows nothing about what keys mean.

The file is read a statement at a time, by `tomllib` itself, so that quotes, arrays over several lines and inline tables
need no second parser that might see them differently.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Key = str | int
"""A name; or the place of an entry, counted from 0, as in `[[channel]]` or in a list."""
Place = tuple[Key, ...]
LONGEST_STATEMENT_LINES = 200
"""Each line of a statement reads it anew, so a longer one ends the search: what follows is unknown, and quickly so."""


def lines_of(text: str) -> dict[Place, int]:
    """Every key of a file -> its line, counted from 1; of a table, the line of its first mention."""
    found: dict[Place, int] = {}
    table: Place = ()
    tables: defaultdict[Place, int] = defaultdict(int)
    for number, _, parsed, header in _statements(text):
        if header:
            path = _only_path(parsed)
            table = _numbered(path, tables, new=header == "[[")
            _note(found, table, number)
        else:
            for path in _paths(parsed):
                _note(found, (*table, *path), number)
    return found


def line_of(lines: Mapping[Place, int], place: Sequence[Key]) -> int | None:
    """The line of a key, or of the nearest table around it where the key is not in the file; `None` for neither."""
    known = (tuple(place[:length]) for length in range(len(place), 0, -1))
    return next((lines[key] for key in known if key in lines), None)


def first_unread(text: str) -> int | None:
    """The line of the first statement that is no TOML by itself, in a file that is none; `None` where each is."""
    lines = text.replace("\r\n", "\n").split("\n")
    ends = [0, *(end for _, end, _, _ in _statements(text))]
    rest = range(ends[-1], len(lines))
    return next((number + 1 for number in rest if _says_something(lines[number])), None)


def _note(found: dict[Place, int], place: Place, number: int) -> None:
    """Also for the tables around it, where nothing before has mentioned them."""
    for length in range(1, len(place) + 1):
        found.setdefault(place[:length], number)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _statements(text: str) -> Iterator[tuple[int, int, dict[str, Any], str]]:
    """(first line, last line, what it says by itself, `[` or `[[` where it begins a table) of each statement.

    Ends at the first one that is no TOML.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    number = 0
    while number < len(lines):
        began, number = number, number + 1
        if not _says_something(lines[began]):
            continue
        for end in range(number, min(len(lines), began + LONGEST_STATEMENT_LINES) + 1):
            try:
                parsed = tomllib.loads("\n".join(lines[began:end]))
            except tomllib.TOMLDecodeError:
                continue
            first = lines[began].lstrip()
            yield began + 1, end, parsed, first[: len(first[:2]) - len(first[:2].lstrip("["))]
            number = end
            break
        else:
            return


def _numbered(path: Place, tables: defaultdict[Place, int], *, new: bool) -> Place:
    """With the number of each `[[table]]` on the way, as the values of the file have it."""
    numbered: Place = ()
    for length, name in enumerate(path, start=1):
        numbered = (*numbered, name)
        if new and length == len(path):
            tables[numbered] += 1
        if tables[numbered]:
            numbered = (*numbered, tables[numbered] - 1)
    return numbered


def _only_path(parsed: Mapping[str, Any]) -> Place:
    """Of a header, which names one table and nothing in it."""
    path: Place = ()
    inner: Any = parsed
    while isinstance(inner, dict) and inner:
        (name,) = inner
        path, inner = (*path, name), inner[name]
    return path


def _paths(value: Any) -> Iterator[Place]:
    """Every key of a statement: dotted ones, and those of inline tables and lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield (name,)
        yield from ((name, *path) for path in _paths(entry))
