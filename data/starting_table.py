"""Which class table beside the data fits the masks; where none does, one that is written from what they hold.

The masks are read once, and each table is judged on that by the audit itself. Knows nothing about layouts or run.toml.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..plain import one_line
from .audit import WEIGHT_LIMIT, AuditReport, judge
from .classes import ClassEntry, ClassTable, load_class_table
from .colours import as_hex, as_percent, packed_colours, tally
from .config import NO_LABEL, DataConfig
from .formats import MaskFile, count, settle
from .judging import Findings
from .masks import MaskFacts
from .resolved import Reading
from .scan import Scan

TABLE_SUFFIXES = frozenset({".toml", ".json", ".py"})
TELLING = re.compile(r"class|label|colou?r|palette|cmap|legend|ontology", re.IGNORECASE)
NOT_TABLES = frozenset({"run.toml", "run.lock.toml", "pyproject.toml", "package.json"})
OF_THE_TABLE = ("class", "mask-format", "ambiguous", "too-")
"""How the codes of those errors begin that another table may not have."""
MOST_UNNAMED = 0.5
"""Share of the pixels. A table that says nothing about most of them belongs to other masks."""
DEEPEST = 2
MOST_FILES = 200
MOST_CLASSES = 64
"""More colours or ids than this are no classes that somebody drew."""
FILES_NAMED = 3
FEW_PIXELS = 1e-4
"""Share of the pixels: a colour below it is a smoothed edge, not a class."""


@dataclass(frozen=True)
class Candidate:
    """A file that is a class table, and what the audit makes of the data with it."""

    table: ClassTable
    report: AuditReport

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def why_not(self) -> str:
        """In one line; empty where it fits."""
        problem = next((problem for problem in self.report.errors if problem.code.startswith(OF_THE_TABLE)), None)
        if problem is not None:
            return problem.what.splitlines()[0]
        if self.report.resolved is not None and self.unnamed > MOST_UNNAMED:
            return f"it names no class for {as_percent(self.unnamed)} of the mask pixels"
        return ""

    @property
    def unnamed(self) -> float:
        """Share of the pixels that it gives no class, as a mean over the splits."""
        ignored = [share for share in self.report.ignored_share.values() if share is not None]
        return sum(ignored) / len(ignored) if ignored else 1.0

    @property
    def merit(self) -> tuple[bool, float, int, str]:
        """What fits comes first, then what names most of the pixels, then the shorter path."""
        path = self.table.path
        return not self.fits, round(self.unnamed, 4), len(path.parts), str(path)


def tables_beside(folder: Path) -> tuple[list[ClassTable], dict[Path, str]]:
    """The class tables in `folder` and two levels below, and why a file that is called like one is none.

    A .py file is parsed, never executed.
    """
    found: list[ClassTable] = []
    refused: dict[Path, str] = {}
    for path in list(_files(folder))[:MOST_FILES]:
        try:
            found.append(load_class_table(path))
        except ConfigError as error:  # most .json and .py files are something else
            if TELLING.search(path.stem):
                refused[path] = error.what
    return found, refused


def colours_of(tables: Sequence[ClassTable]) -> frozenset[int]:
    """0xRRGGBB of all of them: what a scan has to count in any case."""
    return frozenset(colour for table in tables for colour in packed_colours(table))


def judged(config: DataConfig, root: Path, scan: Scan, tables: Sequence[ClassTable]) -> list[Candidate]:
    """Every table with its audit, the best one first."""
    candidates = [
        Candidate(table, judge(config, root, table, scan, Findings(), weight_limit=WEIGHT_LIMIT)) for table in tables
    ]
    return sorted(candidates, key=lambda candidate: candidate.merit)


def proposed_table(config: DataConfig, scan: Scan, path: Path) -> tuple[str, str]:
    """(TOML of a table of what the masks hold, how they are read) for a file `path`; names are made up.

    Raises ConfigError where the masks hold no classes: too many values, too many colours, kinds that contradict.
    """
    masks = [MaskFile(split.name, e.pair.mask, e.facts) for split in scan.splits.values() for e in split.read]
    facts = [mask.facts for mask in masks]
    if not masks:
        raise _unread(scan, path)
    if _black_and_white(config, masks, path):
        return _table_of({0: "background", 1: "foreground"}, ["black is 0, white (any other value) is 1"]), "binary"
    settled = settle(masks, ClassTable(path, ()), config)
    if settled.reading is Reading.IDS:
        return _table_of_ids(facts, path), "auto"
    if settled.errors:
        problem = settled.errors[0]
        raise ConfigError(problem.what, where=path.parent, remedy=problem.remedy)
    return _table_of_colours(facts, path), "auto"


def _unread(scan: Scan, path: Path) -> ConfigError:
    """Why there is not one mask to go by: a few files with their faults."""
    bad = [file for split in scan.splits.values() for file in split.bad]
    lines = [f"    {one_line(file.path)}: {file.reason}" for file in bad[:FILES_NAMED]]
    more = [f"    and {len(bad) - FILES_NAMED} more"] if len(bad) > FILES_NAMED else []
    remedies = Counter(file.remedy for file in bad if file.remedy).most_common(1)
    return ConfigError(
        "\n".join(["no mask could be read", *lines, *more]),
        where=path.parent,
        remedy=remedies[0][0] if remedies else "restore the files",
    )


def _files(folder: Path, level: int = 0) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name))
    except OSError:  # what cannot be listed holds no table for us; the data beside it is listed by its own reader
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in NOT_TABLES:
            continue
        if entry.is_dir() and level < DEEPEST and entry.name != "runs":
            yield from _files(entry, level + 1)
        elif entry.suffix.lower() in TABLE_SUFFIXES and entry.is_file():
            yield entry


# --- a table from the masks


def _black_and_white(config: DataConfig, masks: Sequence[MaskFile], path: Path) -> bool:
    """Whether 0 and 255, or one bit, are all that they hold: what only a table of two ids makes readable."""
    two = ClassTable(path, _rows({0: "background", 1: "foreground"}))
    return settle(masks, two, config).reading is Reading.BINARY


def _rows(names: dict[int, str]) -> tuple[ClassEntry, ...]:
    return tuple(ClassEntry(number, name, (0, 0, 0), colour_given=False) for number, name in names.items())


def _table_of_ids(facts: Sequence[MaskFacts], path: Path) -> str:
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    for each in facts:
        ids = count(each, Reading.IDS, {}).ids
        pixels.update(ids)
        masks.update(ids.keys())
    del pixels[NO_LABEL]
    _refuse_many(len(pixels), "ids", path)
    total = sum(each.pixels for each in facts)
    remarks = [f"{as_percent(pixels[i] / total)} of the pixels, {masks[i]} masks" for i in sorted(pixels)]
    return _table_of({class_id: f"class_{class_id}" for class_id in sorted(pixels)}, remarks)


def _table_of_colours(facts: Sequence[MaskFacts], path: Path) -> str:
    found = tally(facts)
    ordered = sorted(found.pixels, key=lambda colour: (-found.pixels[colour], colour))
    worth = [colour for colour in ordered if found.share([colour]) >= FEW_PIXELS]
    _refuse_many(len(worth), "colours", path)
    _refuse_many(0 if found.share(worth) > 0.95 else len(ordered), "colours", path)
    lines = []
    for place, colour in enumerate(worth):
        row = f'{place} = {{ name = "colour_{colour:06x}", colour = "{as_hex(colour)}" }}'
        lines.append(f"{row:<52} # {as_percent(found.share([colour]))} of the pixels, {found.masks[colour]} masks")
    return "\n".join([*HEADER, *lines]) + "\n"


HEADER = (
    "# What the masks hold, written by `segwatch init`: no class table that fits was found beside the data.",
    '# The names are made up. Put in the real ones; name = "" for what nobody knows (it is then not trained).',
    "[classes]",
)


def _table_of(names: dict[int, str], remarks: Sequence[str]) -> str:
    padded = [*remarks, *[""] * (len(names) - len(remarks))]
    rows = [f'{class_id} = "{name}"' for class_id, name in names.items()]
    return (
        "\n".join([*HEADER, *(f"{row:<28} # {said}".rstrip(" #") for row, said in zip(rows, padded, strict=True))])
        + "\n"
    )


def _refuse_many(number: int, what: str, path: Path) -> None:
    if number > MOST_CLASSES:
        raise ConfigError(
            f"the masks hold {number} {what}: smoothed or compressed on their way, or photographs and no masks",
            where=path.parent,
            remedy="export the masks again, without smoothing, as PNG; or write a class table of what they should hold",
        )
