"""Which images were taken together: frames of one flight or video, tiles of one picture. By their names alone."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from pathlib import Path, PurePath
from statistics import median

from .config import SPLITS, DataConfig

GAP = 10
"""Times the median step between two frames, from which on another sequence begins."""
NUMBER = re.compile(r"\d+(\.\d+)?")
DATE = re.compile(r"(\d{4})[-_.]?(\d\d)[-_.]?(\d\d)[-_ T.]?(\d\d)[-_:.]?(\d\d)[-_:.]?(\d\d)(?:[-_.,]?(\d+))?")
COUNTER = re.compile(rf"(?:{DATE.pattern}|{NUMBER.pattern})$")
SPLIT_NAMES = frozenset({*SPLITS, "training", "valid", "validation", "testing"})
SEPARATORS = " ._-+("
SEPARATED = re.compile(r"[ ._+-]\D")


class Rule(StrEnum):
    """How it is known that images belong together."""

    PATTERN = "data.scene_pattern"
    DIRECTORY = "their directories"
    NAME = "their names"
    TIMES = "the gaps between their time stamps"


@dataclass(frozen=True)
class Scene:
    name: str
    rule: Rule


@dataclass(frozen=True)
class _Image:
    path: str
    stem: str


def scenes_of(config: DataConfig, root: Path, images: Mapping[str, Collection[str]]) -> dict[str, Scene]:
    """The scene of each image, by its path as given; `images` holds paths from `root`, by split.

    With `data.scene_pattern`, an image that it does not match is missing from the answer. Without it: the directory
    below `images`, unless that is the same for all; else the name without the number at its end; else, for names that
    are only a time or a number, the run of frames without a gap. The usual step is that within the splits, which may
    lie far apart from each other.
    """
    everything = sorted({path for paths in images.values() for path in paths})
    if config.scene_pattern is not None:
        return dict(_by_pattern(re.compile(config.scene_pattern), everything))
    directory = _directories(config, root, everything)
    if len(set(directory.values())) < 2:
        directory = dict.fromkeys(everything, "")
    found = {path: Scene(name, Rule.DIRECTORY) for path, name in directory.items() if name}
    rest = [_Image(path, stem) for path, stem in _stems(everything).items() if path not in found]
    named = {image.path: prefix for image in rest if (prefix := _without_counter(image.stem))}
    found |= {path: Scene(prefix, Rule.NAME) for path, prefix in named.items()}
    timed = {image.path: time for image in rest if image.path not in named and (time := _time(image.stem)) is not None}
    found |= _by_gaps(timed, [[path for path in paths if path in timed] for paths in images.values()])
    return {image.path: Scene(image.stem, Rule.NAME) for image in rest} | found  # what says nothing stands alone


def _by_pattern(pattern: re.Pattern[str], paths: list[str]) -> Iterator[tuple[str, Scene]]:
    for path in paths:
        found = pattern.search(PurePath(path).as_posix())
        name = found and (found[1] if pattern.groups else found[0])
        if name:
            yield path, Scene(name, Rule.PATTERN)


def _directories(config: DataConfig, root: Path, paths: list[str]) -> dict[str, str]:
    """Path -> its directory below the configured directory of images; empty for a file right in it.

    Directories that are called after a split say nothing about what was taken together.
    """
    tables = [config.table(name) for name in SPLITS]
    configured = [config.images, *(table.images for table in tables if table is not None)]
    patterns = sorted({_parts(root / path) for path in configured if path is not None}, key=len, reverse=True)
    below = {path: _below(_parts(root / path)[:-1], patterns) for path in paths}
    return {path: "/".join(part for part in parts if part.lower() not in SPLIT_NAMES) for path, parts in below.items()}


def _parts(path: Path) -> tuple[str, ...]:
    return PurePath(os.path.normpath(path)).parts


def _below(parents: tuple[str, ...], patterns: list[tuple[str, ...]]) -> tuple[str, ...]:
    for pattern in patterns:
        if len(pattern) <= len(parents) and all(map(_stands_for, pattern, parents)):
            stood_for = [parent for part, parent in zip(pattern, parents, strict=False) if part != parent]
            return (*stood_for, *parents[len(pattern) :])
    return parents


def _stands_for(part: str, name: str) -> bool:
    return part == name or ("*" in part and bool(re.fullmatch(".+".join(map(re.escape, part.split("*"))), name)))


def _stems(paths: list[str]) -> dict[str, str]:
    """Path -> stem, without what all of them end on: `aachen_000019_leftImg8bit` has its number in the middle."""
    stems = {path: PurePath(path).stem for path in paths}
    backwards = sorted(stem[::-1] for stem in stems.values())
    common = os.path.commonprefix(backwards)[::-1] if len(stems) > 1 else ""  # noqa: RUF071 - of letters, not of paths
    ending = common[found.start() :] if (found := SEPARATED.search(common)) else ""
    shortened = {path: stem.removesuffix(ending) for path, stem in stems.items()}
    return shortened if all(shortened.values()) else stems


def _without_counter(stem: str) -> str:
    """The name before the number or the date at its end."""
    found = COUNTER.search(stem)
    return (stem[: found.start()] if found else stem).rstrip(SEPARATORS)


def _time(stem: str) -> Decimal | None:
    """Seconds, or whatever the number counts; `None` for a name that is no number."""
    if found := DATE.fullmatch(stem):
        year, month, day, hour, minute, second = (int(field) for field in found.groups()[:-1])
        fraction = found.groups()[-1]
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)  # whatever the zone: only steps count
        except ValueError:  # sixty-one minutes: a long number that only looks like a date
            return _number(stem)
        return Decimal(int(moment.timestamp())) + Decimal(f"0.{fraction or 0}")
    return _number(stem)


def _number(stem: str) -> Decimal | None:
    return Decimal(stem) if NUMBER.fullmatch(stem) else None


def _by_gaps(times: dict[str, Decimal], splits: list[list[str]]) -> dict[str, Scene]:
    """Runs of frames of all splits together; the median step is that of frames within one split."""
    steps = [
        step
        for paths in splits
        for before, after in pairwise(sorted(times[path] for path in paths))
        if (step := after - before) > 0
    ]
    if not times:
        return {}
    longest = GAP * median(steps) if steps else Decimal(0)
    ordered = sorted(times, key=lambda path: (times[path], path))
    runs: defaultdict[int, list[str]] = defaultdict(list)
    run = 0
    for before, path in zip([None, *ordered], ordered, strict=False):
        if before is not None and times[path] - times[before] > longest:
            run += 1
        runs[run].append(path)
    return {path: Scene(_span(paths), Rule.TIMES) for paths in runs.values() for path in paths}


def _span(paths: list[str]) -> str:
    first, last = PurePath(paths[0]).stem, PurePath(paths[-1]).stem
    return first if first == last else f"{first} to {last}"
