"""What each file of a run held when the run began, and whether it still does.

Size and time tell at once that nothing changed; where they differ, the content decides. Knows nothing about pixels, and
nothing about what becomes of a run whose files changed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..durable import write_text
from ..errors import ConfigError
from ..section import Record
from .config import SPLITS
from .resolved import ResolvedData

FRESH_NS = 2_000_000_000
"""Two changes within this time may bear the same time stamp: the coarsest file system counts in steps of 2 s."""
LISTED = 50
"""Files that a refusal names one by one."""
THREADS = 16
REFUSED = "the data is not what it was when this run began"
"""How each refusal begins."""
_SCORED = "Scores from before and after would be of different data, and stand in one series as if they compared."
_TRAINED = "Epochs from before and after would have learned from different data, and no score could say from which."
_REMEDY = (
    "restore the files (a new time stamp or a fresh copy is fine: the content is what counts), and `{again}` "
    "goes on and scores what is missing;\n"
    "     or begin another run on the data as it is, with another --name: it trains from its first epoch, and this run "
    "keeps its own scores;\n"
    "     or go on with this run on the files as they are now, with `{again} --accept-data`: a new "
    "series of scores begins, which is compared with no earlier one"
)


class FrozenFile(Record):
    """One image or mask, as it was when it was read."""

    split: str
    path: str
    """Relative to the data's root."""
    size: int
    mtime_ns: int | None
    """`None` where it was written so shortly before it was read that a later change may bear the same time."""
    sha256: str

    @property
    def key(self) -> tuple[str, str]:
        return self.split, self.path


@dataclass(frozen=True)
class Change:
    """A file that does not hold what it held."""

    file: FrozenFile
    what: str


def freeze(path: Path, *, split: str, name: str) -> tuple[FrozenFile, bytes]:
    """The state of a file, and its content. Raises OSError."""
    stat = path.stat()  # before it is read: of a change in between, the old time is kept, and it is found out later
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FrozenFile(split=split, path=name, size=len(content), mtime_ns=_settled(stat), sha256=digest), content


def write_frozen(path: Path, files: Iterable[FrozenFile]) -> None:
    """A line for each file."""
    write_text(path, "".join(f"{file.model_dump_json()}\n" for file in files))


def read_frozen(path: Path) -> tuple[FrozenFile, ...]:
    """Raises ConfigError for a file that is not ours any more."""
    try:
        return tuple(FrozenFile.model_validate_json(line) for line in path.read_bytes().splitlines())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"cannot be read: {error}",
            where=path,
            remedy="remove it to go on without knowing whether the data changed since the run began",
        ) from error


def fingerprint(data: ResolvedData, split: str, files: Sequence[FrozenFile]) -> str:
    """Of a split as these files hold it: a copy, or another time stamp, leaves it as it is.

    Raises KeyError where the split has a file that is not among them.
    """
    return data.fingerprint(split, {file.path: file.sha256 for file in files if file.split == split})


def differences(before: Sequence[FrozenFile], after: Sequence[FrozenFile]) -> list[Change]:
    """What became of the files between two freezings: changed, gone, added; by split and path."""
    old, new = ({file.key: file for file in files} for files in (before, after))
    changed = [Change(new[key], "changed") for key in old.keys() & new.keys() if old[key].sha256 != new[key].sha256]
    gone = [Change(old[key], "gone") for key in old.keys() - new.keys()]
    added = [Change(new[key], "added") for key in new.keys() - old.keys()]
    return sorted([*changed, *gone, *added], key=lambda change: change.file.key)


def require_unchanged(
    root: Path,
    files: Sequence[FrozenFile],
    *,
    splits: Sequence[str] = SPLITS,
    where: Path | None = None,
    listed: int = LISTED,
    again: str = "segwatch run",
    told: Callable[[int], None] | None = None,
) -> tuple[FrozenFile, ...]:
    """`files` with the times that they bear now. `told` hears how many have to be read, before they are.

    `again` is the command that goes on with the run.
    Raises ConfigError with every file of `splits` that changed or is gone; `listed` of them are named.
    """
    now, changes = compare(root, [file for file in files if file.split in splits], told)
    if changes:
        raise ConfigError(_refusal(changes, listed), where=where, remedy=_REMEDY.format(again=again))
    return tuple(now.get(file.key, file) for file in files)


def compare(
    root: Path, files: Sequence[FrozenFile], told: Callable[[int], None] | None = None
) -> tuple[dict[tuple[str, str], FrozenFile], list[Change]]:
    """The files that only bear another time, with that time, by their key, and those that changed."""
    found = [_look(root, file) for file in files]
    changes = [change for change in found if isinstance(change, Change)]
    doubtful = [entry for entry in found if isinstance(entry, _Doubtful)]
    if doubtful and told is not None:
        told(len(doubtful))
    now: dict[tuple[str, str], FrozenFile] = {}
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0))), thread_name_prefix="compare") as pool:
        for entry, known in zip(doubtful, pool.map(lambda entry: entry.read(root), doubtful), strict=True):
            if isinstance(known, Change):
                changes.append(known)
            else:
                now[entry.file.key] = known
    return now, changes


@dataclass(frozen=True)
class _Doubtful:
    """Of the same size, with another time: only its content can tell."""

    file: FrozenFile
    mtime_ns: int | None
    """As it is now."""

    def read(self, root: Path) -> FrozenFile | Change:
        try:
            with (root / self.file.path).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            return _missing(self.file, error)
        if digest != self.file.sha256:
            return Change(self.file, "changed")
        return self.file.model_copy(update={"mtime_ns": self.mtime_ns})


def _look(root: Path, file: FrozenFile) -> _Doubtful | Change | None:
    """`None` for a file that is as it was, by its size and time."""
    try:
        stat = (root / file.path).stat()
    except OSError as error:
        return _missing(file, error)
    if stat.st_size != file.size:
        return Change(file, "changed")
    if stat.st_mtime_ns == file.mtime_ns:
        return None
    return _Doubtful(file, _settled(stat))


def _settled(stat: os.stat_result) -> int | None:
    return stat.st_mtime_ns if stat.st_mtime_ns < time.time_ns() - FRESH_NS else None


def _missing(file: FrozenFile, error: OSError) -> Change:
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    return Change(file, "gone" if gone else f"cannot be read: {error.strerror}")


def _refusal(changes: Sequence[Change], listed: int) -> str:
    by_split = {split: [change for change in changes if change.file.split == split] for split in SPLITS}
    counts = ", ".join(counted(split, found) for split, found in by_split.items() if found)
    shown = list(_lines(by_split.values()))
    lines = [f"{REFUSED}: {counts}", *shown[:listed]]
    if len(shown) > listed:
        lines.append(f"    and {len(shown) - listed} more")
    if by_split["val"] or by_split["test"]:
        lines.append(_SCORED)
    if by_split["train"]:
        lines.append(_TRAINED)
    return "\n".join(lines)


def counted(split: str, changes: Sequence[Change]) -> str:
    """Such as `2 files of test changed, 1 gone`."""
    whats = Counter("unreadable" if change.what.startswith("cannot") else change.what for change in changes)
    (first, number), *others = sorted(whats.items())
    told = f"{number} file{'' if number == 1 else 's'} of {split} {first}"
    return ", ".join([told, *(f"{count} {what}" for what, count in others)])


def _lines(groups: Iterable[Sequence[Change]]) -> Iterator[str]:
    for changes in groups:
        for change in sorted(changes, key=lambda change: change.file.path):
            yield f"    {change.file.split}: {change.file.path}: {change.what}"
