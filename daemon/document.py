"""A page for a person, as parts, and what becomes of them: Markdown, or one HTML file that needs nothing beside it.

Knows nothing about runs. Texts come from names and messages that somebody else wrote: neither rendering lets them be
anything but text.
"""

from __future__ import annotations

import base64
import html
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from PIL import Image

from ..plain import one_line, plain
from .page_style import STYLE

log = logging.getLogger(__name__)
Tone = Literal["good", "bad", "open"]
LARGE_BYTES = 200_000
"""A picture beyond this is inlined as JPEG: some pictures are photographs, and a page may be sent by mail."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Verdict:
    """The one sentence that a person comes for."""

    word: str
    rest: str
    tone: Tone


@dataclass(frozen=True)
class Card:
    """One figure of those that are seen first."""

    label: str
    figure: str
    beside: str = ""
    """A line for each part behind a `; `, where there is room for lines."""


@dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Bullets:
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[str] = frozenset()
    """Columns of words stand to the left, those of figures to the right."""
    colours: Sequence[tuple[int, int, int]] = ()
    """A patch before the first cell of each row; only where colours can be shown."""
    open_rows: int = 0
    """More rows than these are folded away where that can be done; 0 folds nothing."""


@dataclass(frozen=True)
class Picture:
    path: str
    """Relative to the page."""
    words: str
    """What it shows, for who does not see it."""


Part = Heading | Verdict | Cards | Words | Bullets | Table | Picture


@dataclass(frozen=True)
class Document:
    title: str
    parts: Sequence[Part]


# --- Markdown ------------------------------------------------------------------------------------------------------


def as_markdown(document: Document) -> str:
    parts = [f"# {one_line(document.title)}", *(_markdown(part) for part in document.parts)]
    return plain("\n\n".join(parts)) + "\n"


def _markdown(part: Part) -> str:
    match part:
        case Heading():
            return f"## {one_line(part.text)}"
        case Verdict():
            return f"**{one_line(part.word)}**{one_line_after(part.rest)}"
        case Cards():
            rows = [(card.label, card.figure, card.beside) for card in part.cards]
            return _markdown_table(("at a glance", "", ""), rows)
        case Words():
            return part.text
        case Bullets():
            return "\n".join(f"- {one_line(line)}" for line in part.lines)
        case Table():
            return _markdown_table(part.columns, part.rows)
        case Picture():
            return f"![{part.words}]({part.path})"
        case _:
            assert_never(part)


def one_line_after(text: str) -> str:
    """On one line, with the space or the sign that it begins with."""
    return (" " if text[:1].isspace() else "") + one_line(text)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


# --- HTML ----------------------------------------------------------------------------------------------------------


def as_html(document: Document, directory: Path) -> str:
    """One file: pictures, which are looked for below `directory`, are in it. One that cannot be read is left out."""
    title = _text(document.title)
    body = "\n".join(piece for part in document.parts for piece in _html(part, directory))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(plain(text))


def _html(part: Part, directory: Path) -> Iterator[str]:
    match part:
        case Heading():
            yield f"<h2>{_text(part.text)}</h2>"
        case Verdict():
            yield f'<p class="verdict {part.tone}"><b>{_text(part.word)}</b>{_text(part.rest)}</p>'
        case Cards():
            yield f'<div class="cards">{"".join(_card(card) for card in part.cards)}</div>'
        case Words():
            yield from (f"<p>{_text(paragraph)}</p>" for paragraph in part.text.split("\n\n"))
        case Bullets():
            yield f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in part.lines)}</ul>"
        case Table():
            yield from _html_table(part)
        case Picture():
            source = _inlined(directory / part.path)
            if source is not None:
                yield f'<figure><img src="{source}" alt="{_text(part.words)}"></figure>'
        case _:
            assert_never(part)


def _card(card: Card) -> str:
    beside = "".join(f"<span>{_text(words)}</span>" for words in card.beside.split("; "))
    return f"<div><span>{_text(card.label)}</span><strong>{_text(card.figure)}</strong>{beside}</div>"


def _html_table(table: Table) -> Iterator[str]:
    rows = [_row(table, place) for place in range(len(table.rows))]
    if not table.open_rows or len(rows) <= table.open_rows:
        yield _whole_table(table, rows)
        return
    yield _whole_table(table, rows[: table.open_rows])
    rest = _whole_table(table, rows[table.open_rows :])
    yield f"<details><summary>the other {len(rows) - table.open_rows}</summary>{rest}</details>"


def _whole_table(table: Table, rows: Sequence[str]) -> str:
    head = "".join(f"<th{_kind(table, column)}>{_text(column)}</th>" for column in table.columns)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(table: Table, place: int) -> str:
    cells = [
        f"<td{_kind(table, column)}>{_text(cell)}</td>"
        for column, cell in zip(table.columns, table.rows[place], strict=True)
    ]
    if table.colours:
        red, green, blue = table.colours[place]
        patch = f'<i style="background:rgb({red},{green},{blue})"></i>'
        cells[0] = cells[0].replace(">", f">{patch}", 1)
    return f"<tr>{''.join(cells)}</tr>"


def _kind(table: Table, column: str) -> str:
    return ' class="words"' if column in table.words else ""


def _inlined(path: Path) -> str | None:
    """As a data URI."""
    try:
        payload, kind = path.read_bytes(), "png"
        if len(payload) > LARGE_BYTES:
            smaller = io.BytesIO()
            with Image.open(io.BytesIO(payload), formats=("PNG",)) as picture:
                picture.convert("RGB").save(smaller, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            payload, kind = smaller.getvalue(), "jpeg"
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s is not in the page: %s", path, error)
        return None
    return f"data:image/{kind};base64,{base64.b64encode(payload).decode()}"
