"""What is wrong, or remarkable, about the files and classes of a data set. PURE: counts in, problems out.

Which reading and which classes there are was settled before, in `formats` and `selection`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError
from .classes import ClassTable
from .colours import as_percent, unknown_warning
from .config import NO_LABEL, DataConfig
from .contents import Contents
from .problems import Problem
from .resolved import Reading, pack
from .scan import BadFile, Fault, Scan, SplitScan
from .selection import Selection, UsedClass

RARE_SHARE = 1e-4
"""Of the training pixels: below, a low IoU is expected and no sign of a fault."""
SKIPPABLE = frozenset(Fault) - {Fault.NOT_A_MASK, Fault.TOO_SMALL, Fault.TOO_DEEP, Fault.MANY_BANDS}
"""What `on_bad_file = "skip"` may leave out. A wrong format or scale is no matter of single files."""


@dataclass
class Findings:
    errors: list[Problem] = field(default_factory=list)
    """Nothing trains while there are any."""
    warnings: list[Problem] = field(default_factory=list)


# --- files


def judge_files(scan: Scan, config: DataConfig, findings: Findings) -> None:
    """Files that cannot be used, by split and kind of fault; and splits of which there are none."""
    told: list[ConfigError] = []
    for split in scan.splits.values():
        if not split.asked:
            continue
        if split.unlisted is not None and not any(split.unlisted is error for error in told):
            told.append(split.unlisted)  # one fault of all splits is one object
            findings.errors.append(Problem.of(split.unlisted, "files"))
        _judge_split(split, config, findings)


def _judge_split(scan: SplitScan, config: DataConfig, findings: Findings) -> None:
    skipping = config.on_bad_file == "skip"
    order = {fault: place for place, fault in enumerate(Fault)}
    kinds = dict.fromkeys((file.fault, file.remedy) for file in scan.bad)
    for fault, remedy in sorted(kinds, key=lambda kind: order[kind[0]]):
        bad = [file for file in scan.bad if (file.fault, file.remedy) == (fault, remedy)]
        skipped = skipping and fault in SKIPPABLE
        (findings.warnings if skipped else findings.errors).append(
            _file_problem(scan.name, fault, bad, skipped=skipped)
        )
    told = {file.fault for file in scan.bad} - SKIPPABLE
    if scan.unlisted is None and not scan.read and not told and (skipping or not scan.bad):
        findings.errors.append(
            Problem(
                code="files",
                what=f"no pair of {scan.name} can be used",
                where=f"[data.{scan.name}]",
                remedy="mend the files that are left out, each named above with what is wrong with it"
                if scan.bad
                else "an image and its mask have the same name but for the suffix",
            )
        )


def _file_problem(split: str, fault: Fault, bad: list[BadFile], *, skipped: bool) -> Problem:
    what = f"{len(bad)} {'file' if len(bad) == 1 else 'files'} of {split}: {fault}"
    remedy = bad[0].remedy
    if skipped:
        what += ", left out"
    elif fault in SKIPPABLE:
        remedy += '; or set data.on_bad_file = "skip"'
    return Problem(
        code="bad-files",
        what=what,
        where=f"[data.{split}]",
        remedy=remedy,
        files=tuple(f"{file.path}: {file.reason}" for file in bad),
    )


# --- contents


def judge_binary_split(
    contents: Mapping[str, Contents], config: DataConfig, reading: Reading | None
) -> Iterator[Problem]:
    """Black-and-white masks beside masks of ids: whole splits of them, or single files."""
    if reading is not Reading.IDS or config.mask_format != "auto":
        return
    whole = False
    for split in contents.values():
        if split.pixels.keys() == {0, NO_LABEL}:
            whole = True
            yield Problem(
                code="mask-format",
                what=f"the masks of {split.name} hold only 0 and 255, as black-and-white masks do: no class ids",
                where=f"[data.{split.name}]",
                remedy="write each class as its own id: 255 means no label and would be ignored; "
                'if that is meant, set mask_format = "ids"',
            )

    masks = [ids.keys() for split in contents.values() for ids in split.by_mask]
    white = sum(ids == {0, NO_LABEL} for ids in masks)
    if not whole and white and {0, 1} in masks and all(ids <= {0, 1} or ids <= {0, NO_LABEL} for ids in masks):
        yield Problem(
            code="mask-format",
            what=f"{white} of {len(masks)} masks hold only 0 and 255, the others only 0 and 1: black and white, "
            "written in two ways?",
            where="data.mask_format",
            remedy='write 1 instead of 255 in them; if 255 means no label there, set mask_format = "ids"',
        )


def judge_colours(contents: Mapping[str, Contents], selection: Selection) -> Iterator[Problem]:
    """Colours that nobody has spoken of, and pixels that have none."""
    ignored = {pack(colour) for colour in selection.ignored_colours}
    unknown: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    for split in contents.values():
        unknown.update({colour: pixels for colour, pixels in split.unknown.items() if colour not in ignored})
        masks.update({colour: number for colour, number in split.unknown_masks.items() if colour not in ignored})
    total = sum(split.total for split in contents.values())
    yield from unknown_warning(unknown, masks, sum(split.rest for split in contents.values()), total)
    transparent = sum(split.transparent for split in contents.values())
    if transparent:
        yield Problem(
            code="transparent",
            what=f"{as_percent(transparent / total)} of the mask pixels are transparent: no label, ignored (255)",
            remedy="nothing, if that is meant",
        )


# --- classes


def judge_classes(
    table: ClassTable, selection: Selection, contents: Mapping[str, Contents], findings: Findings
) -> None:
    """What the chosen classes mean for scores and for training."""
    findings.errors += _nothing_to_score(selection, contents)
    findings.warnings += _ignored(table, selection, contents)
    findings.warnings += _balance(table, selection, contents)


def test_only(table: ClassTable, contents: Mapping[str, Contents]) -> list[int]:
    """Ids of the table that val or test holds and train does not."""
    elsewhere = {class_id for name in ("val", "test") for class_id in contents[name].pixels}
    return [class_id for class_id in table.ids if class_id in elsewhere and not contents["train"].pixels[class_id]]


def rare(selection: Selection, contents: Mapping[str, Contents]) -> list[int]:
    """Used ids with less than 0.01 % of the training pixels."""
    train = contents["train"]
    return [entry.id for entry in selection.classes if train.of_class(entry.ids) < RARE_SHARE * train.total]


def _nothing_to_score(selection: Selection, contents: Mapping[str, Contents]) -> Iterator[Problem]:
    for split in contents.values():
        if split.images and not split.of_class(selection.members):
            yield Problem(
                code="nothing-to-score",
                what=f"no mask of {split.name} holds any of the used ids {list(selection.ids)}; "
                f"it holds {sorted(split.pixels)}",
                where=f"[data.{split.name}]",
                remedy="check that its masks are written with the same ids as those of train",
            )


def _ignored(table: ClassTable, selection: Selection, contents: Mapping[str, Contents]) -> Iterator[Problem]:
    """Whatever is not used becomes the ignore index: say how much that is, and why."""
    present = {class_id for split in contents.values() for class_id in split.pixels}
    if NO_LABEL in present:
        yield Problem(
            code="no-label",
            what=f"255 is no label, and ignored: {_amounts(contents, [NO_LABEL])}",
            remedy="nothing, if that is meant: it says that nobody has said what is there",
        )
    ignored = sorted(present - selection.members.keys() - selection.ignored_ids - {NO_LABEL})
    if ignored:
        yield Problem(
            code="ignored-ids",
            what=f"ids {ignored} are ignored (255, never class 0): {_amounts(contents, ignored)}",
            remedy="nothing, if that is meant (data.ignore says so); else name them in the class table or list them "
            "in data.use",
        )
    unknown = sorted({*ignored} - {*table.ids})
    if unknown:
        yield Problem(
            code="unknown-ids",
            what=f"the masks hold ids that the class table does not have: {unknown}",
            where=str(table.path),
            remedy="add them to the table if they mean something",
        )
    unnamed = [class_id for class_id in ignored if class_id in table.ids and not called(table, class_id, "")]
    if unnamed:
        yield Problem(
            code="unnamed-ids",
            what=f"the masks hold ids without a name: {unnamed}",
            where=str(table.path),
            remedy="name them to use them; unnamed ids are not trained",
        )


def _amounts(contents: Mapping[str, Contents], ids: list[int]) -> str:
    return ", ".join(f"{split.name} {_amount(split, ids)}" for split in contents.values() if split.images)


def _amount(split: Contents, ids: list[int]) -> str:
    share = split.share(ids)
    return "no pixels" if share is None else f"{split.of_class(ids)} pixels ({as_percent(share)})"


def _balance(table: ClassTable, selection: Selection, contents: Mapping[str, Contents]) -> Iterator[Problem]:
    settled = {*selection.members, *selection.ignored_ids}
    learnt = bool(contents["train"].images)
    lost = [i for i in test_only(table, contents) if learnt and called(table, i, "") and i not in settled]
    if lost:
        yield Problem(
            code="only-in-test",
            what=f"val or test has classes that train has not: {_list_called(table, lost)}; they are not scored",
            where="[data.train]",
            remedy="move images that show them to train, or accept that they cannot be learned",
        )
    for name in ("val", "test"):
        unseen = [entry for entry in selection.classes if contents[name].images and not _pixels(contents[name], entry)]
        if unseen:
            yield Problem(
                code="absent-class",
                what=f"{name} has no pixel of {_list_called(table, [e.id for e in unseen])}: no IoU for it there",
                where=f"[data.{name}]",
                remedy="the mean goes over the other classes; move images if it should be scored",
            )
    few = rare(selection, contents)
    if few:
        yield Problem(
            code="rare-classes",
            what=f"under 0.01 % of the training pixels: {_list_called(table, few)}",
            remedy="expect a low IoU for it; that is no fault of the training",
        )


def _pixels(split: Contents, entry: UsedClass) -> int:
    return split.of_class(entry.ids)


def called(table: ClassTable, class_id: int, otherwise: str = "unnamed") -> str:
    """The name of an id in the table."""
    entry = table.get(class_id)
    return (entry.name if entry else "") or otherwise


def _list_called(table: ClassTable, ids: Iterable[int]) -> str:
    return ", ".join(f"{class_id} {called(table, class_id)}" for class_id in ids)
