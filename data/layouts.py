"""Finds out how a folder keeps its images and masks: which directories, which splits, which suffixes. By names alone.

A directory says what it holds by the words of its name (`masks`, `train_labels`, `interval5_CAM_label_id`), the nearest
one to the files counting most. Which directory of masks belongs to which of images is then tried out with `pairs`,
which is also what a run pairs with. Knows nothing about pixels, class tables or run.toml.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product, takewhile
from pathlib import Path
from string import digits
from typing import Literal

from ..errors import ConfigError
from .config import SPLITS
from .directories import find_files, require_text
from .pairs import IMAGE_SUFFIXES, MASK_NAME_SUFFIXES, MASK_SUFFIXES, Group, group_files

Role = Literal["images", "masks"]

IMAGE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "rgb", "photo", "photos", "picture", "pictures", "input", "inputs", "tile"}
    | {"tiles", "sat", "satellite", "cam", "frame", "frames", "jpeg", "source", "x"}
)
MASK_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "gt", "groundtruth", "truth", "annotation", "annotations", "ann", "anns"}
    | {"target", "targets", "segmentation", "seg", "y"}
)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHOWN_WORDS = frozenset({"color", "colors", "colour", "colours", "vis", "visual", "overlay", "overlays", "preview"})
"""Directories of pictures of masks: made to be looked at."""
NOT_DATA = frozenset({"runs", "node_modules", "site-packages", "__pycache__", "tensorboard", "checkpoints", "wandb"})
PICTURES = IMAGE_SUFFIXES | {".npy"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
DEEPEST = 8
"""Levels below the folder; a data set that nests deeper is not looked for."""
NAMES_SHOWN = 3
WORTH_A_SUFFIX = 0.5
"""Share of the masks that an unknown suffix has to pair."""


@dataclass(frozen=True)
class Layout:
    """Where the pairs are. Paths are relative to the folder."""

    splits: Mapping[str, tuple[Path, Path]]
    """By split: (images, masks). Empty where one directory holds everything."""
    everything: tuple[Path, Path] | None
    """(images, masks) of a folder without splits of its own."""
    pairs: Mapping[str, int]
    """By split, or under "all"."""
    mask_suffixes: tuple[str, ...] = ()
    """What `data.mask_suffixes` has to be; empty where the default serves."""
    other_masks: tuple[Path, ...] = ()
    """Further directories whose masks have the names of the same images; of several splits, one."""
    without_masks: tuple[str, ...] = ()
    """Splits that have images, and no mask for any of them."""

    @property
    def total(self) -> int:
        return sum(self.pairs.values())

    @property
    def in_words(self) -> str:
        """Such as `images/train and masks/train, images/val and masks/val`."""
        places = [self.everything] if self.everything else list(self.splits.values())
        return ", ".join(
            f"{images} (images and masks)" if images == masks else f"{images} and {masks}"
            for images, masks in (place for place in places if place is not None)
        )


@dataclass
class _Family:
    """Directories of one kind: the same path but for the word that names the split."""

    role: Role | None
    key: tuple[str, ...]
    splits: dict[str, Path] = field(default_factory=dict)
    """Split, or "all" -> the directory, with `*` where several names stand."""

    @property
    def words(self) -> list[str]:
        return [word for part in self.key for word in words_of(part)]

    @property
    def preference(self) -> tuple[int, int, str]:
        """What is plainest comes first: `masks` before `masks_id`, anything before `label_color`."""
        return sum(word in SHOWN_WORDS for word in self.words), len(self.words), "/".join(self.key)


@dataclass(frozen=True)
class _Match:
    images: _Family
    masks: _Family
    groups: dict[str, dict[str, Group]]
    """By split."""
    mask_suffixes: tuple[str, ...]

    @property
    def pairs(self) -> dict[str, int]:
        return {split: sum(group.is_pair for group in groups.values()) for split, groups in self.groups.items()}

    @property
    def total(self) -> int:
        return sum(self.pairs.values())

    @property
    def left_over(self) -> int:
        return sum(not group.is_pair for groups in self.groups.values() for group in groups.values())


def find_layout(folder: Path) -> Layout:
    """The layout that pairs most images of `folder` with masks. Raises ConfigError that says what was found instead."""
    directories = list(_directories(folder))
    if not directories:
        raise ConfigError(
            "no image here or below",
            where=folder,
            remedy=f"name the folder that holds the images and masks ({', '.join(sorted(IMAGE_SUFFIXES))})",
        )
    families = _families(directories)
    families += _starred(families)
    matches = [match for match in _matches(folder, families) if match.total]
    if not matches:
        raise _nothing_pairs(folder, families)
    best = min(
        matches, key=lambda match: (-match.total, match.masks.preference, match.left_over, match.images.preference)
    )
    return _layout(best, matches)


def words_of(name: str) -> list[str]:
    """`JPEGImages` -> jpeg, images; `train_masks2` -> train, masks, 2."""
    return [word.lower() for word in WORD.findall(name)]


# --- directories and what their names say


def _directories(folder: Path) -> Iterator[tuple[str, ...]]:
    """Every directory below `folder` that holds a picture, as the parts of its path. A run's own are left out."""
    seen: set[str] = set()
    for place, below, files in os.walk(folder, followlinks=True):
        parts = Path(place).relative_to(folder).parts
        real = os.path.realpath(place)
        if real in seen or len(parts) >= DEEPEST or "run.lock.toml" in files:
            below.clear()
            if real in seen or "run.lock.toml" in files:
                continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in NOT_DATA)
        pictures = [name for name in files if Path(name).suffix.lower() in PICTURES and not name.startswith(".")]
        for name in pictures:
            require_text("/".join((*parts, name)), folder)
        if pictures:
            yield parts


def _role_of(part: str) -> Role | None:
    words = set(words_of(part))
    if words & MASK_WORDS:
        return "masks"
    return "images" if words & IMAGE_WORDS else None


def _split_of(part: str) -> str | None:
    return next((SPLIT_WORDS[word] for word in words_of(part) if word in SPLIT_WORDS), None)


def _families(directories: Iterable[tuple[str, ...]]) -> list[_Family]:
    """Directories that are alike, with their splits; what lies below a telling name is only a sub-directory of it."""
    alike: defaultdict[tuple[Role | None, str, tuple[str, ...]], set[tuple[str, ...]]] = defaultdict(set)
    for parts in directories:
        telling = [place for place, part in enumerate(parts) if _role_of(part) or _split_of(part)]
        top = parts[: telling[-1] + 1] if telling else parts[:1]
        role = next((role for part in reversed(top) if (role := _role_of(part))), None)
        split = next((split for part in reversed(top) if (split := _split_of(part))), "all")
        shape = tuple(_without_split(part) if place in telling else "*" for place, part in enumerate(top))
        alike[role, split, shape].add(top)
    families: dict[tuple[Role | None, tuple[str, ...]], _Family] = {}
    for (role, split, shape), tops in sorted(alike.items(), key=lambda item: (str(item[0][0]), *item[0][1:])):
        family = families.setdefault((role, shape), _Family(role, shape))
        columns = zip(*tops, strict=True)
        names = [column[0] if len(set(column)) == 1 else "*" for column in columns]
        family.splits[split] = Path(*names)
    return list(families.values())


def _starred(families: Sequence[_Family]) -> list[_Family]:
    """Sister directories of one ending as one kind: `A_CAM` and `B_CAM` are `*_CAM` as well."""
    sisters: defaultdict[tuple[Role | None, Path, str], set[Path]] = defaultdict(set)
    for family in families:
        path = family.splits.get("all")
        if path is None or "*" in str(path) or family.role is None:
            continue
        for place, letter in enumerate(path.name):
            if letter == "_" and place:
                sisters[family.role, path.parent, path.name[place:]].add(path)
    return [
        _Family(role, (*parent.parts, ending), {"all": parent / f"*{ending}"})
        for (role, parent, ending), paths in sorted(sisters.items(), key=lambda item: item[0][1:])
        if len(paths) > 1
    ]


def _without_split(part: str) -> str:
    """The name without the word for its split, so that `train_masks` and `val_masks` are of one kind."""
    kept = [word for word in words_of(part) if word not in SPLIT_WORDS]
    return "_".join(kept) or "split"


# --- what belongs together


def _matches(folder: Path, families: Sequence[_Family]) -> Iterator[_Match]:
    """Every way to pair a kind of image directories with one of masks, then directories that hold both."""
    masks = [family for family in families if family.role == "masks"]
    for images in families:
        if images.role != "masks":
            yield from (match for other in masks if (match := _match(folder, images, other)))
    for family in families:
        if match := _match(folder, family, family):
            yield match


def _match(folder: Path, images: _Family, masks: _Family) -> _Match | None:
    shared = [split for split in images.splits if split in masks.splits]
    if not shared:
        return None
    suffixes = _suffixes(folder, images, masks, shared)
    groups: dict[str, dict[str, Group]] = {}
    for split in shared:
        try:
            groups[split] = group_files(
                folder / images.splits[split],
                folder / masks.splits[split],
                mask_suffixes=suffixes or MASK_NAME_SUFFIXES,
            )
        except ConfigError:  # no such files there, or nothing tells images and masks apart: then this is not the way
            continue
    return _Match(images, masks, groups, suffixes) if groups else None


def _suffixes(folder: Path, images: _Family, masks: _Family, splits: Sequence[str]) -> tuple[str, ...]:
    """`data.mask_suffixes` where most masks have another suffix than the usual ones; empty where these serve."""
    endings: Counter[str] = Counter()
    named = 0
    for split in splits:
        image_names = _names(folder / images.splits[split], IMAGE_SUFFIXES)
        named += len(image_names)
        for name in sorted(_names(folder / masks.splits[split], MASK_SUFFIXES)):
            usual = name.endswith(tuple(filter(None, MASK_NAME_SUFFIXES))) if images is masks else name in image_names
            if usual:
                endings[""] += 1
            else:
                endings.update(name[end:] for end in range(1, len(name)) if name[:end] in image_names)
    ending = min(endings, key=lambda ending: (-endings[ending], len(ending), ending), default="")
    number = endings[ending]
    known = ending in MASK_NAME_SUFFIXES or number < WORTH_A_SUFFIX * max(1, endings.total())
    # In one directory a picture is no mask for having a longer name: img_10 is not that of img_1.
    chance = images is masks and (2 * number < WORTH_A_SUFFIX * named or not any(map(str.isalpha, ending)))
    return () if known or chance else (*MASK_NAME_SUFFIXES, ending)


def _names(directory: Path, suffixes: Iterable[str]) -> set[str]:
    try:
        return {file.key for file in find_files(directory, frozenset(suffixes), "images")}
    except ConfigError:  # nothing of that kind
        return set()


def _layout(best: _Match, matches: Sequence[_Match]) -> Layout:
    paired = {split: number for split, number in best.pairs.items() if number}
    named = {split: number for split, number in paired.items() if split != "all"}
    held_out = {"val", "test"} & named.keys()
    others = {
        next(iter(match.masks.splits.values()))
        for match in matches
        if match.images is best.images and match.masks is not best.masks and match.total == best.total
    }

    splits: dict[str, tuple[Path, Path]]
    pairs: dict[str, int]

    def places(split: str) -> tuple[Path, Path]:
        return best.images.splits[split], best.masks.splits[split]

    if "train" in named and held_out:
        splits = {split: places(split) for split in SPLITS if split in named}
        everything, pairs = None, {split: named[split] for split in splits}
    else:
        largest = max(paired, key=lambda split: paired[split])
        splits, everything, pairs = {}, places(largest), {"all": paired[largest]}
    return Layout(
        splits=splits,
        everything=everything,
        pairs=pairs,
        mask_suffixes=best.mask_suffixes,
        other_masks=tuple(sorted(others)),
        without_masks=tuple(sorted(best.images.splits.keys() - paired.keys() - {"all"})),
    )


def _nothing_pairs(folder: Path, families: Sequence[_Family]) -> ConfigError:
    """Says what was found, with names, so that a person sees what does not match."""
    images = [family for family in families if family.role != "masks"]
    masks = [family for family in families if family.role == "masks"]
    seen = [f"{word}: {_examples(folder, kind)}" for word, kind in (("images", images), ("masks", masks)) if kind]
    named = any(set(words_of(Path(name).stem)) & MASK_WORDS for line in seen for name in line.split(", "))
    if not masks and not named:
        what = "images, and nothing that looks like masks"
        remedy = "put the masks into a directory called masks, or name them x_mask.png for x.jpg, in the same directory"
    elif masks and not images:
        what = "masks, and no images"
        remedy = "name the folder that holds both, with the images in a directory called images"
    else:
        what = "images and masks whose names do not belong together"
        remedy = _renaming(folder, images, masks) or (
            "a mask has the name of its image, or that name with a suffix: a.jpg and a.png, or a_gt.png; rename one "
            "kind, or write a run.toml with lists of `IMAGE MASK` lines (docs/data.md)"
        )
    return ConfigError("\n".join([what, *(f"    {line}" for line in seen)]), where=folder, remedy=remedy)


def _renaming(folder: Path, images: Sequence[_Family], masks: Sequence[_Family]) -> str | None:
    """What makes pairs of names that differ in how they begin: img_7.jpg and mask_7.png."""
    for pictures, marked in product(images, masks):
        for split in sorted(pictures.splits.keys() & marked.splits.keys()):
            image_names = _names(folder / pictures.splits[split], IMAGE_SUFFIXES)
            place = folder / marked.splits[split]
            mask_names = _names(place, MASK_SUFFIXES)
            old, new = _beginning(mask_names), _beginning(image_names)
            same = {name.removeprefix(old) for name in mask_names} & {name.removeprefix(new) for name in image_names}
            if old and 2 * len(same) > max(len(mask_names), len(image_names)) and "/" not in old + new + str(same):
                before, after = shlex.quote(old), shlex.quote(new)
                return (
                    f"a mask has the name of its image, and these begin with {old!r} instead of {new!r}; rename them: "
                    f"(cd {shlex.quote(str(place))} && "
                    f'for f in {before}*; do mv -n -- "$f" {after}"${{f#{before}}}"; done)'
                )
    return None


def _beginning(names: Collection[str]) -> str:
    """What all begin with, but for the digits of a number that begins alike: `img_` of img_10 and img_11."""
    first, last = min(names, default=""), max(names, default="")
    alike = takewhile(lambda letters: letters[0] == letters[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in alike).rstrip(digits)


def _examples(folder: Path, families: Sequence[_Family]) -> str:
    found: list[str] = []
    for family in families:
        for directory in family.splits.values():
            try:
                files = find_files(folder / directory, IMAGE_SUFFIXES | MASK_SUFFIXES, "images")
            except ConfigError:  # it vanished meanwhile
                continue
            found += [os.path.relpath(file.path, folder) for file in files[:NAMES_SHOWN]]
    return ", ".join(found[:NAMES_SHOWN]) + (", …" if len(found) > NAMES_SHOWN else "")
