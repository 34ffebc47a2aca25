"""The class table: which id has which name and colour. Knows nothing about masks, or which classes are used.

TOML, as a table or as an array, or JSON, in the same two shapes:

    [classes]                                       {"classes": [
    0 = { name = "water", rgb = [226, 169, 41] }        {"id": 0, "name": "water", "colour": "#E2A929"}
                                                    ]}

or the dictionary of a research repository, in a .py file that is parsed and never executed:

    cmap = {0: {'name': 'water', 'RGB': [226, 169, 41]}}
"""

from __future__ import annotations

import colorsys
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..durable import read_text
from ..errors import ConfigError
from ..nearby import did_you_mean, nearest, nearest_beside
from ..plain import one_line
from .config import LAST_ID, NO_LABEL
from .python_table import read_dictionary

NAME_KEYS = ("name", "title")
COLOUR_KEYS = ("colour", "color", "rgb")
HEX_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")
GOLDEN_RATIO = 0.618033988749895
HUES_TRIED = 32
TURN = 254
TABLE_LIMIT_BYTES = 16 << 20
"""65535 classes with long names take 8 MB; more is some other file."""
EXAMPLES = {
    ".toml": '0 = { name = "water", colour = "#E2A929" } under [classes]',
    ".json": '{"id": 0, "name": "water", "colour": "#E2A929"}',
    ".py": '0: {"name": "water", "RGB": [226, 169, 41]}',
}
"""An entry, as each kind of file writes it."""
IDS = f"a whole number from 0 to {LAST_ID}, other than {NO_LABEL}, which says in masks that nothing is known"

Colour = tuple[int, int, int]
Row = tuple[str, dict[str, Any]]
"""What to call an entry, and its keys: in lower case, with an `id` where there is one."""
Draft = tuple[int, str, Colour | None]
"""(id, name, given colour)."""


@dataclass(frozen=True)
class ClassEntry:
    id: int
    """0 to 65535 without 255: the pixel value in masks of ids."""
    name: str
    """Empty where the data set has an id but no name for it."""
    colour: Colour
    """RGB; a made-up one where the table has none."""
    colour_given: bool = True
    """Whether the table has it, so that masks may be read by it."""


@dataclass(frozen=True)
class ClassTable:
    path: Path
    entries: tuple[ClassEntry, ...]
    """In ascending id."""
    numbered: bool = False
    """The file has no ids: these are positions, counted from 0. Masks of ids cannot be read with it."""

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self._by_id)

    @property
    def named_ids(self) -> tuple[int, ...]:
        return tuple(entry.id for entry in self.entries if entry.name)

    @property
    def colours(self) -> dict[Colour, int]:
        """Given colour -> id; the first one where several entries share it (see `ambiguous_colours`)."""
        found: dict[Colour, int] = {}
        for entry in self.entries:
            if entry.colour_given:
                found.setdefault(entry.colour, entry.id)
        return found

    @property
    def ambiguous_colours(self) -> dict[Colour, tuple[int, ...]]:
        """Given colours of more than one entry: masks of colours cannot tell these apart, masks of ids can."""
        found: defaultdict[Colour, list[int]] = defaultdict(list)
        for entry in self.entries:
            if entry.colour_given:
                found[entry.colour].append(entry.id)
        return {colour: tuple(ids) for colour, ids in found.items() if len(ids) > 1}

    def get(self, class_id: int) -> ClassEntry | None:
        return self._by_id.get(class_id)

    @cached_property
    def _by_id(self) -> dict[int, ClassEntry]:
        return {entry.id: entry for entry in self.entries}


def load_class_table(path: Path) -> ClassTable:
    """Read a table. Raises one ConfigError that lists every mistake with its entry.

    A table in which no entry has an id and all have a colour is `numbered`: it serves masks that hold these colours.
    """
    rows = list(_rows(_parse(path), path))
    if not rows:
        raise ConfigError("the class table is empty", where=path, remedy=f"list every class, such as {_example(path)}")
    numbered = not any("id" in row for _, row in rows) and all(_given_colours(row) for _, row in rows)
    if numbered:
        rows = [(label, {"id": _numbered(position), **row}) for position, (label, row) in enumerate(rows)]
    lacking = [_titled(label, row) for label, row in rows if "id" not in row]
    if lacking:
        raise _without_ids(path, lacking, len(rows))
    mistakes: list[str] = []
    drafts = [draft for label, row in rows if (draft := _read_row(label, row, mistakes)) is not None]
    names = [next((row[key] for key in NAME_KEYS if key in row), None) for _, row in rows]
    labels = [label for label, _ in rows]
    mistakes += _repeated("id", [str(row["id"]) if type(row["id"]) is int else "" for _, row in rows], labels)
    mistakes += _repeated("name", [name.strip() if isinstance(name, str) else "" for name in names], labels)
    if mistakes:
        raise ConfigError(_listed(mistakes), where=path, remedy=f"an id is {IDS}; an entry reads {_example(path)}")
    return ClassTable(path, _coloured(sorted(drafts, key=lambda draft: draft[0])), numbered)


def require_ids(table: ClassTable) -> None:
    """Raises ConfigError for a table whose ids are only positions: masks of ids need the real ones."""
    if table.numbered:
        titles = [f"entry {place} ({entry.name})" for place, entry in enumerate(table.entries, start=1)]
        raise _without_ids(table.path, titles, len(titles))


def parse_colour(value: Any) -> Colour | None:
    """RGB of "#RRGGBB" or [r, g, b]; `None` for anything else."""
    match value:
        case str() if found := HEX_COLOUR.fullmatch(value):
            red, green, blue = bytes.fromhex(found[1])
            return red, green, blue
        case [int(red), int(green), int(blue)] if all(0 <= channel <= 255 for channel in (red, green, blue)):
            return int(red), int(green), int(blue)
        case _:
            return None


def as_hex(colour: Colour) -> str:
    """As class tables and messages write it: #E2A929."""
    return "#{:02X}{:02X}{:02X}".format(*colour)


# --- files


def _parse(path: Path) -> Any:
    """What stands under `classes`, or a document that is a table by itself."""
    parsers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": _json, ".py": read_dictionary}
    parser = parsers.get(path.suffix.lower())
    if parser is None and path.is_file():
        raise ConfigError(
            "a class table is a .toml, a .json or a .py file", where=path, remedy="set data.classes to such a file"
        )
    try:
        text = read_text(path, limit=TABLE_LIMIT_BYTES, encoding="utf-8-sig")
        assert parser is not None  # what is no such file is a directory, or not there
        document = parser(text)
    except OSError as error:
        raise ConfigError(
            f"cannot read the class table: {error.strerror}",
            where=path,
            remedy=f"{did_you_mean(nearest_beside(path), after=' else ')}check data.root and data.classes",
        ) from error
    except (ValueError, RecursionError) as error:  # the parsers' syntax errors, and bytes that are not UTF-8
        kind = "class dictionary" if path.suffix.lower() == ".py" else path.suffix[1:].upper()
        raise ConfigError(f"not a valid {kind}: {error}", where=path, remedy="mend the file") from error
    if isinstance(document, dict) and "classes" in document:
        return document["classes"]
    if isinstance(document, list) or (isinstance(document, dict) and document and all(map(_is_number, document))):
        return document
    near = nearest("classes", map(str, document)) if isinstance(document, dict) else None
    raise ConfigError(
        f'no "classes" in the class table{did_you_mean(near and "classes", before=f", but {near!r}: ")}',
        where=path,
        remedy=f"list them there, such as {_example(path)}",
    )


def _example(path: Path) -> str:
    return EXAMPLES[path.suffix.lower()]


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = _repeated("key", [key for key, _ in pairs])
    if repeated:
        raise ValueError("; ".join(repeated))
    return dict(pairs)


# --- entries


def _rows(classes: Any, path: Path) -> Iterator[Row]:
    match classes:
        case dict() as table:
            for key, row in table.items():
                number = int(key) if _is_number(key) else key
                yield f"class {key}", {"id": number, **_as_table(row, f"class {key}", path)}
        case list() as rows:
            for position, row in enumerate(rows, start=1):
                yield f"entry {position}", _as_table(row, f"entry {position}", path)
        case other:
            raise ConfigError(
                f'"classes" is a {type(other).__name__}, not a list or a table',
                where=path,
                remedy=f"write {_example(path)}",
            )


def _is_number(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isdecimal())


def _as_table(row: Any, label: str, path: Path) -> dict[str, Any]:
    if isinstance(row, str):  # `0 = "water"` says all that is needed
        return {"name": row}
    if not isinstance(row, dict):
        raise ConfigError(f"{label} is {row!r}, not a table", where=path, remedy=f"an entry reads {_example(path)}")
    lower = {str(key).lower(): value for key, value in row.items()}
    if len(lower) < len(row):
        raise ConfigError(
            f"{label} has one key twice, in capitals and not: {', '.join(map(str, row))}",
            where=path,
            remedy="keep one of them",
        )
    return lower


def _numbered(position: int) -> int:
    return position if position < NO_LABEL else position + 1


def _given_colours(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in COLOUR_KEYS if key in row}


def _titled(label: str, row: dict[str, Any]) -> str:
    name = next((row[key] for key in NAME_KEYS if key in row), "?")
    return f"{label} ({name})"


def _without_ids(path: Path, titles: list[str], entries: int) -> ConfigError:
    """An entry's place in the file says nothing: segwatch does not number classes by itself."""
    return ConfigError(
        f"{len(titles)} of {entries} entries have no id: " + ", ".join(titles),
        where=path,
        remedy=f"give each class the id that its pixels have in the masks, such as {_example(path)}",
    )


def _read_row(label: str, row: dict[str, Any], mistakes: list[str]) -> Draft | None:
    """The entry, or None when it cannot be used: `mistakes` then says why."""
    known = len(mistakes)
    class_id, name = row["id"], next((row[key] for key in NAME_KEYS if key in row), None)
    if class_id == NO_LABEL and not isinstance(class_id, bool):
        mistakes.append(f"{label}: id {NO_LABEL} says in masks that nothing is known there, and is no class")
    elif not isinstance(class_id, int) or isinstance(class_id, bool) or not 0 <= class_id <= LAST_ID:
        mistakes.append(f"{label}: id {class_id!r} is not a whole number from 0 to {LAST_ID}")
    if not isinstance(name, str):
        found = "has no name" if name is None else f"name {name!r} is not text"
        mistakes.append(f'{label}: {found}; an id without a meaning is written as name ""')
    given = {key: (value, parse_colour(value)) for key, value in _given_colours(row).items()}
    for key, (value, colour) in given.items():
        if colour is None:
            mistakes.append(f'{label}: {key} {value!r} is neither "#RRGGBB" nor [r, g, b] from 0 to 255')
    colours = {colour for _, colour in given.values()}
    if None not in colours and len(colours) > 1:
        mistakes.append(f"{label}: {' and '.join(given)} are two different colours")
    if len(mistakes) > known:
        return None
    return class_id, one_line(str(name)), next(iter(colours), None)


# --- colours for those that have none


def _coloured(drafts: list[Draft]) -> tuple[ClassEntry, ...]:
    taken = {colour for _, _, colour in drafts if colour is not None}
    entries = []
    for class_id, name, given in drafts:
        colour = given or _invented(class_id, taken)
        taken.add(colour)
        entries.append(ClassEntry(class_id, name, colour, colour_given=given is not None))
    return tuple(entries)


def _invented(class_id: int, taken: set[Colour]) -> Colour:
    """Hues a golden ratio apart stay distinct for dozens of classes; the next one if somebody has it already."""
    for turn in range(class_id, class_id + HUES_TRIED * TURN, TURN):
        red, green, blue = colorsys.hsv_to_rgb(
            turn * GOLDEN_RATIO % 1, 0.55 + 0.1 * (turn % 4), 0.95 - 0.1 * (turn % 3)
        )
        colour = round(red * 255), round(green * 255), round(blue * 255)
        if colour not in taken:
            return colour
    return _any_free(class_id, taken)


def _any_free(class_id: int, taken: set[Colour]) -> Colour:
    """Thousands of classes have used up the hues that an eye can tell apart."""
    value = class_id * 40503
    while True:
        colour = value >> 16 & 255, value >> 8 & 255, value & 255
        if colour not in taken:
            return colour
        value += 1


def _repeated(what: str, values: list[str], labels: list[str] | None = None) -> list[str]:
    """What stands there more than once, and where; an empty text is no value."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for value, label in zip(values, labels or values, strict=True):
        if value:
            places[value].append(label)
    return [
        f"{what} {value!r} stands there {len(found)} times" + (f": {' and '.join(found)}" if labels else "")
        for value, found in places.items()
        if len(found) > 1
    ]


def _listed(mistakes: list[str]) -> str:
    return (
        mistakes[0] if len(mistakes) == 1 else "\n".join([f"{len(mistakes)} mistakes:", *(f"  {m}" for m in mistakes)])
    )
