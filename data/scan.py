"""Lists and reads the files of all splits: what they hold, and which of them cannot be used. Judges nothing.

Every image and mask is decoded to its end, since a sound header also stands before a cut file. Each file is read once,
for its hash and for its pixels; decoding is what costs, and `readers` spreads it over all cores.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigError, SegwatchError
from ..plain import speakable
from .config import SPLITS, DataConfig
from .directories import why_no_file
from .effort import Effort
from .frozen import FrozenFile, freeze
from .masks import MaskFacts, MaskFormatError, describe_mask
from .pairs import Listing
from .rasters import TooDeepError, TooLargeError, TooManyBandsError, TurnedError, check_image, scaled_size
from .readers import Readers
from .resolved import Pair
from .splits import Listings, SplitShare, listings
from .unread import hashes_of, sizes_of

SMALLEST_SIDE = 32
"""Pixels after scaling. Five levels halve the side four times: below, the deepest one is a single pixel."""

Progress = Callable[[int, int], None]
Found = TypeVar("Found")


class Fault(StrEnum):
    IMAGE_ALONE = "image without mask"
    MASK_ALONE = "mask without image"
    AMBIGUOUS = "two files of one stem"
    SIZES_DIFFER = "image and mask of different size"
    EMPTY = "empty file"
    UNREADABLE = "cut short or unreadable"
    TURNED = "EXIF orientation"
    TOO_LARGE = "too large"
    TOO_DEEP = "image of more than 8 bits per channel"
    MANY_BANDS = "more bands than RGBA"
    NOT_A_MASK = "mask whose pixels are neither ids nor colours"
    TOO_SMALL = "too small after scaling"
    NAME = "name that is not UTF-8"


@dataclass(frozen=True)
class BadFile:
    fault: Fault
    path: str
    """Relative to the data's root."""
    reason: str
    remedy: str
    image: str | None = None
    """The image that cannot be used because of it, relative as well; `None` for a mask that has none."""


@dataclass(frozen=True)
class ReadPair:
    """An image and its mask that can be used."""

    pair: Pair
    facts: MaskFacts
    """Of the mask."""
    files: tuple[FrozenFile, FrozenFile]
    """Image and mask as they were read."""

    @property
    def image_hash(self) -> str:
        """Of the image file's bytes."""
        return self.files[0].sha256


@dataclass
class SplitScan:
    """What the usable pairs of a split hold, and the files that are not usable."""

    name: str
    read: list[ReadPair] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    unlisted: ConfigError | None = None
    """Why the files could not be listed at all."""
    asked: bool = True
    """False where nobody wants its pixels: then nothing of it is judged."""
    compared: dict[str, str] = field(default_factory=dict)
    """Of a split that is not asked for: image -> hash, as `unread` has it."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(entry.pair for entry in self.read)

    @property
    def lost(self) -> int:
        """How many images cannot be used: of a pair, both files may be bad; a mask alone loses none."""
        return len({file.image for file in self.bad if file.image is not None})

    @property
    def files(self) -> tuple[FrozenFile, ...]:
        return tuple(file for entry in self.read for file in entry.files)


@dataclass(frozen=True)
class Scan:
    splits: dict[str, SplitScan]
    shares: dict[str, SplitShare] = field(default_factory=dict)
    """How the splits were drawn; empty unless they were."""
    effort: Effort | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Task:
    split: str
    image: Path
    mask: Path


def scan_splits(
    config: DataConfig,
    root: Path,
    *,
    keep: frozenset[int] = frozenset(),
    progress: Progress | None = None,
    asked: Collection[str] = SPLITS,
) -> Scan:
    """Read all pairs of `asked`; `progress` hears (done, total), from this thread. `keep` are colours to count in any
    case. The images of other splits are only compared.

    Raises SegwatchError when the processes that read are killed.
    """
    listed = listings(config, root)
    scans = {name: _unread(name, listed, root) if name in asked else SplitScan(name, asked=False) for name in SPLITS}
    tasks = [
        _Task(name, image, mask)
        for name in SPLITS
        if name in listed.splits and name in asked
        for image, mask in listed.splits[name].pairs
    ]
    begun, held = time.monotonic(), 0
    with _pillow_silent(), Readers(__name__, _silence_pillow) as readers:
        read = partial(_read, root=root, scale=config.scale, keep=keep)
        try:
            for done, (task, found) in enumerate(zip(tasks, readers.map(read, tasks), strict=True), 1):
                scan = scans[task.split]
                held += _bytes_of(task, found)
                if isinstance(found, ReadPair):
                    scan.read.append(found)
                else:
                    scan.bad += found
                if progress is not None:
                    progress(done, len(tasks))
        except BrokenProcessPool as error:
            raise SegwatchError(
                "a process that reads the data was killed from outside, most likely for want of memory",
                where=root,
                remedy="free memory and try again; a file of many pixels needs a few bytes for each",
            ) from error
        effort = Effort(pairs=len(tasks), bytes=held, seconds=time.monotonic() - begun, readers=readers.kind)
    sizes = sizes_of(root, [pair.image for scan in scans.values() for pair in scan.pairs])
    for name in {*listed.splits} - {*asked}:
        scans[name].compared = hashes_of(listed.splits[name], root, sizes)
    return Scan(scans, listed.shares, effort)


def _unread(name: str, listed: Listings, root: Path) -> SplitScan:
    scan = SplitScan(name, unlisted=listed.unlisted.get(name))
    if name in listed.splits:
        scan.bad += _unpaired(listed.splits[name], root)
    return scan


def _unpaired(listing: Listing, root: Path) -> Iterator[BadFile]:
    for fault, paths, reason, remedy in (
        (Fault.IMAGE_ALONE, listing.images_alone, "no mask of this stem", "add the mask, or remove the image"),
        (Fault.MASK_ALONE, listing.masks_alone, "no image of this stem", "add the image, or remove the mask"),
        (Fault.AMBIGUOUS, listing.ambiguous, "another file has the same stem", "keep one file of each stem"),
    ):
        for path in paths:
            image = None if fault is Fault.MASK_ALONE else relative(listing.instead_of.get(path, path), root)
            yield BadFile(fault, relative(path, root), reason, remedy, image)


# --- one pair


def _read(task: _Task, *, root: Path, scale: float, keep: frozenset[int]) -> ReadPair | list[BadFile]:
    """What the pair holds, or what is wrong with both of its files. Runs in any process."""
    if nameless := [path for path in (task.image, task.mask) if relative(path, root) != os.path.relpath(path, root)]:
        return [_nameless(path, task, root) for path in nameless]
    bad: list[BadFile] = []
    image = _attempt(lambda: _read_image(task, root), task.image, root, bad)
    mask = _attempt(lambda: _read_mask(task, root, keep), task.mask, root, bad)
    if image is None or mask is None:
        return [replace(file, image=relative(task.image, root)) for file in bad]
    (size, image_file), (facts, mask_file) = image, mask
    pair = Pair(image=relative(task.image, root), mask=relative(task.mask, root))
    if misfit := _misfit(pair, size, facts.size, scale):
        return [misfit]
    return ReadPair(pair, facts, (image_file, mask_file))


def _nameless(path: Path, task: _Task, root: Path) -> BadFile:
    """Neither run.lock.toml nor a report could hold it."""
    return BadFile(Fault.NAME, relative(path, root), "its name is not UTF-8", "rename it", relative(task.image, root))


def _attempt(read: Callable[[], Found], path: Path, root: Path, bad: list[BadFile]) -> Found | None:
    try:
        return read()
    except ConfigError as error:
        bad.append(BadFile(_fault_of(error, path), relative(path, root), error.what, error.remedy or ""))
        return None


def _read_image(task: _Task, root: Path) -> tuple[tuple[int, int], FrozenFile]:
    """(height, width) and state of an image that decodes to its end; the file is read once."""
    frozen, content = _freeze(task.image, task.split, root)
    return check_image(task.image, content), frozen


def _read_mask(task: _Task, root: Path, keep: frozenset[int]) -> tuple[MaskFacts, FrozenFile]:
    frozen, content = _freeze(task.mask, task.split, root)
    return describe_mask(task.mask, keep, content), frozen


def _freeze(path: Path, split: str, root: Path) -> tuple[FrozenFile, bytes]:
    if why := why_no_file(path):
        raise ConfigError(why, where=path, remedy="restore it, or take it out")
    try:
        return freeze(path, split=split, name=relative(path, root))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path, remedy="restore the file") from error


def _misfit(pair: Pair, size: tuple[int, int], mask_size: tuple[int, int], scale: float) -> BadFile | None:
    """What is wrong with two sound files of these sizes together."""
    if size != mask_size:
        return BadFile(
            Fault.SIZES_DIFFER,
            pair.image,
            f"{_as_text(size)}, but its mask is {_as_text(mask_size)}",
            "export the mask at the size of its image; segwatch does not guess which one was resized",
            pair.image,
        )
    scaled = scaled_size(*size, scale)
    if min(scaled) < SMALLEST_SIDE:
        return BadFile(
            Fault.TOO_SMALL,
            pair.image,
            f"{_as_text(size)} becomes {_as_text(scaled)} at scale {scale:g}; {SMALLEST_SIDE} is the least",
            "raise data.scale, or take the file out",
            pair.image,
        )
    return None


def _fault_of(error: ConfigError, path: Path) -> Fault:
    match error:
        case MaskFormatError():
            return Fault.NOT_A_MASK
        case TurnedError():
            return Fault.TURNED
        case TooLargeError():
            return Fault.TOO_LARGE
        case TooDeepError():
            return Fault.TOO_DEEP
        case TooManyBandsError():
            return Fault.MANY_BANDS
        case _:
            return Fault.EMPTY if path.is_file() and path.stat().st_size == 0 else Fault.UNREADABLE


def relative(path: Path, root: Path) -> str:
    """From the data's root, with `..` where it lies elsewhere. Of a name that is not UTF-8, what can be printed."""
    return speakable(os.path.relpath(path, root))


def _as_text(size: tuple[int, ...]) -> str:
    height, width = size
    return f"{width}x{height}"


# --- all of them


def _bytes_of(task: _Task, found: ReadPair | list[BadFile]) -> int:
    if isinstance(found, ReadPair):
        return sum(file.size for file in found.files)
    return sum(path.stat().st_size for path in (task.image, task.mask) if path.is_file())


@contextmanager
def _pillow_silent() -> Iterator[None]:
    """What Pillow warns of is told by name in the audit. Entered before there are threads, and left after them."""
    with warnings.catch_warnings():
        _silence_pillow()
        yield


def _silence_pillow() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")
