"""Where in a run.toml a setting stands: file, line and key. Knows nothing about what is wrong with it.

The other rooms say which key is to blame; only who read the file knows which file that was.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ..data.config import SPLITS, DataConfig
from ..data.problems import Problem
from ..durable import read_text
from ..errors import ConfigError
from ..toml_lines import Place, line_of, lines_of
from .config import FILE_LIMIT_BYTES, RunConfig

KEY = re.compile(r"\[?(?P<key>[a-z_]+(?:\.[a-z_]+)*)\]?(?P<rest> \(.*\))?")
"""`data.use`, `[data.train]`, `data.train.masks (masks/train)`."""


BY_CODE: dict[str, Place] = {
    "class-table": ("data", "classes"),
    "class-use": ("data", "use"),
    "class-merge": ("data", "merge"),
}
"""What a problem is about that names another file, where the setting does not fit to what that file holds."""


class Places:
    """The lines of one run.toml, and the paths that it names."""

    def __init__(self, source: Path, data: DataConfig | None = None) -> None:
        """`data` is what it says of the data, where that is in question."""
        self._source = source
        self._lines = _lines(source)
        self._named: defaultdict[Path, list[Place]] = defaultdict(list)
        for path, key in () if data is None else _paths(data, source.resolve().parent):
            self._named[path].append(key)
        self._written = {} if data is None else dict(_settings(data))

    def of(self, where: str | None) -> str | None:
        """`run.toml, line 5, data.use` for `data.use`; for a path that a setting names and that is no file, both.

        Anything else as it is: that place is no setting.
        """
        if where is None:
            return None
        found = KEY.fullmatch(where)
        if found is not None and found["key"].split(".")[0] in RunConfig.model_fields:
            return self._told(tuple(found["key"].split("."))) + (found["rest"] or "")
        path = Path(where)
        if path.is_absolute() and path in self._named and not path.is_file():
            keys = "; ".join(self.line(key) for key in self._named[path])
            return f"{where} ({self._source}, {keys})"
        return where

    def line(self, key: Place) -> str:
        """`line 5, data.use`; without the line where it is not known."""
        number = line_of(self._lines, key)
        return ("" if number is None else f"line {number}, ") + ".".join(map(str, key))

    def in_error(self, error: ConfigError) -> ConfigError:
        """The same error, with the place that a person can go to."""
        return type(error)(error.what, where=self.of(error.where), remedy=error.remedy)

    def in_problem(self, problem: Problem) -> Problem:
        """Likewise."""
        where = self.of(problem.where)
        if where == problem.where and problem.code in BY_CODE:
            told = self._told(BY_CODE[problem.code])
            where = told if where is None else f"{where} ({told})"
        return problem.model_copy(update={"where": where, "remedy": problem.remedy + self._from_here(problem.where)})

    def _from_here(self, where: str | None) -> str:
        """A hint, where a path leads to something from the current directory that it does not lead to from run.toml."""
        path = Path(where or "")
        keys = [] if path.exists() else self._named.get(path, [])
        if not any((Path.cwd() / self._written[key]).exists() for key in keys):
            return ""
        up = os.path.relpath(Path.cwd(), self._source.resolve().parent)
        return f"; paths are relative to run.toml, not to the current directory: root = {up!r} would lead there"

    def _told(self, key: Place) -> str:
        return f"{self._source}, {self.line(key)}"


def _lines(source: Path) -> dict[Place, int]:
    """None where the file is gone since it was read: an error is to be told, and is not hidden by another."""
    try:
        return lines_of(read_text(source, limit=FILE_LIMIT_BYTES, encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}


def _paths(data: DataConfig, base: Path) -> Iterator[tuple[Path, Place]]:
    """(absolute path, key) of every file and directory that `[data]` names."""
    root = (base / data.root).resolve()
    for key, path in _settings(data):
        yield root / path, key


def _settings(data: DataConfig) -> Iterator[tuple[Place, Path]]:
    """(key, path as it is written) of the same."""
    named: dict[Place, Path | None] = {("data", name): getattr(data, name) for name in ("classes", "images", "masks")}
    for split in SPLITS:
        table = data.table(split)
        for name in ("images", "masks", "list") if table is not None else ():
            named["data", split, name] = getattr(table, name)
    yield from ((key, path) for key, path in named.items() if path is not None)
