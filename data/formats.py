"""How the masks of a data set are to be read: as ids, by colour, or as black and white. PURE: facts in, a reading out.

Nothing is guessed silently: the reading is stated with its reason, and where two readings are possible, or none, that
is an error which says how to choose. Knows nothing about how files are decoded, nor which classes are used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .classes import ClassTable
from .colours import Tally, as_hex, fits, ignored_colours, misfit, packed_colours, shown_colours, shown_grey, tally
from .config import NO_LABEL, DataConfig
from .masks import IN_COLOUR, Kind, MaskFacts
from .problems import Problem
from .resolved import TRANSPARENT, Reading, pack
from .selection import HOW_TO_SHARE, clashing_colours

BLACK, WHITE = 0x000000, 0xFFFFFF
WIDEST_GREY = 255
GREY = frozenset(Kind) - IN_COLOUR - {Kind.PALETTE}
FILES_NAMED = 3
VALUES_NAMED = 12
VALUES_TOLD = 4
"""Each with a file that holds it."""
AS_BINARY = 'if 255 (white) is a class, set mask_format = "binary" and give the class table the ids 0 and 1'


@dataclass(frozen=True)
class MaskFile:
    split: str
    path: str
    """Relative to the data's root."""
    facts: MaskFacts


@dataclass(frozen=True)
class Format:
    """What was settled."""

    reading: Reading | None
    """`None` where there are errors, or nothing to settle it by."""
    statement: str
    """What the masks are and how they are read, in a sentence for a person."""
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Counts:
    """The pixels of one mask under a reading."""

    ids: Counter[int] = field(default_factory=Counter)
    """By id, 255 (no label) among them."""
    unknown: Counter[int] = field(default_factory=Counter)
    """By colour that the class table does not have."""
    transparent: int = 0
    """Read by colour: alpha 0, no label."""
    rest: int = 0
    """In unknown colours beyond those that are told one by one."""


def settle(masks: Sequence[MaskFile], table: ClassTable, config: DataConfig) -> Format:
    """Choose the reading over all masks of all splits, by `data.mask_format` or by what the masks hold."""
    if not masks:
        return Format(None, "no mask has been read")
    judge = _Judge(masks, table, config)
    match config.mask_format:
        case "ids":
            return judge.as_ids("mask_format says so")
        case "colours":
            return judge.as_colours("mask_format says so")
        case "binary":
            return judge.as_binary("mask_format says so")
        case "auto":
            return judge.recognised()


def count(facts: MaskFacts, reading: Reading, colours: dict[int, int]) -> Counts:
    """The pixels of one mask by id; `colours` are those of the class table, 0xRRGGBB -> id."""
    if reading is Reading.COLOURS:
        return _by_colour(facts, colours)
    ids: Counter[int] = Counter()
    if facts.kind in IN_COLOUR or (reading is Reading.BINARY and facts.kind is Kind.PALETTE):
        for colour, pixels in facts.colours.items():
            ids[_id_of_shade(colour, reading)] += pixels
        return Counts(ids)
    for value, pixels in facts.values.items():
        if facts.palette.get(value) == TRANSPARENT:
            ids[NO_LABEL] += pixels
        else:
            ids[value if reading is Reading.IDS else int(value > 0)] += pixels
    if facts.clear:
        ids[NO_LABEL] += facts.clear
    return Counts(ids)


def _id_of_shade(colour: int, reading: Reading) -> int:
    """The id that a colour stands for where masks are not read by colour: its grey, or whether it is not black."""
    if colour == TRANSPARENT:
        return NO_LABEL
    return colour & 0xFF if reading is Reading.IDS else int(colour != BLACK)


def _by_colour(facts: MaskFacts, colours: dict[int, int]) -> Counts:
    ids: Counter[int] = Counter()
    unknown: Counter[int] = Counter()
    shown = shown_colours(facts)
    for colour, pixels in shown.items():
        if colour in colours:
            ids[colours[colour]] += pixels
        elif colour != TRANSPARENT:
            unknown[colour] += pixels
    return Counts(ids, unknown, shown.get(TRANSPARENT, 0), facts.pixels - sum(shown.values()))


class _Judge:
    """The facts that every rule looks at."""

    def __init__(self, masks: Sequence[MaskFile], table: ClassTable, config: DataConfig) -> None:
        self._masks = masks
        self._table = table
        self._config = config
        self._ignored = ignored_colours(config)
        self._kinds = Counter(mask.facts.kind for mask in masks)
        self._found: Tally = tally(mask.facts for mask in masks)

    # --- recognising

    def recognised(self) -> Format:
        """The one reading that the masks allow."""
        grey = self._of(GREY)
        palettes = self._of([Kind.PALETTE])
        coloured = self._of(IN_COLOUR)
        if grey and (coloured or palettes):
            return self._mixed(grey, [*coloured, *palettes])
        if self._black_and_white():
            return self._recognised_binary()
        if coloured:
            return self._recognised_colours()
        return self._recognised_palettes() if palettes else self._recognised_grey()

    def _recognised_grey(self) -> Format:
        bits = self._of([Kind.BITS])
        if bits and len(bits) < len(self._masks):
            return self._mixed(self._of(kind for kind in Kind if kind is not Kind.BITS), bits, said="ids")
        if not self._wide() and fits(self._found, self._table, self._ignored):
            return self._grey_in_colours_of_the_table()
        return self._read(Reading.IDS, "the value of a pixel is its class id")

    def _grey_in_colours_of_the_table(self) -> Format:
        """As greys, the masks are colours of the table; whether they are its ids as well says what is meant."""
        if self._table.numbered:
            return self.as_colours("the greys are colours of the class table, which has no ids")
        values, ids = self._values(), {*self._table.ids}
        if not values <= ids:
            return self._refused(
                f"the masks hold the values {_some(values)}, of which {_some(values - ids)} are no ids of the class "
                "table; but as greys they are its colours",
                'set mask_format = "colours" if that is meant; else set "ids" and give the table the ids that the '
                "masks hold",
            )
        found = self._read(Reading.IDS, "the value of a pixel is its class id")
        known = packed_colours(self._table)
        same = all(
            known.get(shown_grey(value, mask.facts), value) == value
            for mask in self._masks
            for value in mask.facts.values
        )
        return found if same else replace(found, warnings=(self._also_colours(values),))

    def _also_colours(self, values: set[int]) -> Problem:
        return Problem(
            code="mask-format",
            what=f"the values {_some(values)} of the masks are ids of the class table, and as greys its colours, of "
            "other classes; they are read as ids",
            where="data.mask_format",
            remedy='say which is meant: mask_format = "ids" or "colours"',
        )

    def _recognised_colours(self) -> Format:
        if self._only_grey() and not fits(self._found, self._table, self._ignored):
            values = {colour & 0xFF for colour in self._found.pixels} - {NO_LABEL}
            if values and values <= {*self._table.ids} and not self._table.numbered:
                return self._refused(
                    f"the masks hold three equal channels, whose values {sorted(values)} are ids of the class table",
                    'set mask_format = "ids" to read one channel as the id',
                )
        conflict = palette_conflict(self._masks)
        return self.as_colours(self._why_not_index(conflict) if conflict else "the colour of a pixel says its class")

    def _recognised_palettes(self) -> Format:
        conflict = palette_conflict(self._masks)
        known = {*packed_colours(self._table), *self._ignored}
        if conflict:
            return self.as_colours(self._why_not_index(conflict))
        if known and set(self._found.pixels) <= known:
            found = self.as_colours("every colour of the palettes is one of the class table")
            return replace(found, warnings=tuple(self._against_palettes("they are read by colour")))
        values = self._values()
        if not self._table.colours:
            return self._read(
                Reading.IDS, "all palettes agree, and the class table gives no colours: the index is the id"
            )
        if values <= {*self._table.ids} and not self._table.numbered:
            return self._refused(
                f"palette masks whose indices {sorted(values)} are ids of the class table, but whose colours are not "
                "its colours",
                'set mask_format = "ids" to read the index; or mend the colours of the table',
            )
        return self.as_colours("the colour of a pixel says its class")

    def _recognised_binary(self) -> Format:
        known = packed_colours(self._table)
        swapped = self._against_binary()
        if BLACK in known and WHITE in known and (swapped or not self._of(GREY)):
            return self.as_colours("black and white are colours of the class table")
        if swapped:
            return swapped
        if self._table.ids == (0, 1) and not self._table.numbered:
            return self.as_binary("they hold only black and white, and the class table has the ids 0 and 1")
        return self._refused(
            "the masks hold only 0 and 255 (or one bit), as black-and-white masks do",
            f'{AS_BINARY}; if 255 means no label, set mask_format = "ids"',
        )

    def _against_binary(self) -> Format | None:
        """A refusal where the table gives black or white to another id than black-and-white masks would."""
        known = packed_colours(self._table)
        if known.get(BLACK, 0) == 0 and known.get(WHITE, 1) == 1:
            return None
        said = [f"{as_hex(colour)} is id {known[colour]}" for colour in (BLACK, WHITE) if colour in known]
        return self._refused(
            f"as black and white, black is id 0 and white is id 1, but in the class table {' and '.join(said)}",
            'set mask_format = "colours" to read the masks by the colours of the table, or mend these',
        )

    def _black_and_white(self) -> bool:
        """Nothing but black and white, and both of them; masks of one bit say it by their kind."""
        others = [mask for mask in self._masks if mask.facts.kind is not Kind.BITS]
        if any(value > WIDEST_GREY for mask in others for value in mask.facts.values):
            return False
        # By the values, not by what a viewer shows: 0 and 3 of 2 bits are ids, not black and white.
        held = {colour for mask in others for colour in shown_colours(replace(mask.facts, step=1))}
        return not others or held - {TRANSPARENT} == {BLACK, WHITE}

    # --- one reading, if it is possible

    def as_ids(self, because: str) -> Format:
        coloured = [mask for mask in self._of(IN_COLOUR) if not _is_grey(mask.facts)]
        conflict = palette_conflict(self._masks)
        whys: list[str] = []
        if coloured:
            whys.append(f"{len(coloured)} masks hold colours: {_named(coloured)}")
        if conflict:
            whys.append(f"{conflict}: the raw index would be plausible nonsense")
        if whys:
            return self._refused(
                f'mask_format = "ids", but {"; and ".join(whys)}',
                'set mask_format = "colours", with a class table of the colours that the masks hold',
                coloured,
            )
        found = self._read(Reading.IDS, because)
        return replace(found, warnings=tuple(self._against_palettes("they are read by index, as mask_format says")))

    def _against_palettes(self, said: str) -> Iterable[Problem]:
        """Palettes that agree among themselves, but give an index the colour of another class of the table."""
        known = packed_colours(self._table)
        other = {
            (index, known[colour])
            for mask in self._of([Kind.PALETTE])
            for index in mask.facts.values
            if (colour := mask.facts.palette[index]) in known
            and known[colour] != index
            and self._table.get(index) is not None
        }
        if not other or self._table.numbered:
            return
        shown = [
            f"index {index} is that of {self._called(index)}, and has the colour of {self._called(of)}"
            for index, of in sorted(other)
        ]
        more = f", and {len(shown) - VALUES_TOLD} more" if len(shown) > VALUES_TOLD else ""
        yield Problem(
            code="mask-format",
            what="the indices of the palettes are ids of the class table, and their colours are of other classes: "
            f"{'; '.join(shown[:VALUES_TOLD])}{more}; {said}",
            where="data.mask_format",
            remedy='say which is meant: mask_format = "ids" or "colours"; or mend the colours of the table',
        )

    def _called(self, class_id: int) -> str:
        entry = self._table.get(class_id)
        return f"{class_id} ({entry.name})" if entry is not None and entry.name else f"id {class_id}"

    def as_binary(self, because: str) -> Format:
        coloured = [mask for mask in self._of([*IN_COLOUR, Kind.PALETTE]) if not _is_grey(mask.facts)]
        if coloured:
            return self._refused(
                f"{len(coloured)} masks hold more than black and white: {_named(coloured)}",
                'set mask_format = "colours", with a class table of the colours that they hold',
                coloured,
            )
        bright = self._bright()
        if len(bright) > 1:
            told = ", ".join(f"{value} in {files[0].path}" for value, files in sorted(bright.items())[:VALUES_TOLD])
            told += ", …" if len(bright) > VALUES_TOLD else ""
            return self._refused(
                f"masks of black and white hold one value besides 0, and these hold {len(bright)}: {told}",
                'set mask_format = "ids" if the values are class ids; else write 0 and 255, and no other value',
            )
        against = self._against_binary()
        if against:
            return against
        return self._read(Reading.BINARY, f"{because}; 0 is id 0, any other value is id 1")

    def as_colours(self, because: str) -> Format:
        wide = self._wide()
        if wide:
            return self._refused(
                f"{len(wide)} masks hold 16 bits or values above 255, which are no colours: {_named(wide)}",
                'set mask_format = "ids", or write all masks in one format',
                wide,
            )
        if not self._table.entries:
            return Format(None, self._kinds_in_words())
        problems = list(self._ambiguous())
        if not fits(self._found, self._table, self._ignored):
            problems.append(misfit(self._found, self._table, self._ignored))
        statement = f"{self._kinds_in_words()}; read by colour: {because}"
        if self._table.numbered:
            statement += "; the class table has no ids, so its classes are numbered by their place"
        return Format(None if problems else Reading.COLOURS, statement, tuple(problems))

    def _ambiguous(self) -> Iterable[Problem]:
        for colour, ids in clashing_colours(self._config, self._table).items():
            yield Problem(
                code="class-colours",
                what=f"the masks are read by colour, and the ids {list(ids)} have the same one: {as_hex(pack(colour))}",
                where=str(self._table.path),
                remedy=f"give each class a colour of its own, the one that it has in the masks; {HOW_TO_SHARE}",
            )

    # --- words

    def _read(self, reading: Reading, because: str) -> Format:
        ways = {
            Reading.IDS: "read as ids",
            Reading.BINARY: "read as black and white",
            Reading.COLOURS: "read by colour",
        }
        return Format(reading, f"{self._kinds_in_words()}; {ways[reading]}: {because}")

    def _refused(self, what: str, remedy: str, files: Iterable[MaskFile] = ()) -> Format:
        problem = Problem(
            code="mask-format", what=what, where="data.mask_format", remedy=remedy, files=tuple(f.path for f in files)
        )
        return Format(None, self._kinds_in_words(), (problem,))

    def _mixed(self, one: list[MaskFile], other: list[MaskFile], *, said: str = "colours") -> Format:
        meaning = {
            "colours": 'set mask_format = "colours" if grey is a colour of the table as well; else convert one kind',
            "ids": 'set mask_format = "ids" if white is id 1, or write all masks in one format',
        }
        return self._refused(
            "masks of two kinds, which mean different things: "
            f"{_group(one)}, such as {_named(one)}; {_group(other)}, such as {_named(other)}",
            meaning[said],
        )

    def _why_not_index(self, conflict: str) -> str:
        return f"{conflict}, so the raw index would be plausible nonsense"

    def _kinds_in_words(self) -> str:
        kinds = ", ".join(
            f"{kind.value}" if number == len(self._masks) else f"{number} {kind.value}"
            for kind, number in self._kinds.most_common()
        )
        return f"{len(self._masks)} masks: {kinds}"

    # --- facts

    def _of(self, kinds: Iterable[Kind]) -> list[MaskFile]:
        wanted = frozenset(kinds)
        return [mask for mask in self._masks if mask.facts.kind in wanted]

    def _wide(self) -> list[MaskFile]:
        """Masks that cannot be read by colour."""
        return [
            mask
            for mask in self._masks
            if mask.facts.kind is Kind.WIDE_IDS or any(value > WIDEST_GREY for value in mask.facts.values)
        ]

    def _bright(self) -> dict[int, list[MaskFile]]:
        """Each value but 0, and grey but black, with the masks that hold it; what one bit holds is as good as any."""
        found: defaultdict[int, list[MaskFile]] = defaultdict(list)
        for mask in self._masks:
            facts = mask.facts
            held = (
                {colour & 0xFF for colour in facts.colours if colour != TRANSPARENT} if facts.colours else facts.values
            )
            for value in held if facts.kind is not Kind.BITS else ():
                if value:
                    found[value].append(mask)
        return found

    def _values(self) -> set[int]:
        """Every value that occurs and is seen, but 255, which is no label."""
        return {
            value for mask in self._masks for value in mask.facts.values if mask.facts.palette.get(value) != TRANSPARENT
        } - {NO_LABEL}

    def _only_grey(self) -> bool:
        return all(_is_grey(mask.facts) for mask in self._masks)


def palette_conflict(masks: Iterable[MaskFile]) -> str | None:
    """Where two palettes disagree on an index, or on a colour's index, in words; `None` where one order serves all.

    Only what occurs counts: the rest of a palette is often left empty.
    """
    at_index: dict[int, tuple[int, MaskFile]] = {}
    of_colour: dict[int, tuple[int, MaskFile]] = {}
    for mask in masks:
        palette = mask.facts.palette
        for index in mask.facts.values if palette else ():
            colour = palette[index]
            first, file = at_index.setdefault(index, (colour, mask))
            if first != colour:
                evidence = f"index {index} is {as_hex(first)} in {file.path} and {as_hex(colour)} in {mask.path}"
                return f"the order of the palettes differs between files ({evidence})"
            elsewhere, file = of_colour.setdefault(colour, (index, mask))
            twice = palette.get(elsewhere) == colour or file.facts.palette.get(index) == colour
            if elsewhere != index and not twice:
                evidence = f"{as_hex(colour)} is index {elsewhere} in {file.path} and {index} in {mask.path}"
                return f"the order of the palettes differs between files ({evidence})"
    return None


def _is_grey(facts: MaskFacts) -> bool:
    return facts.distinct <= WIDEST_GREY + 2 and all(
        colour == TRANSPARENT or colour == (colour & 0xFF) * 0x010101 for colour in facts.colours
    )


def _some(values: Iterable[int]) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - VALUES_NAMED} more" if len(ordered) > VALUES_NAMED else ""
    return f"{ordered[:VALUES_NAMED]}{more}"


def _named(masks: Sequence[MaskFile]) -> str:
    more = ", …" if len(masks) > FILES_NAMED else ""
    return ", ".join(mask.path for mask in masks[:FILES_NAMED]) + more


def _group(masks: Sequence[MaskFile]) -> str:
    return ", ".join(f"{number} {kind.value}" for kind, number in Counter(m.facts.kind for m in masks).most_common())
