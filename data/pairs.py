"""Which image belongs to which mask, by their names alone. Knows nothing about what is in them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class Listing:
    """The files of one split; every path is absolute and every list sorted by stem."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    """(image, mask) of one stem."""
    images_alone: list[Path] = field(default_factory=list)
    masks_alone: list[Path] = field(default_factory=list)
    ambiguous: list[Path] = field(default_factory=list)
    """Files that share their stem with another of the same kind: nobody can say which one is meant."""


def list_pairs(images: Path, masks: Path) -> Listing:
    """Pair the files of two directories by stem. Raises ConfigError for a directory that is missing or empty.

    A stem loses its last suffix only, since a time stamp has a dot of its own: `1658137057.641204937.jpg`.
    """
    image_files = _by_stem(images, IMAGE_SUFFIXES, "images")
    mask_files = _by_stem(masks, MASK_SUFFIXES, "masks")
    twice = {stem for files in (image_files, mask_files) for stem, found in files.items() if len(found) > 1}
    both = sorted((image_files.keys() & mask_files.keys()) - twice)
    return Listing(
        pairs=[(image_files[stem][0], mask_files[stem][0]) for stem in both],
        images_alone=[image_files[stem][0] for stem in sorted(image_files.keys() - mask_files.keys() - twice)],
        masks_alone=[mask_files[stem][0] for stem in sorted(mask_files.keys() - image_files.keys() - twice)],
        ambiguous=sorted(
            path for files in (image_files, mask_files) for found in files.values() if len(found) > 1 for path in found
        ),
    )


def _by_stem(directory: Path, suffixes: frozenset[str], what: str) -> dict[str, list[Path]]:
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise ConfigError(
            f"cannot list the {what}: {error.strerror}", where=directory, remedy=f"set `{what}` and data.root to match"
        ) from error
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for entry in entries:
        # Dot files are what macOS and editors leave behind: `._tile.jpg` holds no picture.
        if entry.suffix.lower() in suffixes and not entry.name.startswith(".") and entry.is_file():
            found[entry.stem].append(entry)
    if not found:
        raise ConfigError(
            f"no {what} there", where=directory, remedy=f"segwatch looks for {', '.join(sorted(suffixes))}"
        )
    return found
