"""Which colours the masks hold, against those of the class table. PURE: facts in, problems and lines to paste out.

Knows nothing about how a reading is chosen, nor about splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from .classes import ClassTable, parse_colour
from .config import NO_LABEL, DataConfig
from .masks import Kind, MaskFacts
from .problems import Problem
from .resolved import TRANSPARENT, pack

UNKNOWN_LIMIT = 0.05
"""Share of the pixels: more in colours that the table does not have is a wrong table; less is an accident to tell."""
FEWEST_COLOURS = 2
"""A table of which fewer colours occur belongs to other masks."""
LINES_SHOWN = 16
PASTE = "# ready to paste into a .toml: what the masks hold; put in the names"
FEW_PIXELS = 1e-4
"""Share of the pixels: a table's line for each smoothed edge would help nobody."""


@dataclass
class Tally:
    """Pixels and masks by colour, over all masks."""

    pixels: Counter[int] = field(default_factory=Counter)
    """By colour, 0xRRGGBB."""
    masks: Counter[int] = field(default_factory=Counter)
    """By colour: how many masks hold it."""
    transparent: int = 0
    rest: int = 0
    """In colours beyond those that are told one by one."""

    @property
    def total(self) -> int:
        return self.pixels.total() + self.transparent + self.rest

    def share(self, colours: Iterable[int]) -> float:
        return sum(self.pixels[colour] for colour in colours) / max(1, self.total)

    def unknown_share(self, known: Collection[int]) -> float:
        """Of all pixels: those whose colour is not in `known`; transparent ones have no colour."""
        unknown = sum(count for colour, count in self.pixels.items() if colour not in known)
        return (unknown + self.rest) / max(1, self.total)


def tally(masks: Iterable[MaskFacts]) -> Tally:
    """Count the colours of masks of 8 bits; grey is a colour as well."""
    found = Tally()
    for facts in masks:
        shown = shown_colours(facts)
        found.rest += facts.pixels - sum(shown.values())
        found.transparent += shown.pop(TRANSPARENT, 0)
        found.pixels.update(shown)
        found.masks.update(shown.keys())
    return found


def shown_colours(facts: MaskFacts) -> dict[int, int]:
    """Pixels by colour, 0xRRGGBB or TRANSPARENT, as a viewer would show the mask; a new dictionary."""
    if facts.colours:
        return dict(facts.colours)
    grey = {shown_grey(value, facts): pixels for value, pixels in facts.values.items() if value <= 0xFF}
    return {**grey, TRANSPARENT: facts.clear} if facts.clear else grey


def shown_grey(value: int, facts: MaskFacts) -> int:
    """0xRRGGBB of a grey value up to 255 of this mask, as a viewer would show it."""
    shade = 0xFF * min(value, 1) if facts.kind is Kind.BITS else value * facts.step
    return pack((shade, shade, shade))


def packed_colours(table: ClassTable) -> dict[int, int]:
    """0xRRGGBB -> id, of the colours that the table gives."""
    return {pack(colour): class_id for colour, class_id in table.colours.items()}


def ignored_colours(config: DataConfig) -> frozenset[int]:
    """0xRRGGBB of the colours in `data.ignore`."""
    parsed = (parse_colour(entry) for entry in config.ignore if isinstance(entry, str))
    return frozenset(pack(colour) for colour in parsed if colour is not None)


def fits(found: Tally, table: ClassTable, ignored: Collection[int]) -> bool:
    """Whether the table's colours are those of these masks."""
    known = packed_colours(table)
    occurring = sum(colour in found.pixels for colour in known)
    return occurring >= FEWEST_COLOURS and found.unknown_share({*known, *ignored}) <= UNKNOWN_LIMIT


def misfit(found: Tally, table: ClassTable, ignored: Collection[int]) -> Problem:
    """Why the table is not the one of these masks, and the lines that one would be written from."""
    known = packed_colours(table)
    occurring = [colour for colour in known if colour in found.pixels]
    unknown = found.unknown_share({*known, *ignored})
    if not known:
        what = "the masks hold colours, and the class table gives none"
    else:
        what = (
            f"{as_percent(unknown)} of the mask pixels have a colour that the class table does not have; "
            f"{_how_many(occurring, table)}"
        )
        absent = [colour for colour in known if colour not in found.pixels]
        if absent:
            what += f"\nIn no mask: {_listed(absent, table)}"
    return Problem(
        code="class-colours",
        what=what,
        where=str(table.path),
        remedy="write a table with these colours and set data.classes to it; what should not count, into data.ignore",
        lines=tuple(pasteable(found, table)),
    )


def pasteable(found: Tally, table: ClassTable) -> list[str]:
    """A class table in TOML with the colours of the masks, the most frequent first, each with its share."""
    known = packed_colours(table)
    taken = {known[colour] for colour in found.pixels if colour in known} | {NO_LABEL}
    free = (number for number in range(len(found.pixels) + len(taken) + 1) if number not in taken)
    lines = [PASTE, "[classes]"]
    ordered = sorted(found.pixels, key=lambda colour: (-found.pixels[colour], colour))
    worth = [colour for colour in ordered if colour in known or found.share([colour]) >= FEW_PIXELS][:LINES_SHOWN]
    for colour in worth:
        entry = table.get(known[colour]) if colour in known else None
        number = next(free) if entry is None else entry.id
        name = "" if entry is None else entry.name.replace("\\", "\\\\").replace('"', '\\"')
        row = f'{number} = {{ name = "{name}", colour = "{as_hex(colour)}" }}'
        lines.append(f"{row:<42} # {as_percent(found.share([colour]))} of the pixels, {found.masks[colour]} masks")
    if len(worth) < len(ordered) or found.rest:
        left = f"{len(ordered) - len(worth)} more colours, " if len(worth) < len(ordered) else ""
        share = found.share(ordered[len(worth) :]) if len(worth) < len(ordered) else 0.0
        lines.append(f"# and {left}{as_percent(share + found.rest / max(1, found.total))} of the pixels")
    return lines


def _how_many(occurring: list[int], table: ClassTable) -> str:
    number = len(table.colours)
    match occurring:
        case []:
            return f"of its {number} colours none occurs"
        case [only]:
            return f"of its {number} colours only {_listed([only], table)} occurs"
        case _:
            return f"of its {number} colours {len(occurring)} occur"


def _listed(colours: Iterable[int], table: ClassTable) -> str:
    known = packed_colours(table)
    return ", ".join(_called(colour, table, known[colour]) for colour in colours)


def _called(colour: int, table: ClassTable, class_id: int) -> str:
    entry = table.get(class_id)
    name = entry.name if entry is not None else ""
    return f"{as_hex(colour)} {name or class_id}"


def as_hex(colour: int) -> str:
    """As class tables and messages write it: #E2A929."""
    return "transparent" if colour == TRANSPARENT else f"#{colour:06X}"


def as_percent(share: float) -> str:
    """Two digits after the point, or two that are not 0: 0.001 % must not read as none."""
    number = 100 * share
    return f"{number:.2f} %" if number >= 0.1 or number == 0 else f"{number:.2g} %"


def unknown_warning(unknown: Counter[int], masks: Counter[int], rest: int, total: int) -> Iterator[Problem]:
    """Colours that neither the table nor `data.ignore` has and that are few enough to be accidents."""
    if not unknown and not rest:
        return
    ordered = sorted(unknown, key=lambda colour: (-unknown[colour], colour))
    shown = ", ".join(
        f"{as_hex(colour)} ({as_percent(unknown[colour] / total)}, {masks[colour]} masks)" for colour in ordered[:8]
    )
    more = f", and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    if rest:  # of files with very many colours not each is told one by one
        more = ", and many more" if shown else ""
    share = as_percent((unknown.total() + rest) / total)
    yield Problem(
        code="unknown-colours",
        what=f"{share} of the mask pixels have a colour that the class table does not have; they are ignored (255): "
        f"{shown or 'too many to list'}{more}",
        remedy="add them to the table if they mean something; if that is meant, list them in data.ignore",
    )
