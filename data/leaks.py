"""What val and test share with train: identical images, and frames of one scene. PURE: names and hashes in."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .config import SPLITS, DataConfig
from .problems import Problem
from .sequences import Rule, Scene, scenes_of

Hashes = Mapping[str, Mapping[str, str]]
"""By split: path of an image from the root -> hash of its bytes."""


@dataclass(frozen=True)
class Leaks:
    problems: tuple[Problem, ...] = ()
    """Warnings: training may go on, but what they say belongs beside every score."""
    identical: dict[str, int] = field(default_factory=dict)
    """How many images of val and of test are, byte for byte, images of train: `ResolvedData.leaked`."""


def find_leaks(config: DataConfig, root: Path, images: Hashes) -> Leaks:
    """`images` holds the usable images of every split; their masks do not matter."""
    by_hash = {name: _by_hash(images.get(name, {})) for name in SPLITS}
    return Leaks(
        problems=(*_between(by_hash), *_within(by_hash), *_sequences(config, root, images)),
        identical={
            name: sum(len(paths) for value, paths in by_hash[name].items() if value in by_hash["train"])
            for name in ("val", "test")
        },
    )


# --- identical files


def _by_hash(hashes: Mapping[str, str]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, value in sorted(hashes.items()):
        found[value].append(path)
    return found


def _between(by_hash: Mapping[str, Mapping[str, list[str]]]) -> Iterator[Problem]:
    for first, second in itertools.combinations(SPLITS, 2):
        shared = {value: paths for value, paths in by_hash[second].items() if value in by_hash[first]}
        if not shared:
            continue
        count = sum(map(len, shared.values()))
        of = sum(map(len, by_hash[second].values()))
        yield Problem(
            code="leak-identical",
            what=f"{count} of {of} images of {second} {_are(count)}, byte for byte, in {first} as well",
            where=f"[data.{second}]",
            remedy=_apart(first, second),
            files=tuple(
                sorted(
                    _same(path, by_hash[first][value][0], first) for value, paths in shared.items() for path in paths
                )
            ),
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _apart(first: str, second: str) -> str:
    if first == "train":
        return f"take them out of one of the two: a score on images that were trained on flatters {second}"
    return "take them out of one of the two: the epoch is then chosen on images that it is judged by"


def _same(path: str, other: str, split: str) -> str:
    return f"{path}: the same file is in {split}" if path == other else f"{path} = {other}"


def _within(by_hash: Mapping[str, Mapping[str, list[str]]]) -> Iterator[Problem]:
    for name, hashes in by_hash.items():
        repeated = [paths for paths in hashes.values() if len(paths) > 1]
        if repeated:
            extra = sum(len(paths) - 1 for paths in repeated)
            yield Problem(
                code="identical-images",
                what=f"{extra} images of {name} {_are(extra)} a byte-for-byte copy of another one there",
                where=f"[data.{name}]",
                remedy="copies count twice in the loss and in the score: remove them, unless that is meant",
                files=tuple(" = ".join(paths) for paths in sorted(repeated)),
            )


# --- frames of one scene


def _sequences(config: DataConfig, root: Path, images: Hashes) -> Iterator[Problem]:
    if config.split is not None and config.split.by == "scene":
        return  # whole scenes were drawn
    scenes = scenes_of(config, root, images)
    yield from _unmatched(config, images, scenes)
    frames: defaultdict[Scene, Counter[str]] = defaultdict(Counter)
    for name in SPLITS:
        for path in images.get(name, {}):
            if path in scenes:
                frames[scenes[path]][name] += 1
    torn = {scene: counts for scene, counts in frames.items() if counts["train"] and counts.total() > counts["train"]}
    if torn:
        yield _torn(config, torn, {name: len(images.get(name, {})) for name in SPLITS})


def _unmatched(config: DataConfig, images: Hashes, scenes: Mapping[str, Scene]) -> Iterator[Problem]:
    apart = sorted({path for name in SPLITS for path in images.get(name, {}) if path not in scenes})
    if config.scene_pattern is not None and apart:
        yield Problem(
            code="scene-pattern",
            what=f"data.scene_pattern is not found in the path of {len(apart)} images; of these nobody knows the scene",
            where="data.scene_pattern",
            remedy="widen the pattern until it names the scene of every image",
            files=tuple(apart),
        )


def _torn(config: DataConfig, torn: Mapping[Scene, Counter[str]], sizes: Mapping[str, int]) -> Problem:
    rules = sorted({scene.rule for scene in torn})
    shared = [
        f"{sum(counts[name] for counts in torn.values())} of {sizes[name]} {name} images"
        for name in ("val", "test")
        if any(counts[name] for counts in torn.values())
    ]
    certain = rules == [Rule.PATTERN]
    count = "1 scene" if len(torn) == 1 else f"{len(torn)} scenes"
    have = ("has" if len(torn) == 1 else "have") if certain else ("seems to have" if len(torn) == 1 else "seem to have")
    mend = 'split = { val = 0.1, test = 0.1, by = "scene" }'
    if config.split is not None:
        mend = 'by = "scene" in data.split'
    elif config.images is None:
        mend += " over one directory data.images"
    return Problem(
        code="leak-sequence",
        what=f"{count} {have} images in train and in val or test, by {' and '.join(rules)}: {' and '.join(shared)}",
        where="data.scene_pattern" if certain else "[data]",
        remedy="a score on frames of a video that was trained on, or on tiles that overlap those, flatters: "
        f"{mend} keeps scenes apart"
        + ("" if certain else '; if these are separate photos, scene_pattern = ".+" says so'),
        files=tuple(_counted(scene, counts) for scene, counts in sorted(torn.items(), key=lambda item: item[0].name)),
    )


def _counted(scene: Scene, counts: Counter[str]) -> str:
    return f"{scene.name}: " + ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
