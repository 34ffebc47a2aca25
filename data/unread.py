"""What a split that nobody reads shares with those that are read: names, and hashes where two files are of one size.

For scoring a foreign checkpoint: the training images matter only as what val and test must not hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from ..plain import speakable
from .pairs import Listing


def hashes_of(listing: Listing, root: Path, sizes: Collection[int]) -> dict[str, str]:
    """Path of each image from `root` -> hash of its bytes; its own path where no file of `sizes` can be the same.

    A file that cannot be read is not the same as any other.
    """
    wanted = frozenset(sizes)
    return {speakable(os.path.relpath(image, root)): _hash(image, wanted) for image, _ in listing.pairs}


def sizes_of(root: Path, images: Collection[str]) -> set[int]:
    """Bytes of the files; those that are gone by now have none."""
    return {size for image in images if (size := _size(root / image)) is not None}


def _hash(image: Path, sizes: frozenset[int]) -> str:
    if _size(image) not in sizes:
        return str(image)
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return str(image)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
