"""What the audit settled, frozen in run.lock.toml: the files of each split, the classes. Knows nothing about pixels."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ..errors import ConfigError
from ..section import Record

if TYPE_CHECKING:
    import numpy as np

IGNORE_INDEX = 255
"""The training value of every pixel that counts nowhere: not in a loss, not in a score."""


class Pair(Record):
    image: str
    """Path of the image, relative to `ResolvedData.root`."""
    mask: str
    """Path of its mask, relative to `ResolvedData.root`."""


class ResolvedClass(Record):
    id: int
    """The id in the mask files."""
    name: str
    colour: tuple[int, int, int]
    pixels: dict[str, int]
    """Pixels of this class at full resolution, by split."""


class ResolvedData(Record):
    """The data of one run as it was when the run began."""

    root: Path
    """Absolute."""
    scale: float
    classes: tuple[ResolvedClass, ...]
    """In ascending id; the position is the training index, so that the network's channel c is classes[c]."""
    splits: dict[str, tuple[Pair, ...]]
    """`train`, `val` and `test`, each sorted by name."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """How many files each split lost to `on_bad_file = "skip"`; shown beside every score."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        return tuple(entry.id for entry in self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def lookup(self) -> np.ndarray:
        """uint8 (256,): mask id -> training index. Ids that are not used map to IGNORE_INDEX, never to 0."""
        import numpy as np  # `segwatch status` reads classes and files, and should not wait for numpy

        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        for index, entry in enumerate(self.classes):
            table[entry.id] = index
        return table

    def share(self, index: int, split: str) -> float | None:
        """Class `index` as a share of the counted pixels of `split`; `None` where the split has none."""
        total = sum(entry.pixels.get(split, 0) for entry in self.classes)
        return self.classes[index].pixels.get(split, 0) / total if total else None

    def fingerprint(self, split: str) -> str:
        """Changes with the files, their size and time, the classes and the scale: one score series per value."""
        digest = hashlib.sha256(repr((self.class_ids, self.scale)).encode())
        for pair in self.splits[split]:
            for name in (pair.image, pair.mask):
                stat = (self.root / name).stat()
                digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, lock: Path) -> ResolvedData:
        """Read the `[resolved]` table of a run.lock.toml. Raises ConfigError when it is missing or not ours."""
        try:
            with lock.open("rb") as file:
                return cls.model_validate(tomllib.load(file)["resolved"])
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(
                f"cannot read the resolved data: {error}", where=lock, remedy="start the run again from its run.toml"
            ) from error
