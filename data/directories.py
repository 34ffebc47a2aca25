"""Finds the files of a directory by their suffixes, sub-directories and `*` included. Knows nothing about pairs."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..nearby import did_you_mean, nearest_beside
from ..plain import legible

Bed = tuple[Path, tuple[str, ...]]
"""A directory, and what each `*` on the way to it stood for."""


@dataclass(frozen=True)
class FoundFile:
    path: Path
    """Absolute."""
    key: str
    """What the `*` stood for, the sub-directories and the stem: `AMtown02/1658137057.641204937`.

    A stem loses its last suffix only, since a time stamp has a dot of its own.
    """

    @property
    def name(self) -> str:
        """The key with the file's suffix."""
        return self.key + self.path.suffix


def find_files(pattern: Path, suffixes: Collection[str], what: str, *, apart: Collection[Path] = ()) -> list[FoundFile]:
    """The files below `pattern`, sorted by key; `what` they are is only for messages.

    A `*` in the path stands for any name of a directory. Hidden files and directories, and the directories `apart`, are
    left out. Raises ConfigError for a directory that is missing or that holds no such file.
    """
    beds = directories_of(pattern, what)
    own = {_resolved(bed) for bed, _ in beds}
    elsewhere = {_resolved(path) for path in apart} - own
    found = [file for bed, stood_for in beds for file in _below(bed, stood_for, suffixes, what, elsewhere)]
    if not found:
        raise ConfigError(f"no {what} there", where=pattern, remedy=f"segwatch looks for {', '.join(sorted(suffixes))}")
    return sorted(found, key=lambda file: (file.key, file.path))


def directories_of(pattern: Path, what: str) -> list[Bed]:
    """The directories that a path with `*` stands for. Raises ConfigError where there is none."""
    beds: list[Bed] = [(Path(pattern.anchor), ())]
    for part in pattern.parts[1:] if pattern.anchor else pattern.parts:
        beds = [further for bed in beds for further in _step(bed, part, pattern, what)]
    starred = any(stood_for for _, stood_for in beds)
    present = [(bed, stood_for) for bed, stood_for in beds if not starred or bed.is_dir()]
    if not present:
        raise ConfigError(
            f"no directory of {what} matches the pattern", where=pattern, remedy=f"set `{what}` and data.root to match"
        )
    return present


def _step(bed: Bed, part: str, pattern: Path, what: str) -> Iterator[Bed]:
    directory, stood_for = bed
    if "*" not in part or (directory / part).exists():
        yield directory / part, stood_for
        return
    if "**" in part:
        raise ConfigError(
            "one * stands for one directory, ** for nothing",
            where=pattern,
            remedy=f"end `{what}` before it: sub-directories are searched anyway",
        )
    matches = re.compile("(.+)".join(re.escape(fixed) for fixed in part.split("*")))
    for entry in _entries(directory, what) if directory.is_dir() else ():
        found = matches.fullmatch(entry.name)
        if found and entry.is_dir() and not entry.name.startswith("."):
            yield directory / entry.name, (*stood_for, *found.groups())


def _below(
    bed: Path, stood_for: tuple[str, ...], suffixes: Collection[str], what: str, elsewhere: set[str]
) -> Iterator[FoundFile]:
    waiting: list[Bed] = [(bed, stood_for)]
    seen: set[str] = set()
    while waiting:
        directory, parents = waiting.pop()
        real = _resolved(directory)
        if real in seen or real in elsewhere:  # a link may lead back to where it stands
            continue
        seen.add(real)
        for entry in _entries(directory, what):
            # Dot files are what macOS and editors leave behind: `._tile.jpg` holds no picture.
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((directory / entry.name, (*parents, entry.name)))
            elif Path(entry.name).suffix.lower() in suffixes:  # also what is no file: it is told of, not passed over
                yield FoundFile(directory / entry.name, normal("/".join((*parents, Path(entry.name).stem))))


def require_text(name: str, place: Path) -> None:
    """Raises ConfigError for a name that is no UTF-8: no run.toml and no record of a run can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"a name holds bytes that are no UTF-8: {legible(name)}",
            where=legible(str(place)),
            remedy="rename it; `convmv -f latin1 -t utf8 -r --notest DIR` does it for many",
        ) from error


def why_no_file(path: Path) -> str:
    """In words, what stands in the place of a file; empty where there is one, or nothing. A pipe would never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link that leads to no file" if path.is_symlink() else ""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "no file but a pipe, a socket or a device"


def normal(name: str) -> str:
    """One spelling of the letters that some file systems compose and others take apart (NFC)."""
    return unicodedata.normalize("NFC", name)


def _entries(directory: Path, what: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"cannot list the {what}: {error.strerror}",
            where=directory,
            remedy=f"{did_you_mean(nearest_beside(directory), after=' else ')}set `{what}` and data.root to match",
        ) from error


def _resolved(path: Path) -> str:
    return os.path.realpath(path)
