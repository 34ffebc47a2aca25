"""The event files of one series of scores: one for its words, one for each split, one for each class. Knows no scores.

TensorBoard gives a colour to each directory, not to each curve: curves that are to be told apart lie apart. All are
opened, purged and closed together, so that no directory keeps points that the others have dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent

from ..event_file import EventFile
from .members import SCORED_SPLITS

WORDS = ""
"""The key of the file that is of no split and no class."""
NAME_LIMIT = 60


def class_key(name: str) -> str:
    """The key of a class's file."""
    return f"class:{name}"


def directories(board: Path, series: int, class_names: Iterable[str]) -> dict[str, Path]:
    """Where each file of the `series`-th series lies, by key. Two classes never share a directory."""
    number = "" if series == 1 else f"-{series}"
    scores, classes = board / f"eval{number}", board / f"iou{number}"
    found = {WORDS: scores, **{split: scores / split for split in SCORED_SPLITS}}
    for name in class_names:
        plain = re.sub(r"[^\w.+-]+", "_", name).strip(".")[:NAME_LIMIT] or "_"
        place, count = classes / plain, 1
        while place in found.values():
            count += 1
            place = classes / f"{plain}-{count}"
        found[class_key(name)] = place
    return found


class BoardFiles:
    """A new file in each of the directories. Raises OSError when the disk refuses."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._files: dict[str, EventFile] = {}
        try:
            for key, place in places.items():
                self._files[key] = EventFile(place)
        except OSError:
            self.close()
            raise

    def add_event(self, event: BoardEvent, key: str = WORDS) -> None:
        self._files[key].add_event(event)

    def purge_from(self, step: int) -> None:
        """TensorBoard drops what earlier files hold from this step on."""
        for file in self._files.values():
            file.purge_from(step)

    def in_place(self) -> bool:
        """Whether anybody can still read what is written, everywhere."""
        return all(file.in_place() for file in self._files.values())

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()
