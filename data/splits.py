"""Which pair of files belongs to which split: by directories, by lists, or drawn. Knows nothing about their pixels."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..section import Record
from .config import SPLITS, DataConfig, FractionsConfig, SplitConfig
from .name_lists import NameIndex, NameList, find_shared, read_list
from .pairs import Listing, group_files, list_pairs, listing_of
from .sequences import scenes_of

NAMES_TOLD = 5
OVERSHOOT = 2
"""How many times the images that a split asks for its first scene may have."""


class SplitShare(Record):
    """What one split got when the splits were drawn."""

    asked: float
    """Share of the images."""
    got: float
    """Share of the images: whole scenes seldom come out even."""
    images: int
    scenes: int | None
    """`None` where each image was drawn for itself."""


@dataclass(frozen=True)
class Listings:
    splits: dict[str, Listing] = field(default_factory=dict)
    """By name of the split; of one that could not be listed, what could, or nothing."""
    unlisted: dict[str, ConfigError] = field(default_factory=dict)
    """Why a split could not be listed, by its name; a fault of all splits is one object under each of their names."""
    shares: dict[str, SplitShare] = field(default_factory=dict)
    """Empty unless `data.split` drew the splits."""


def listings(config: DataConfig, root: Path) -> Listings:
    """The files of train, val and test, whichever way `[data]` names them; `root` is absolute. Raises no ConfigError.

    Where splits are drawn, files that belong to no pair are listed with train.
    """
    if config.split is not None:
        return _drawn(config, config.split, root)
    splits: dict[str, Listing] = {}
    unlisted: dict[str, ConfigError] = {}
    lists = _name_lists(config, root, unlisted)
    for name in SPLITS:
        splits[name] = Listing()
        if name in lists:  # wrong lines forbid training, and hide nothing about the files of the others
            splits[name] = listing_of(lists[name].groups)
            continue
        if name in unlisted:
            continue
        if config.table(name) is None:
            continue
        try:
            splits[name] = _listed(config, name, root)
        except ConfigError as error:
            unlisted[name] = error
    return Listings(splits, unlisted)


# --- directories


def _listed(config: DataConfig, name: str, root: Path) -> Listing:
    table = _table(config, name)
    images, masks = table.images or config.images, table.masks or config.masks
    assert images is not None  # DataConfig refuses a split without directories
    assert masks is not None
    others = [
        root / path
        for other in SPLITS
        if other != name
        if (table_ := config.table(other)) is not None
        for path in (table_.images, table_.masks)
        if path is not None
    ]
    return list_pairs(root / images, root / masks, mask_suffixes=config.mask_suffixes, apart=others)


def _table(config: DataConfig, name: str) -> SplitConfig:
    table = config.table(name)
    assert table is not None  # DataConfig asks for all three where nothing is drawn
    return table


# --- lists


def _name_lists(config: DataConfig, root: Path, unlisted: dict[str, ConfigError]) -> dict[str, NameList]:
    """What each list names; why one cannot be used goes to `unlisted`."""
    lists: dict[str, NameList] = {}
    indexes: dict[tuple[Path, Path], NameIndex] = {}
    for name in SPLITS:
        table = config.table(name)
        if table is None or table.list is None:
            continue
        try:
            index = _index(config, table, root, indexes)
            lists[name] = read_list(root / table.list, root, index)
        except ConfigError as error:
            unlisted[name] = error
    find_shared(lists)
    for name, names in lists.items():
        refusal = names.refusal()
        if refusal is not None:
            unlisted[name] = refusal
    return lists


def _index(
    config: DataConfig, table: SplitConfig, root: Path, indexes: dict[tuple[Path, Path], NameIndex]
) -> NameIndex | None:
    images, masks = table.images or config.images, table.masks or config.masks
    if images is None or masks is None:
        return None
    if (images, masks) not in indexes:  # three lists of one directory need not walk it three times
        groups = group_files(root / images, root / masks, mask_suffixes=config.mask_suffixes)
        indexes[images, masks] = NameIndex(groups, root)
    return indexes[images, masks]


# --- draws


def _drawn(config: DataConfig, split: FractionsConfig, root: Path) -> Listings:
    assert config.images is not None  # DataConfig asks for both
    assert config.masks is not None
    try:
        groups = group_files(root / config.images, root / config.masks, mask_suffixes=config.mask_suffixes)
        whole = {os.path.relpath(group.images[0].path, root): key for key, group in groups.items() if group.is_pair}
        units = _units(config, split, root, list(whole))
        drawn = draw(units, split)
    except ConfigError as error:
        return Listings(dict.fromkeys(SPLITS, Listing()), dict.fromkeys(SPLITS, error))
    keys = {name: {whole[path] for unit in drawn[name] for path in units[unit]} for name in SPLITS}
    paired = {key for taken in keys.values() for key in taken}
    keys["train"] |= groups.keys() - paired
    return Listings(
        splits={name: listing_of({key: groups[key] for key in sorted(keys[name])}) for name in SPLITS},
        shares=_shares(drawn, units, split),
    )


def _units(config: DataConfig, split: FractionsConfig, root: Path, images: Sequence[str]) -> dict[str, list[str]]:
    """What is drawn as a whole -> its images: scenes, or each image alone."""
    if split.by == "image":
        return {image: [image] for image in images}
    scenes = scenes_of(config, root, {"all": images})
    apart = [image for image in images if image not in scenes]
    if apart:
        more = f" and {len(apart) - NAMES_TOLD} more" if len(apart) > NAMES_TOLD else ""
        raise ConfigError(
            f"scene_pattern {config.scene_pattern!r} is not found in the path of {len(apart)} of {len(images)} images: "
            f"{', '.join(apart[:NAMES_TOLD])}{more}",
            where="data.scene_pattern",
            remedy="widen the pattern until it names a scene in every path from data.root",
        )
    units: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        units[scenes[image].name].append(image)
    return dict(units)


def draw(units: Mapping[str, Sequence[str]], split: FractionsConfig) -> dict[str, list[str]]:
    """Units of each split. Sorted, shuffled by the seed, then taken until a split is near to its share.

    The order in which `units` or a file system names them does not matter. Each split gets a unit at least. Raises
    ConfigError where there are too few.
    """
    if len(units) < len(SPLITS):
        raise _too_few(units, split)
    waiting = sorted(units)
    random.Random(f"split {split.seed}").shuffle(waiting)  # noqa: S311 - no secret hangs on it
    images = sum(map(len, units.values()))
    drawn: dict[str, list[str]] = {}
    for name, share, left_for in (("test", split.test, 2), ("val", split.val, 1)):
        drawn[name], waiting = _nearest(waiting, units, share * images, len(waiting) - left_for)
    return {"train": sorted(waiting), "val": sorted(drawn["val"]), "test": sorted(drawn["test"])}


def _nearest(
    waiting: Sequence[str], units: Mapping[str, Sequence[str]], wanted: float, most: int
) -> tuple[list[str], list[str]]:
    """(taken, left). Greedy: whatever still fits into `wanted` images, then one more where that comes nearer.

    The first may be up to twice as large as `wanted`: if only what fits were drawn, the smallest scenes would be the
    test set whatever the seed. One unit is taken at least and `most` at most.
    """
    taken: list[str] = []
    left: list[str] = []
    missing = wanted
    for unit in waiting:
        fits = len(units[unit]) <= (missing if taken else OVERSHOOT * wanted)
        if len(taken) < most and fits:
            taken.append(unit)
            missing -= len(units[unit])
        else:
            left.append(unit)
    nearest = min(left, key=lambda unit: abs(missing - len(units[unit])))
    if not taken or (len(taken) < most and abs(missing - len(units[nearest])) < missing):
        taken.append(nearest)
        left.remove(nearest)
    return taken, left


def _too_few(units: Mapping[str, Sequence[str]], split: FractionsConfig) -> ConfigError:
    images = sum(map(len, units.values()))
    if split.by == "image":
        return ConfigError(
            f"{images} images with masks cannot make 3 splits",
            where="data.split",
            remedy="check data.images and data.masks",
        )
    called = ", ".join(repr(name) for name in sorted(units))
    plural = "1 scene" if len(units) == 1 else f"{len(units)} scenes"
    return ConfigError(
        f"{plural} cannot make 3 splits: {called or 'no image has a mask'} ({images} images)",
        where="data.split",
        remedy='say with data.scene_pattern where scenes differ, or draw each image for itself: by = "image" '
        "(frames of one video are then in train and in test)",
    )


def _shares(
    drawn: Mapping[str, Sequence[str]], units: Mapping[str, Sequence[str]], split: FractionsConfig
) -> dict[str, SplitShare]:
    images = {name: sum(len(units[unit]) for unit in drawn[name]) for name in SPLITS}
    asked = {"train": 1 - split.val - split.test, "val": split.val, "test": split.test}
    return {
        name: SplitShare(
            asked=asked[name],
            got=images[name] / sum(images.values()),
            images=images[name],
            scenes=len(drawn[name]) if split.by == "scene" else None,
        )
        for name in SPLITS
    }
