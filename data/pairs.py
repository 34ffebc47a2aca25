"""Which image belongs to which mask, by their names alone. Knows nothing about what is in them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from .directories import FoundFile, directories_of, find_files

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy", ".jpg", ".jpeg", ".bmp"})
"""JPEG holds no masks that segwatch reads; it is listed so that it can be refused by name."""
MASK_NAME_SUFFIXES = ("", "_mask", "_label")
"""What a mask's stem may have behind its image's, unless `data.mask_suffixes` says otherwise."""


@dataclass(frozen=True)
class Listing:
    """The files of one split; every path is absolute and every list sorted by name."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    """(image, mask) of one name."""
    images_alone: list[Path] = field(default_factory=list)
    masks_alone: list[Path] = field(default_factory=list)
    ambiguous: list[Path] = field(default_factory=list)
    """Files that share their name with another of the same kind: nobody can say which one is meant."""
    instead_of: dict[Path, Path] = field(default_factory=dict)
    """Ambiguous file -> the first image of its name: several files, and one image that is lost."""


@dataclass
class Group:
    """The images and masks of one name; a sound one has one of each."""

    images: list[FoundFile] = field(default_factory=list)
    masks: list[FoundFile] = field(default_factory=list)

    @property
    def is_pair(self) -> bool:
        return len(self.images) == len(self.masks) == 1


def list_pairs(
    images: Path,
    masks: Path,
    *,
    mask_suffixes: Sequence[str] = MASK_NAME_SUFFIXES,
    apart: Collection[Path] = (),
) -> Listing:
    """Pair the files of two directories by name. Raises ConfigError for a directory that is missing or empty.

    See `group_files` for what belongs together.
    """
    return listing_of(group_files(images, masks, mask_suffixes=mask_suffixes, apart=apart))


def group_files(
    images: Path,
    masks: Path,
    *,
    mask_suffixes: Sequence[str] = MASK_NAME_SUFFIXES,
    apart: Collection[Path] = (),
) -> dict[str, Group]:
    """Images and masks by name (sub-directories, what each `*` of the path stood for, stem), in its order.

    `x_mask.png` belongs to the image x, unless there is an image x_mask. One directory may hold both, where the
    suffixes tell them apart; a directory of masks inside that of the images holds no images, nor does one of `apart`.
    Raises ConfigError for a directory that is missing or empty.
    """
    image_beds, mask_beds = directories_of(images, "images"), directories_of(masks, "masks")
    if {os.path.realpath(bed) for bed, _ in image_beds} == {os.path.realpath(bed) for bed, _ in mask_beds}:
        everything = find_files(images, IMAGE_SUFFIXES | MASK_SUFFIXES, "images", apart=apart)
        return _grouped(*_told_apart(everything, mask_suffixes, images), mask_suffixes)
    image_files = find_files(images, IMAGE_SUFFIXES, "images", apart=[*apart, *(bed for bed, _ in mask_beds)])
    mask_files = find_files(masks, MASK_SUFFIXES, "masks", apart=[*apart, *(bed for bed, _ in image_beds)])
    return _grouped(image_files, mask_files, mask_suffixes)


def listing_of(groups: dict[str, Group]) -> Listing:
    """What can be used of these, and what cannot."""
    listing = Listing()
    for _, group in sorted(groups.items()):
        if group.is_pair:
            listing.pairs.append((group.images[0].path, group.masks[0].path))
        elif not group.images:
            listing.masks_alone.extend(mask.path for mask in group.masks)
        elif len(group.images) == 1 and not group.masks:
            listing.images_alone.append(group.images[0].path)
        else:
            several = [file.path for files in (group.images, group.masks) for file in _several(files)]
            listing.ambiguous.extend(several)
            listing.instead_of.update(dict.fromkeys(several, group.images[0].path))
    return listing


def _several(files: list[FoundFile]) -> list[FoundFile]:
    return files if len(files) > 1 else []


def _grouped(images: Iterable[FoundFile], masks: Iterable[FoundFile], mask_suffixes: Sequence[str]) -> dict[str, Group]:
    groups: defaultdict[str, Group] = defaultdict(Group)
    for image in images:
        groups[image.key].images.append(image)
    names = frozenset(groups)
    for mask in masks:
        groups[_image_of(mask, names, mask_suffixes)].masks.append(mask)
    return dict(sorted(groups.items()))


def _image_of(mask: FoundFile, images: Collection[str], mask_suffixes: Sequence[str]) -> str:
    """The name of the image that a mask belongs to; its own path, which is no image's name, where there is none."""
    names = [mask.key] if "" in mask_suffixes else []
    names += _without_suffix(mask, mask_suffixes)
    return next((name for name in names if name in images), str(mask.path))


def _without_suffix(mask: FoundFile, mask_suffixes: Sequence[str]) -> Iterator[str]:
    """The longest suffix first: where `_mask` and `_road_mask` are known, it says more."""
    for suffix in sorted(filter(None, mask_suffixes), key=len, reverse=True):
        if mask.key.rpartition("/")[2].removesuffix(suffix) not in ("", mask.key.rpartition("/")[2]):
            yield mask.key.removesuffix(suffix)


def _told_apart(
    files: list[FoundFile], mask_suffixes: Sequence[str], directory: Path
) -> tuple[list[FoundFile], list[FoundFile]]:
    """(images, masks) of one directory: a mask is what has a suffix, or what no image can be."""
    is_mask = {file: file.path.suffix.lower() == ".npy" or any(_without_suffix(file, mask_suffixes)) for file in files}
    masks = [file for file in files if is_mask[file]]
    images = [file for file in files if not is_mask[file] and file.path.suffix.lower() in IMAGE_SUFFIXES]
    if not masks or not images:
        known = ", ".join(repr(suffix) for suffix in mask_suffixes if suffix) or "none"
        raise ConfigError(
            f"images and masks are in one directory, and no name says which is a mask (suffixes: {known})",
            where=directory,
            remedy="keep masks in a directory of their own, or name them x_mask.png for x.jpg; see data.mask_suffixes",
        )
    return images, masks
