"""Settles, before anything trains, how masks are read and which classes and files a run uses. Knows nothing of tensors.

`scan` reads every file; what it found is judged by pure modules: `formats` (how masks are read), `selection` (which
classes), `leaks` (what the splits share) and `judging` (the rest). Here they are put in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ..errors import ConfigError
from ..plain import one_line
from ..section import Record
from .balance import weights
from .classes import ClassTable, load_class_table, require_ids
from .colours import as_hex, ignored_colours, packed_colours, pasteable, tally
from .config import NO_LABEL, SPLITS, DataConfig
from .contents import Contents, contents_of
from .effort import Effort
from .formats import Format, MaskFile, settle
from .frozen import FrozenFile
from .judging import Findings, judge_binary_split, judge_classes, judge_colours, judge_files, rare, test_only
from .leaks import Leaks, find_leaks
from .masks import Kind
from .problems import Problem
from .resolved import Reading, ResolvedClass, ResolvedData, pack
from .scan import ReadPair, Scan, SplitScan, scan_splits
from .selection import Selection, select_classes
from .splits import SplitShare

WEIGHT_LIMIT = 10.0
"""As `loss.class_weight_limit` has it by default."""
FILES_IN_A_MESSAGE = 50
EXAMPLES = 5


class ClassCount(Record):
    """An entry of the class table, and what the masks hold of it."""

    id: int
    name: str
    colour: tuple[int, int, int]
    used: bool
    pixels: dict[str, int]
    """By split, at full resolution; of this id alone, whatever is joined into it."""
    images: dict[str, int]
    """How many masks of each split hold it."""
    share: dict[str, float | None]
    """Of all pixels of the split; `None` where the split has none."""
    joined_into: int | None = None
    """The class that its pixels belong to by `data.merge`."""
    ignored: bool = False
    """By `data.ignore`."""
    weight: float | None = None
    """Median-frequency weight of a used class."""


class UnknownId(Record):
    """An id that masks hold and the class table does not list."""

    id: int
    pixels: dict[str, int]
    share: dict[str, float | None]
    images: dict[str, int] = Field(default_factory=dict)
    """How many masks of each split hold it."""
    files: int
    examples: tuple[str, ...]
    """Up to five masks that hold it."""
    note: str = ""


class UnknownColour(Record):
    """A colour that masks hold and the class table does not have."""

    colour: str
    """Such as #E2A929."""
    pixels: dict[str, int]
    share: dict[str, float | None]
    images: dict[str, int] = Field(default_factory=dict)
    """How many masks of each split hold it."""
    files: int
    examples: tuple[str, ...]
    """Up to five masks that hold it."""
    ignored: bool
    """By `data.ignore`."""


class AuditReport(Record):
    root: Path
    class_table: Path
    reading: Reading | None = None
    """How mask pixels become ids; `None` where that could not be settled."""
    statement: str = ""
    """What the masks are and how they are read, in a sentence."""
    mask_kinds: dict[str, dict[str, int]] = Field(default_factory=dict)
    """By split: how many masks of each kind of file."""
    images: dict[str, int]
    """Usable pairs by split."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Images by split that cannot be used, whichever of their files is bad; `bad_files` has the files."""
    split_shares: dict[str, SplitShare] = Field(default_factory=dict)
    """How the splits were drawn; empty unless they were."""
    leaked: dict[str, int] = Field(default_factory=dict)
    """How many images of val and test are, byte for byte, images of train."""
    pixels: dict[str, int]
    """Of the usable masks, by split."""
    ignored_share: dict[str, float | None]
    """Pixels that neither train nor count, by split; `None` when the classes are not settled."""
    classes: tuple[ClassCount, ...]
    unnamed_present: tuple[int, ...]
    named_absent: tuple[int, ...]
    """Named, but in no mask at all."""
    test_only: tuple[int, ...]
    """Ids that val or test holds and train does not."""
    rare: tuple[int, ...]
    """Used ids with less than 0.01 % of the training pixels."""
    unknown_ids: tuple[UnknownId, ...]
    unknown_colours: tuple[UnknownColour, ...] = ()
    """The most frequent first."""
    proposed_use: tuple[int, ...] = ()
    """The classes that are used: to be written into run.toml, so that they stay."""
    class_weights: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """By `loss.class_weights`: a weight for each of `proposed_use`."""
    bad_files: dict[str, dict[str, tuple[str, ...]]] = Field(default_factory=dict)
    """By split and fault."""
    effort: Effort | None = None
    """How long the files took to read."""
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    resolved: ResolvedData | None
    """`None` when there are errors."""
    files: tuple[FrozenFile, ...] = Field(default=(), exclude=True, repr=False)
    """Every usable file as it was read; for the run that begins, and no part of what is told."""


def audit(
    config: DataConfig,
    base: Path,
    *,
    weight_limit: float = WEIGHT_LIMIT,
    progress: Callable[[int, int], None] | None = None,
    splits: Collection[str] = SPLITS,
) -> AuditReport:
    """Read every file at full size and say what the data holds; `base` is the directory of run.toml.

    Without train among `splits` it is an audit for scoring: nothing need be learnable, and train is only compared.
    A fault of the data raises nothing: all of them are in `errors`, at once.
    """
    root = (base / config.root).resolve()
    findings = Findings()
    table = _table(root / config.classes, findings)
    keep = frozenset({*packed_colours(table), *ignored_colours(config)})
    scan = scan_splits(config, root, keep=keep, progress=progress, asked=splits)
    return judge(config, root, table, scan, findings, weight_limit=weight_limit)


def judge(
    config: DataConfig, root: Path, table: ClassTable, scan: Scan, findings: Findings, *, weight_limit: float
) -> AuditReport:
    """PURE: everything that follows from what was read."""
    masks = [
        MaskFile(split.name, entry.pair.mask, entry.facts) for split in scan.splits.values() for entry in split.read
    ]
    settled = settle(masks, table, config)
    reading = settled.reading or _likely(masks)
    contents = {name: contents_of(name, masks, reading, packed_colours(table)) for name in SPLITS}
    findings.errors += settled.errors
    findings.warnings += settled.warnings
    judge_files(scan, config, findings)
    findings.errors += judge_binary_split(contents, config, settled.reading)
    leaks = find_leaks(config, root, {name: _hashes(scan, name) for name in SPLITS})
    findings.warnings += leaks.problems
    selection = Selection()
    if not table.entries:
        findings.warnings += _without_table(masks, contents, table, reading)
    elif settled.reading is not None and _has_ids(table, settled.reading, findings) and _is_readable(scan, contents):
        selection = _select(config, table, settled.reading, contents, findings, scan=scan)
    return _Outcome(config, root, table, scan, settled, contents, leaks, selection, findings).report(weight_limit)


def require(report: AuditReport, *, again: str = "segwatch audit run.toml") -> ResolvedData:
    """The resolved data, or one ConfigError that holds every error; `again` is the command that audits the same."""
    if report.resolved is not None:
        return report.resolved
    assert report.errors
    if len(report.errors) == 1:
        (only,) = report.errors
        raise ConfigError(_with_files(only, again), where=only.where, remedy=only.remedy)
    parts = [
        str(ConfigError(_with_files(error, again), where=error.where, remedy=error.remedy)) for error in report.errors
    ]
    raise ConfigError(
        "\n".join([f"{len(parts)} things about the data want mending:", *parts]),
        remedy=f"`{again}` shows what the data holds",
    )


def _with_files(problem: Problem, again: str) -> str:
    lines = [
        problem.what,
        *(f"    {line}" for line in problem.lines),
        *(f"    {one_line(file)}" for file in problem.files[:FILES_IN_A_MESSAGE]),
    ]
    if len(problem.files) > FILES_IN_A_MESSAGE:
        lines.append(f"    and {len(problem.files) - FILES_IN_A_MESSAGE} more, all in `{again} --json`")
    return "\n".join(lines)


def _table(path: Path, findings: Findings) -> ClassTable:
    try:
        return load_class_table(path)
    except ConfigError as error:  # the masks are read all the same: what they hold is what a new table is written from
        findings.errors.append(Problem.of(error, "class-table"))
        return ClassTable(path, ())


def _has_ids(table: ClassTable, reading: Reading, findings: Findings) -> bool:
    """A table that numbers its classes by their place serves masks of colours only."""
    if reading is Reading.COLOURS:
        return True
    try:
        require_ids(table)
    except ConfigError as error:
        findings.errors.append(Problem.of(error, "class-table"))
        return False
    return True


def _likely(masks: list[MaskFile]) -> Reading:
    """By what to count for a person while the reading is not settled."""
    grey = all(not mask.facts.colours for mask in masks)
    return Reading.IDS if grey else Reading.COLOURS


def _without_table(
    masks: list[MaskFile], contents: Mapping[str, Contents], table: ClassTable, reading: Reading
) -> list[Problem]:
    if not masks:
        return []
    if reading is Reading.COLOURS:
        return [
            Problem(
                code="class-table",
                what="what the masks hold",
                remedy="these are the colours that the class table has to name",
                lines=tuple(pasteable(tally(mask.facts for mask in masks), table)),
            )
        ]
    ids = sorted({class_id for split in contents.values() for class_id in split.pixels} - {NO_LABEL})
    return [
        Problem(
            code="class-table",
            what=f"the masks hold ids {ids}",
            remedy="these are the ids that the class table has to name",
        )
    ]


def _hashes(scan: Scan, split: str) -> dict[str, str]:
    return {entry.pair.image: entry.image_hash for entry in scan.splits[split].read} | scan.splits[split].compared


def _is_readable(scan: Scan, contents: Mapping[str, Contents]) -> bool:
    """Whether the masks that settle the classes were read."""
    settling = ["train"] if scan.splits["train"].asked else [name for name, split in scan.splits.items() if split.asked]
    return any(contents[name].images for name in settling)


def _select(
    config: DataConfig,
    table: ClassTable,
    reading: Reading,
    contents: Mapping[str, Contents],
    findings: Findings,
    *,
    scan: Scan,
) -> Selection:
    unknown = {colour for split in contents.values() for colour in split.unknown}
    selection = select_classes(
        config,
        table,
        reading,
        {name: set(split.pixels) for name, split in contents.items() if scan.splits[name].asked},
        unlisted_colours={(colour >> 16, colour >> 8 & 0xFF, colour & 0xFF) for colour in unknown},
    )
    findings.errors += selection.errors
    findings.warnings += selection.warnings
    findings.warnings += judge_colours(contents, selection)
    if selection.classes:
        judge_classes(table, selection, contents, findings)
    return selection


# --- results


@dataclass(frozen=True)
class _Outcome:
    """What the audit found, and how it is told."""

    config: DataConfig
    root: Path
    table: ClassTable
    scan: Scan
    settled: Format
    contents: Mapping[str, Contents]
    leaks: Leaks
    selection: Selection
    findings: Findings

    def report(self, weight_limit: float) -> AuditReport:
        table, contents, scans = self.table, self.contents, self.scan.splits
        weighed = self._weights(weight_limit)
        held = self._held()
        return AuditReport(
            root=self.root,
            class_table=table.path,
            reading=self.settled.reading,
            statement=self.settled.statement,
            mask_kinds={name: _kinds(scans[name].read) for name in scans},
            images={name: split.images for name, split in contents.items()},
            skipped={name: scan.lost for name, scan in scans.items()},
            split_shares=self.scan.shares,
            leaked=self.leaks.identical,
            pixels={name: split.total for name, split in contents.items()},
            ignored_share={name: self._ignored_share(split) for name, split in contents.items()},
            classes=self._classes(dict(zip(self.selection.ids, weighed.get("median-frequency", ()), strict=True))),
            unnamed_present=tuple(entry.id for entry in table.entries if entry.id in held and not entry.name),
            named_absent=tuple(class_id for class_id in table.named_ids if class_id not in held),
            test_only=tuple(test_only(table, contents)),
            rare=tuple(rare(self.selection, contents)),
            unknown_ids=tuple(self._unknown_id(class_id) for class_id in sorted(held - set(table.ids))),
            unknown_colours=self._unknown_colours(),
            proposed_use=self.selection.ids,
            class_weights=weighed,
            bad_files={name: _by_fault(scan) for name, scan in scans.items()},
            effort=self.scan.effort,
            errors=tuple(self.findings.errors),
            warnings=tuple(self.findings.warnings),
            resolved=None if self.findings.errors else self._resolved(),
            files=tuple(file for scan in scans.values() for file in scan.files),
        )

    def _resolved(self) -> ResolvedData:
        assert self.settled.reading is not None  # what forbids a reading is an error
        coloured = self.settled.reading is Reading.COLOURS
        seen = {name: split.seen(self.selection.members) for name, split in self.contents.items()}
        return ResolvedData(
            root=self.root,
            scale=self.config.scale,
            classes=tuple(
                ResolvedClass(
                    id=entry.id,
                    name=entry.name,
                    colour=entry.colour,
                    pixels={name: split.of_class(entry.ids) for name, split in self.contents.items()},
                    seen={name: counted[entry.id] for name, counted in seen.items()},
                    ids=entry.ids if entry.ids != (entry.id,) else (),
                    colours=entry.colours if coloured else (),
                )
                for entry in self.selection.classes
            ),
            splits={name: split.pairs for name, split in self.scan.splits.items()},
            skipped={name: split.lost for name, split in self.scan.splits.items()},
            reading=self.settled.reading,
            leaked=self.leaks.identical,
        )

    def _held(self) -> set[int]:
        """The ids that any mask holds."""
        return {class_id for split in self.contents.values() for class_id in split.pixels}

    def _classes(self, weight_of: Mapping[int, float]) -> tuple[ClassCount, ...]:
        members, contents = self.selection.members, self.contents
        return tuple(
            ClassCount(
                id=entry.id,
                name=entry.name,
                colour=entry.colour,
                used=entry.id in members,
                pixels={name: split.pixels[entry.id] for name, split in contents.items()},
                images={name: split.masks[entry.id] for name, split in contents.items()},
                share={name: split.share([entry.id]) for name, split in contents.items()},
                joined_into=members.get(entry.id) if members.get(entry.id) != entry.id else None,
                ignored=entry.id in self.selection.ignored_ids,
                weight=weight_of.get(entry.id),
            )
            for entry in self.table.entries
        )

    def _weights(self, limit: float) -> dict[str, tuple[float, ...]]:
        if not self.selection.classes:
            return {}
        train = self.contents["train"]
        seen = train.seen(self.selection.members)
        pixels = [train.of_class(entry.ids) for entry in self.selection.classes]
        of_images = [seen[entry.id] for entry in self.selection.classes]
        return {
            "median-frequency": tuple(weights("median-frequency", pixels, of_images, limit)),
            "inverse": tuple(weights("inverse", pixels, of_images, limit)),
        }

    def _ignored_share(self, split: Contents) -> float | None:
        used = split.share(self.selection.members) if self.selection.classes else None
        return None if used is None else 1 - used

    def _unknown_id(self, class_id: int) -> UnknownId:
        splits = self.contents.values()
        note = "no label" if class_id == NO_LABEL else "ignored" if class_id in self.selection.ignored_ids else ""
        into = self.selection.members.get(class_id)
        return UnknownId(
            id=class_id,
            pixels={split.name: split.pixels[class_id] for split in splits},
            share={split.name: split.share([class_id]) for split in splits},
            images={split.name: split.masks[class_id] for split in splits},
            files=sum(split.masks[class_id] for split in splits),
            examples=tuple(file for split in splits for file in split.examples.get(class_id, []))[:EXAMPLES],
            note=note if into is None else f"joined into {into}",
        )

    def _unknown_colours(self) -> tuple[UnknownColour, ...]:
        if self.settled.reading not in (None, Reading.COLOURS):
            return ()
        ignored = {pack(colour) for colour in self.selection.ignored_colours}
        splits = self.contents.values()
        total: Counter[int] = Counter()
        for split in splits:
            total.update(split.unknown)
        return tuple(
            UnknownColour(
                colour=as_hex(colour),
                pixels={split.name: split.unknown[colour] for split in splits},
                share={split.name: split.unknown[colour] / split.total if split.total else None for split in splits},
                images={split.name: split.unknown_masks[colour] for split in splits},
                files=sum(split.unknown_masks[colour] for split in splits),
                examples=tuple(file for s in splits for file in s.unknown_examples.get(colour, []))[:EXAMPLES],
                ignored=colour in ignored,
            )
            for colour in sorted(total, key=lambda colour: (-total[colour], colour))
        )


def _by_fault(scan: SplitScan) -> dict[str, tuple[str, ...]]:
    faults = sorted({file.fault for file in scan.bad})
    return {fault.value: tuple(file.path for file in scan.bad if file.fault is fault) for fault in faults}


def _kinds(read: list[ReadPair]) -> dict[str, int]:
    found: Counter[Kind] = Counter(entry.facts.kind for entry in read)
    return {kind.value: number for kind, number in found.most_common()}
