"""What the audit settled, frozen in run.lock.toml: the files of each split, the classes. Knows nothing about pixels."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ..errors import ConfigError
from ..section import Record

if TYPE_CHECKING:
    import numpy as np

IGNORE_INDEX = 255
"""The training value of every pixel that counts nowhere: not in a loss, not in a score."""


IDS_END = 1 << 16
COLOURS_END = 1 << 24
TRANSPARENT = COLOURS_END
"""The value of a pixel whose colour cannot be seen (alpha 0): no label."""


class Reading(StrEnum):
    """What the pixels of a data set's masks mean."""

    IDS = "ids"
    """The value (or the index into the palette) is the class id."""
    COLOURS = "colours"
    """The colour is that of a class, exactly."""
    BINARY = "binary"
    """0 is id 0; 255, or any other value, is id 1."""


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
    seen: dict[str, int] = Field(default_factory=dict)
    """Counted pixels of the images that hold this class, by split: what its median frequency refers to."""
    ids: tuple[int, ...] = ()
    """Every id that was joined into it, its own among them; empty where that is the only one."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of its pixels in the masks, where they are read by colour."""

    @property
    def values(self) -> tuple[int, ...]:
        """What its pixels hold as ids."""
        return self.ids or (self.id,)


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
    """How many images each split lost to `on_bad_file = "skip"`, whatever files were bad; shown beside every score."""
    reading: Reading = Reading.IDS
    """How mask pixels become ids."""
    leaked: dict[str, int] = Field(default_factory=dict)
    """How many images of val and of test are, byte for byte, images of train as well."""

    table_ids: tuple[int, ...] = ()
    """Every id of the class table, ascending; empty where nobody asked for it."""
    named_ids: tuple[int, ...] = ()
    """Those of them that have a name."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        return tuple(entry.id for entry in self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def mapping(self) -> tuple[tuple[int, int], ...]:
        """(value of a mask's pixel, training index), ascending: all that the lookup table says."""
        if self.reading is Reading.COLOURS:
            pairs = [(pack(colour), index) for index, entry in enumerate(self.classes) for colour in entry.colours]
        else:
            pairs = [(value, index) for index, entry in enumerate(self.classes) for value in entry.values]
        return tuple(sorted(pairs))

    @property
    def lookup(self) -> np.ndarray:
        """uint8: value of a mask's pixel -> training index. Ids 0 to 65535, or packed colours and TRANSPARENT.

        Whatever is not used maps to IGNORE_INDEX, never to 0. Built anew at each call: 16 MB for colours.
        """
        import numpy as np  # `segwatch status` reads classes and files, and should not wait for numpy

        size = COLOURS_END + 1 if self.reading is Reading.COLOURS else IDS_END
        table = np.full(size, IGNORE_INDEX, dtype=np.uint8)
        for value, index in self.mapping:
            table[value] = index
        return table

    def share(self, index: int, split: str) -> float | None:
        """Class `index` as a share of the counted pixels of `split`; `None` where the split has none."""
        total = sum(entry.pixels.get(split, 0) for entry in self.classes)
        return self.classes[index].pixels.get(split, 0) / total if total else None

    def fingerprint(self, split: str, contents: Mapping[str, str] | None = None) -> str:
        """Changes with the files, the classes, how masks are read and the scale: one score series per value.

        A file is known by its digest in `contents` (by path); without them by its size and time, as they are now.
        Raises KeyError for a file that `contents` lacks, OSError for one that is not there.
        """
        digest = hashlib.sha256(repr((self.class_ids, self.scale, self.reading.value, self.mapping)).encode())
        for pair in self.splits[split]:
            for name in (pair.image, pair.mask):
                held = self._size_and_time(name) if contents is None else contents[name]
                digest.update(f"{name}\0{held}\n".encode())
        return digest.hexdigest()[:16]

    def _size_and_time(self, name: str) -> str:
        stat = (self.root / name).stat()
        return f"{stat.st_size}\0{stat.st_mtime_ns}"

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


def pack(colour: tuple[int, int, int]) -> int:
    """0xRRGGBB."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue
