"""Why a file is no text, or no TOML: in a person's words, with the line. Knows nothing about settings."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from ..errors import ConfigError
from ..toml_lines import first_unread, line_of, lines_of

PLACED = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
"""How `tomllib` words what it raises; only from Python 3.14 on are its parts attributes."""
TWICE = re.compile(r"Cannot (?:declare|mutate immutable namespace) \((?P<path>.*)\)(?: twice)?")
OPEN = {"Unclosed array": "a list that is never closed", "Unclosed inline table": "a table that is never closed"}
REMEDIES = {
    "Invalid value": "texts stand in quotes; numbers, true and false without",
    "Expected '='": "a setting reads key = value",
    "Expected ']'": "a table begins with its name in brackets, such as [trainer]",
    "Unclosed array": "close it with ]",
    "Unclosed inline table": "close it with }, on the same line",
    "Illegal character '\\n'": "close the quotes on the same line",
    "Unterminated string": "close the quotes",
    "Expected newline": "one setting a line, and texts in one pair of quotes",
    "Unescaped '\\'": r"write a backslash in quotes as \\, or the text in single quotes: 'C:\data'",
}
"""By what the message begins with."""
AS_UTF8 = "save it as UTF-8 text"


def no_text(where: Path, error: UnicodeDecodeError) -> ConfigError:
    """For bytes that are no UTF-8."""
    line = error.object.count(b"\n", 0, error.start) + 1
    byte = error.object[error.start]
    if b"\0" in error.object:
        return ConfigError("not TOML: no UTF-8 text", where=where, remedy=f"give the path of a run.toml, or {AS_UTF8}")
    return ConfigError(f"not TOML: no UTF-8 text (byte 0x{byte:02x})", where=f"{where}, line {line}", remedy=AS_UTF8)


def no_toml(where: Path, text: str, error: tomllib.TOMLDecodeError) -> ConfigError:
    """For a text that `tomllib` refused."""
    found = PLACED.fullmatch(str(error))
    said = str(error) if found is None else found["what"]
    line, column = (None, None) if found is None or said in OPEN else (found["line"], found["column"])
    number = int(line) if line is not None else first_unread(text) or _last(text)
    place = f"{where}, line {number}" + (f", column {column}" if column else "")
    if twice := _twice(text, said, number):
        return ConfigError(f"not TOML: {twice}", where=place, remedy="keep one of the two")
    remedy = next((words for begin, words in REMEDIES.items() if said.startswith(begin)), "mend this line")
    return ConfigError(f"not TOML: {OPEN.get(said, said[0].lower() + said[1:])}", where=place, remedy=remedy)


def _last(text: str) -> int:
    return text.rstrip().count("\n") + 1


def _twice(text: str, said: str, line: int) -> str | None:
    """What stands in the file twice, and where first; `None` where that is not what is wrong."""
    lines = text.split("\n")
    before = lines_of("\n".join(lines[: line - 1]))
    if table := TWICE.fullmatch(said):
        path = ast.literal_eval(f"({table['path']})")
        return f"[{'.'.join(path)}] stands there twice{_first(line_of(before, path))}"
    if said == "Cannot overwrite a value":
        own = lines_of(lines[line - 1])
        name = next((str(path[-1]) for path in own), None)
        places = [number for path, number in before.items() if path[-1] == name]
        return f"{name!r} stands there twice{_first(places[-1] if places else None)}"
    return None


def _first(line: int | None) -> str:
    return "" if line is None else f", first in line {line}"
