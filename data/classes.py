"""The class table: which id has which name and colour. Knows nothing about masks, or which classes are used.

TOML, as a table or as an array, or JSON, in the same two shapes:

    [classes]                                       {"classes": [
    0 = { name = "water", rgb = [226, 169, 41] }        {"id": 0, "name": "water", "colour": "#E2A929"}
                                                    ]}
"""

from __future__ import annotations

import colorsys
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError

LAST_ID = 254
"""255 is the ignore index, in masks as in training."""
COLOUR_KEYS = ("colour", "color", "rgb")
HEX_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")
GOLDEN_RATIO = 0.618033988749895
EXAMPLE = '{"id": 0, "name": "water", "colour": "#E2A929"}'

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassEntry:
    id: int
    """0 to 254: the pixel value in the masks."""
    name: str
    """Empty where the data set has an id but no name for it."""
    colour: Colour
    """RGB; a made-up one where the table has none."""


@dataclass(frozen=True)
class ClassTable:
    path: Path
    entries: tuple[ClassEntry, ...]
    """In ascending id."""

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(entry.id for entry in self.entries)

    @property
    def named_ids(self) -> tuple[int, ...]:
        return tuple(entry.id for entry in self.entries if entry.name)

    def get(self, class_id: int) -> ClassEntry | None:
        return next((entry for entry in self.entries if entry.id == class_id), None)


def load_class_table(path: Path) -> ClassTable:
    """Read a table. Raises one ConfigError that lists every mistake with its entry."""
    rows = list(_rows(_parse(path), path))
    if not rows:
        raise ConfigError("the class table is empty", where=path, remedy=f"list every class, such as {EXAMPLE}")
    _require_ids(rows, path)
    mistakes: list[str] = []
    drafts = [draft for label, row in rows if (draft := _read_row(label, row, mistakes)) is not None]
    mistakes += _repeated("id", [str(draft[0]) for draft in drafts])
    mistakes += _repeated("name", [draft[1] for draft in drafts if draft[1]])
    if mistakes:
        raise ConfigError(
            _listed(mistakes), where=path, remedy=f"ids are whole numbers from 0 to {LAST_ID}; an entry reads {EXAMPLE}"
        )
    return ClassTable(path, _coloured(sorted(drafts, key=lambda draft: draft[0])))


def _parse(path: Path) -> dict[str, Any]:
    parsers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": _json}
    parser = parsers.get(path.suffix.lower())
    if parser is None:
        raise ConfigError(
            "a class table is a .toml or a .json file", where=path, remedy="set data.classes to such a file"
        )
    try:
        document = parser(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the class table: {error.strerror}", where=path, remedy="check data.root and data.classes"
        ) from error
    except ValueError as error:  # both parsers' syntax errors, and bytes that are not UTF-8
        raise ConfigError(
            f"not valid {path.suffix[1:].upper()}: {error}", where=path, remedy="mend the file"
        ) from error
    if not isinstance(document, dict) or "classes" not in document:
        raise ConfigError('no "classes" in the class table', where=path, remedy=f"list them there, such as {EXAMPLE}")
    return document


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = _repeated("key", [key for key, _ in pairs])
    if repeated:
        raise ValueError("; ".join(repeated))
    return dict(pairs)


def _rows(document: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what to call the entry, its keys with an `id` where there is one)."""
    match document["classes"]:
        case dict() as table:
            for key, row in table.items():
                number = int(key) if key.isascii() and key.isdecimal() else key
                yield f"class {key}", {"id": number, **_as_table(row, f"class {key}", path)}
        case list() as rows:
            for position, row in enumerate(rows, start=1):
                yield f"entry {position}", _as_table(row, f"entry {position}", path)
        case other:
            raise ConfigError(
                f'"classes" is a {type(other).__name__}, not a list or a table', where=path, remedy=f"write {EXAMPLE}"
            )


def _as_table(row: Any, label: str, path: Path) -> dict[str, Any]:
    if isinstance(row, str):  # `0 = "water"` says all that is needed
        return {"name": row}
    if not isinstance(row, dict):
        raise ConfigError(f"{label} is {row!r}, not a table", where=path, remedy=f"an entry reads {EXAMPLE}")
    return row


def _require_ids(rows: list[tuple[str, dict[str, Any]]], path: Path) -> None:
    """An entry's place in the file says nothing: segwatch does not number classes by itself."""
    lacking = [(label, row) for label, row in rows if "id" not in row]
    if lacking:
        titles = [str(row.get("name", row.get("title", "?"))) for _, row in lacking]
        raise ConfigError(
            f"{len(lacking)} of {len(rows)} entries have no id: "
            + ", ".join(f"{label} ({title})" for (label, _), title in zip(lacking, titles, strict=True)),
            where=path,
            remedy=f"give each class the id that its pixels have in the masks, such as {EXAMPLE}",
        )


def _read_row(label: str, row: dict[str, Any], mistakes: list[str]) -> tuple[int, str, Colour | None] | None:
    """(id, name, colour or None), or None when the entry cannot be used: `mistakes` then says why."""
    known = len(mistakes)
    class_id, name = row["id"], row.get("name")
    if not isinstance(class_id, int) or isinstance(class_id, bool) or not 0 <= class_id <= LAST_ID:
        mistakes.append(f"{label}: id {class_id!r} is not a whole number from 0 to {LAST_ID}")
    if not isinstance(name, str):
        found = "has no name" if name is None else f"name {name!r} is not text"
        mistakes.append(f'{label}: {found}; an id without a meaning is written as name ""')
    given = [key for key in COLOUR_KEYS if key in row]
    colour = _colour(row[given[0]]) if given else None
    if given and colour is None:
        mistakes.append(f'{label}: {given[0]} {row[given[0]]!r} is neither "#RRGGBB" nor [r, g, b] from 0 to 255')
    if len(mistakes) > known:
        return None
    return class_id, str(name).strip(), colour


def _colour(value: Any) -> Colour | None:
    match value:
        case str() if found := HEX_COLOUR.fullmatch(value):
            red, green, blue = bytes.fromhex(found[1])
            return red, green, blue
        case [int(red), int(green), int(blue)] if all(0 <= channel <= 255 for channel in (red, green, blue)):
            return int(red), int(green), int(blue)
        case _:
            return None


def _coloured(drafts: list[tuple[int, str, Colour | None]]) -> tuple[ClassEntry, ...]:
    taken = {colour for _, _, colour in drafts if colour is not None}
    entries = []
    for class_id, name, given in drafts:
        colour = given or _invented(class_id, taken)
        taken.add(colour)
        entries.append(ClassEntry(class_id, name, colour))
    return tuple(entries)


def _invented(class_id: int, taken: set[Colour]) -> Colour:
    """Hues a golden ratio apart stay distinct however many there are; the next one if somebody has it already."""
    turn = class_id
    while True:
        red, green, blue = colorsys.hsv_to_rgb(
            turn * GOLDEN_RATIO % 1, 0.55 + 0.1 * (turn % 4), 0.95 - 0.1 * (turn % 3)
        )
        colour = round(red * 255), round(green * 255), round(blue * 255)
        if colour not in taken:
            return colour
        turn += LAST_ID


def _repeated(what: str, values: list[str]) -> list[str]:
    places: defaultdict[str, int] = defaultdict(int)
    for value in values:
        places[value] += 1
    return [f"{what} {value!r} stands there {count} times" for value, count in places.items() if count > 1]


def _listed(mistakes: list[str]) -> str:
    return (
        mistakes[0] if len(mistakes) == 1 else "\n".join([f"{len(mistakes)} mistakes:", *(f"  {m}" for m in mistakes)])
    )
