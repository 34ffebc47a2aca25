"""A quick look at the data of a run.toml: how many images, how large, how many classes. Reads headers, not pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.classes import load_class_table
from ..data.config import SPLITS
from ..data.rasters import opened, scaled_size
from ..data.splits import listings
from ..errors import ConfigError
from .config import RunConfig

HEADERS_READ = 200
CHANNELS = 4
"""Bytes of a pixel in the cache: RGB and the class."""


@dataclass(frozen=True)
class Survey:
    counts: dict[str, int]
    """Pairs by split."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of up to 200 images, spread over all."""
    classes: int
    """How many are trained at most: those that are listed, or those that have a name."""
    sample: tuple[tuple[Path, Path], ...]
    """Those pairs."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def largest(self, scale: float) -> tuple[int, int]:
        """(height, width) after scaling that no image exceeds: a batch is padded to its largest sides."""
        scaled = [scaled_size(height, width, scale) for height, width in self.sizes]
        return max(height for height, _ in scaled), max(width for _, width in scaled)

    def largest_alone(self, scale: float) -> tuple[int, int]:
        """(height, width) after scaling of the image with most pixels."""
        return max((scaled_size(*size, scale) for size in self.sizes), key=lambda size: size[0] * size[1])

    def cache_bytes(self, scale: float, *, native_labels: bool) -> int:
        """Of all pairs, by the mean of those that were looked at."""
        full = sum(height * width for height, width in self.sizes) / len(self.sizes)
        return round(self.total * full * (CHANNELS * scale**2 + (1 if native_labels else 0)))


def survey(config: RunConfig, base: Path) -> Survey:
    """Raises ConfigError where the files cannot be listed, or not one can be opened."""
    root = (base / config.data.root).resolve()
    listed = listings(config.data, root)
    for error in listed.unlisted.values():
        raise error
    pairs = sorted({pair for split in listed.splits.values() for pair in split.pairs})
    sample = tuple(pairs[:: max(1, -(-len(pairs) // HEADERS_READ))])
    sizes = sizes_of([image for image, _ in sample])
    if not sizes:
        raise ConfigError("no image can be read", where=root, remedy="`segwatch audit` names every file")
    return Survey(
        counts={name: len(listed.splits[name].pairs) for name in SPLITS},
        sizes=tuple(sizes),
        classes=_classes(config, root),
        sample=sample,
    )


def sizes_of(images: Sequence[Path]) -> list[tuple[int, int]]:
    """(height, width) of those that can be opened: the audit names the others."""
    found = []
    for path in images:
        try:
            with opened(path) as image:
                found.append((image.height, image.width))
        except ConfigError:
            continue
    return found


def _classes(config: RunConfig, root: Path) -> int:
    table = load_class_table(root / config.data.classes)
    use = table.named_ids if config.data.use == "named-and-present" else config.data.use
    return max(2, len(use))
