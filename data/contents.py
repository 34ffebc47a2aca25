"""What the masks of a split hold once it is settled how they are read. PURE: facts in, counts by id and colour out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .formats import Counts, MaskFile, count
from .resolved import Reading

EXAMPLES = 5


@dataclass
class Contents:
    """The usable masks of one split."""

    name: str
    images: int = 0
    total: int = 0
    """Pixels."""
    pixels: Counter[int] = field(default_factory=Counter)
    """By id, at full resolution."""
    masks: Counter[int] = field(default_factory=Counter)
    """By id: how many masks hold it."""
    examples: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By id: the first few masks that hold it."""
    unknown: Counter[int] = field(default_factory=Counter)
    """Pixels by colour that the class table does not have."""
    unknown_masks: Counter[int] = field(default_factory=Counter)
    unknown_examples: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    transparent: int = 0
    rest: int = 0
    """Pixels of unknown colours beyond those that are told one by one."""
    by_mask: list[Counter[int]] = field(default_factory=list)
    """Pixels by id, of each mask."""

    def add(self, path: str, found: Counts, pixels: int) -> None:
        """One mask of so many pixels."""
        self.images += 1
        self.total += pixels
        self.transparent += found.transparent
        self.rest += found.rest
        self.by_mask.append(found.ids)
        _enter(path, found.ids, self.pixels, self.masks, self.examples)
        _enter(path, found.unknown, self.unknown, self.unknown_masks, self.unknown_examples)

    def of_class(self, ids: Iterable[int]) -> int:
        """Pixels of these ids together."""
        return sum(self.pixels[class_id] for class_id in ids)

    def share(self, ids: Iterable[int]) -> float | None:
        """Of all pixels; `None` where there are none."""
        return self.of_class(ids) / self.total if self.total else None

    def seen(self, members: Mapping[int, int]) -> Counter[int]:
        """By class: counted pixels of the masks that hold it. `members` says to which class each used id belongs."""
        seen: Counter[int] = Counter()
        for ids in self.by_mask:
            held = {members[class_id] for class_id in ids if class_id in members}
            counted = sum(pixels for class_id, pixels in ids.items() if class_id in members)
            for class_id in held:
                seen[class_id] += counted
        return seen


def contents_of(name: str, masks: Iterable[MaskFile], reading: Reading, colours: dict[int, int]) -> Contents:
    """Of the masks of split `name`; `colours` are those of the class table, 0xRRGGBB -> id."""
    found = Contents(name)
    for mask in masks:
        if mask.split == name:
            found.add(mask.path, count(mask.facts, reading, colours), mask.facts.pixels)
    return found


def _enter(
    path: str,
    found: Counter[int],
    pixels: Counter[int],
    masks: Counter[int],
    examples: defaultdict[int, list[str]],
) -> None:
    pixels.update(found)
    masks.update(found.keys())
    for value in found:
        if len(examples[value]) < EXAMPLES:
            examples[value].append(path)
