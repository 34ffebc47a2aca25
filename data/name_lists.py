"""Text files that name the images of a split, one a line. Knows nothing about what is in the images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import ConfigError
from ..nearby import did_you_mean, nearest_beside
from .directories import FoundFile, normal
from .pairs import Group

MISTAKES_TOLD = 20
ONCE = "name each image once, in one list"
REMEDY = (
    "a line is an image's stem, its file name, its path below `images`, from data.root, from the list or in full; "
    "or `IMAGE MASK`, both as such paths"
)


@dataclass(frozen=True)
class Line:
    number: int
    text: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.text!r}"


@dataclass
class NameList:
    """What a list means, and which of its lines mean nothing."""

    path: Path
    groups: dict[str, Group] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    """Where each image stands, by its real path."""
    mistakes: list[str] = field(default_factory=list)
    meaningless: bool = False
    """Whether a line names no image, or several; without it, whatever is wrong is named too often."""

    def enter(self, line: Line, key: str, group: Group) -> None:
        real = [os.path.realpath(image.path) for image in group.images]
        earlier = next((self.lines[path] for path in real if path in self.lines), None)
        if earlier is not None:
            self.mistakes.append(f"{line} is named on line {earlier.number} already")
            return
        self.groups[key] = group
        self.lines.update(dict.fromkeys(real, line))

    def leave_out(self, image: str) -> None:
        """Drop the group of an image that is given by its real path; its line stays known."""
        for key, group in list(self.groups.items()):
            if any(os.path.realpath(found.path) == image for found in group.images):
                del self.groups[key]

    def refusal(self) -> ConfigError | None:
        """Everything that is wrong with the list."""
        if not self.mistakes and not self.groups:
            return ConfigError("the list names no image", where=self.path, remedy=REMEDY)
        if not self.mistakes:
            return None
        told = [f"  {mistake}" for mistake in self.mistakes[:MISTAKES_TOLD]]
        if len(self.mistakes) > MISTAKES_TOLD:
            told.append(f"  and {len(self.mistakes) - MISTAKES_TOLD} more")
        plural = "1 line is" if len(self.mistakes) == 1 else f"{len(self.mistakes)} lines are"
        return ConfigError(
            "\n".join([f"{plural} wrong:", *told]), where=self.path, remedy=REMEDY if self.meaningless else ONCE
        )


def places(text: str, root: Path, beside: Path) -> Iterator[Path]:
    """Where a path in a list may lead that somebody else wrote: from the root, from the list's own directory `beside`,
    absolute, or from the root though it begins with a slash; with the slashes of Windows as well.
    """
    for way in dict.fromkeys((text, text.replace("\\", "/"))):
        yield root / way
        yield beside / way
        if way.startswith("/"):
            yield root / way.lstrip("/")


class NameIndex:
    """The images below the configured directory, by everything that a line may call them."""

    def __init__(self, groups: Mapping[str, Group], root: Path) -> None:
        self._root = root
        self._groups = groups
        self._full: dict[str, str] = {}
        self._short: defaultdict[str, set[str]] = defaultdict(set)
        for key, group in groups.items():
            for image in group.images:
                self._full |= dict.fromkeys((key, image.name, normal(os.path.relpath(image.path, root))), key)
                for name in (key, image.name):
                    self._short[name.rpartition("/")[2]].add(key)

    @cached_property
    def _real(self) -> dict[str, str]:
        """Real path -> key. Only lists in which some line is no name of an image need it."""
        return {os.path.realpath(image.path): key for key, group in self._groups.items() for image in group.images}

    def find(self, text: str, beside: Path) -> list[str]:
        """Keys of the images that `text` may mean: one, none, or several of one name in different directories.

        `beside` is the directory of the list, which a path may be relative to.
        """
        for name in (normal(text).removeprefix("./"), os.path.normpath(normal(text).replace("\\", "/"))):
            if name in self._full:
                return [self._full[name]]
            if name in self._short:
                return sorted(self._short[name])
        real = (os.path.realpath(place) for place in places(text, self._root, beside))
        return next(([self._real[path]] for path in real if path in self._real), [])

    def group(self, key: str) -> Group:
        return self._groups[key]


def read_list(path: Path, root: Path, index: NameIndex | None) -> NameList:
    """Read a list; without an `index`, because there is no directory of images, every line must name both files.

    Blank lines and lines that begin with # are skipped, and so is what follows ` #` behind a name. Raises ConfigError
    for a file that cannot be read; wrong lines are in `mistakes`.
    """
    found = NameList(path)
    for line in _lines(path):
        key_and_group = _from_name(line, path.parent, index) or _from_two_columns(
            line, root, path.parent, listed=index is not None
        )
        match key_and_group:
            case str() as mistake:
                found.mistakes.append(f"{line}: {mistake}")
                found.meaningless = True
            case (key, group):
                found.enter(line, key, group)
    return found


def find_shared(lists: Mapping[str, NameList]) -> None:
    """Take from each list, and add to its mistakes, the images that an earlier one names as well."""
    owner: dict[str, tuple[NameList, Line]] = {}
    for names in lists.values():
        for image, line in names.lines.items():
            if image in owner:
                other, elsewhere = owner[image]
                names.mistakes.append(f"{line} is in {other.path.name} as well, on line {elsewhere.number}")
                names.leave_out(image)
        for image, line in names.lines.items():
            owner.setdefault(image, (names, line))


def _lines(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot read the list: {error.strerror}",
            where=path,
            remedy=f"{did_you_mean(nearest_beside(path), after=' else ')}check data.root and the `list` of the split",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the list is no UTF-8 text", where=path, remedy=REMEDY) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield Line(number, line.strip())


def _from_name(line: Line, beside: Path, index: NameIndex | None) -> tuple[str, Group] | str | None:
    """The image of that name, what is wrong with the name, or `None` where the line may be something else."""
    if index is None:
        return None
    for text in _uncommented(line.text):
        keys = index.find(text, beside)
        if len(keys) > 1:
            return f"several images have this name: {', '.join(keys)}"
        if keys:
            return keys[0], index.group(keys[0])
    return None


def _from_two_columns(line: Line, root: Path, beside: Path, *, listed: bool) -> tuple[str, Group] | str:
    """Names may hold blanks: the line is cut where both halves are files. `listed`: a name alone could be an image."""
    for text in _uncommented(line.text):
        words = text.split()
        for cut in range(1, len(words)):
            left, right = (_there(part, root, beside) for part in _cut(text, cut))
            if left is not None and right is not None:
                return str(left), Group([_file(left)], [_file(right)])
    return _why_nothing(_uncommented(line.text)[-1], root, beside, listed=listed)


def _why_nothing(text: str, root: Path, beside: Path, *, listed: bool) -> str:
    if listed and _there(text, root, beside) is not None:
        return "it exists, but outside data.images"
    image, comma, mask = text.partition(",")
    if comma and any(_there(part.strip(), root, beside) is not None for part in (image, mask)):
        return "image and mask are parted by a blank or a tab, not by a comma"
    words = text.split()
    if len(words) == 2:
        absent = [word for word in words if _there(word, root, beside) is None]
        if len(absent) == 1:
            return f"{absent[0]} is not there"
    return "no image of this name" if len(words) == 1 else "neither an image nor an image and a mask of this name"


def _there(text: str, root: Path, beside: Path) -> Path | None:
    """The file that a path of a list leads to, in its plainest spelling."""
    found = next((place for place in places(text, root, beside) if place.is_file()), None)
    return None if found is None else Path(os.path.normpath(found))


def _uncommented(text: str) -> list[str]:
    """A name may hold a #, so that the whole line is tried first."""
    bare = text.partition(" #")[0].rstrip()
    return [text] if bare == text else [text, bare]


def _cut(text: str, words: int) -> tuple[str, str]:
    """`text` in two, before its word number `words`."""
    rest = text.split(maxsplit=words)[words]
    return text[: len(text) - len(rest)].rstrip(), rest


def _file(path: Path) -> FoundFile:
    return FoundFile(path, str(path.with_name(path.stem)))
