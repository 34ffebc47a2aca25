"""Lists and reads the files of one split: what pixels they hold, and which of them cannot be used. Judges nothing."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from PIL import Image

from ..errors import ConfigError
from .cache import available_cores
from .config import DataConfig
from .pairs import Listing, list_pairs
from .rasters import MaskFormatError, check_image, read_mask, scaled_size
from .resolved import Pair

SMALLEST_SIDE = 32
"""Pixels after scaling. Five levels halve the side four times: below, the deepest one is a single pixel."""
EXAMPLES = 5


class Fault(StrEnum):
    IMAGE_ALONE = "image without mask"
    MASK_ALONE = "mask without image"
    AMBIGUOUS = "two files of one stem"
    SIZES_DIFFER = "image and mask of different size"
    UNREADABLE = "unreadable"
    NOT_IDS = "mask that holds no class ids"
    TOO_SMALL = "too small after scaling"


@dataclass(frozen=True)
class BadFile:
    fault: Fault
    path: str
    """Relative to the data's root."""
    reason: str
    remedy: str


@dataclass
class SplitScan:
    """What the usable pairs of a split hold, and the files that are not usable."""

    name: str
    pairs: list[Pair] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    """By id, at full resolution."""
    masks: Counter[int] = field(default_factory=Counter)
    """By id: how many masks hold it."""
    examples: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By id: the first few masks that hold it."""
    bad: list[BadFile] = field(default_factory=list)
    unlisted: ConfigError | None = None
    """Why the directories could not be listed at all."""


@dataclass(frozen=True)
class _Task:
    scan: SplitScan
    image: Path
    mask: Path


def scan_splits(
    config: DataConfig, root: Path, names: tuple[str, ...], progress: Callable[[int, int], None] | None
) -> dict[str, SplitScan]:
    """Scan these splits in one thread pool; `progress` hears (done, total) of all pairs, from this thread."""
    scans = {name: SplitScan(name) for name in names}
    tasks = [task for scan in scans.values() for task in _listed(config, root, scan)]

    def read(task: _Task) -> dict[int, int] | BadFile:
        return _read(task, root, config.scale)

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="audit") as pool:
        for done, (task, found) in enumerate(zip(tasks, pool.map(read, tasks), strict=True), start=1):
            _enter(task, found, root)
            if progress is not None:
                progress(done, len(tasks))
    return scans


def _listed(config: DataConfig, root: Path, scan: SplitScan) -> Iterator[_Task]:
    split = config.split(scan.name)
    try:
        listing = list_pairs(root / split.images, root / split.masks)
    except ConfigError as error:
        scan.unlisted = error
        return
    scan.bad += _unpaired(listing, root)
    for image, mask in listing.pairs:
        yield _Task(scan, image, mask)


def _unpaired(listing: Listing, root: Path) -> Iterator[BadFile]:
    for fault, paths, reason, remedy in (
        (Fault.IMAGE_ALONE, listing.images_alone, "no mask of this stem", "add the mask, or remove the image"),
        (Fault.MASK_ALONE, listing.masks_alone, "no image of this stem", "add the image, or remove the mask"),
        (Fault.AMBIGUOUS, listing.ambiguous, "another file has the same stem", "keep one file of each stem"),
    ):
        for path in paths:
            yield BadFile(fault, relative(path, root), reason, remedy)


def _read(task: _Task, root: Path, scale: float) -> dict[int, int] | BadFile:
    """Pixels by id, or what is wrong with either file."""
    try:
        size = check_image(task.image)
        ids = read_mask(task.mask)
    except ConfigError as error:
        fault = Fault.NOT_IDS if isinstance(error, MaskFormatError) else Fault.UNREADABLE
        return BadFile(fault, relative(Path(error.where or task.mask), root), error.what, error.remedy or "")
    if size != ids.shape:
        return BadFile(
            Fault.SIZES_DIFFER,
            relative(task.image, root),
            f"{_as_text(size)}, but its mask is {_as_text(ids.shape)}",
            "export the mask at the size of its image; segwatch does not guess which one was resized",
        )
    scaled = scaled_size(*size, scale)
    if min(scaled) < SMALLEST_SIDE:
        return BadFile(
            Fault.TOO_SMALL,
            relative(task.image, root),
            f"{_as_text(size)} becomes {_as_text(scaled)} at scale {scale:g}; {SMALLEST_SIDE} is the least",
            "raise data.scale, or take the file out",
        )
    # Five times as fast as numpy's bincount on a large mask, and it lets the other threads run.
    return {value: count for value, count in enumerate(Image.fromarray(ids).histogram()) if count}


def _enter(task: _Task, found: dict[int, int] | BadFile, root: Path) -> None:
    scan = task.scan
    if isinstance(found, BadFile):
        scan.bad.append(found)
        return
    mask = relative(task.mask, root)
    scan.pairs.append(Pair(image=relative(task.image, root), mask=mask))
    scan.pixels.update(found)
    scan.masks.update(found.keys())
    for value in found:
        if len(scan.examples[value]) < EXAMPLES:
            scan.examples[value].append(mask)


def relative(path: Path, root: Path) -> str:
    """From the data's root, with `..` where it lies elsewhere."""
    return os.path.relpath(path, root)


def _as_text(size: tuple[int, ...]) -> str:
    height, width = size
    return f"{width}x{height}"
