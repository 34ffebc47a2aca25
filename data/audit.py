"""Settles, before anything trains, which classes and files a run uses. Knows nothing about tensors.

`scan` reads every mask; here its counts are judged, which is pure: counts in, problems and the resolved data out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import Field

from ..errors import ConfigError
from ..section import Record
from .classes import ClassTable, load_class_table
from .config import SPLITS, DataConfig
from .resolved import IGNORE_INDEX, ResolvedClass, ResolvedData
from .scan import BadFile, Fault, SplitScan, scan_splits

RARE_SHARE = 1e-4
"""Of the training pixels: below, a low IoU is expected and no sign of a fault."""
SKIPPABLE = (Fault.IMAGE_ALONE, Fault.MASK_ALONE, Fault.AMBIGUOUS, Fault.SIZES_DIFFER, Fault.UNREADABLE)
"""What `on_bad_file = "skip"` may leave out. A wrong mask format or scale is no matter of single files."""
FILES_IN_A_MESSAGE = 50


class Problem(Record):
    what: str
    where: str | None = None
    remedy: str
    files: tuple[str, ...] = ()
    """Every file that has it, each with its own reason."""


class ClassCount(Record):
    id: int
    name: str
    colour: tuple[int, int, int]
    used: bool
    pixels: dict[str, int]
    """By split, at full resolution."""
    images: dict[str, int]
    """How many masks of each split hold it."""
    share: dict[str, float | None]
    """Of all pixels of the split; `None` where the split has none."""


class UnknownId(Record):
    """An id that masks hold and the class table does not list."""

    id: int
    pixels: dict[str, int]
    share: dict[str, float | None]
    files: int
    examples: tuple[str, ...]
    """Up to five masks that hold it."""
    note: str = ""


class AuditReport(Record):
    root: Path
    class_table: Path
    images: dict[str, int]
    """Usable pairs by split."""
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
    bad_files: dict[str, dict[str, tuple[str, ...]]] = Field(default_factory=dict)
    """By split and fault."""
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    resolved: ResolvedData | None
    """`None` when there are errors."""


def audit(config: DataConfig, base: Path, *, progress: Callable[[int, int], None] | None = None) -> AuditReport:
    """Read every mask at full size and say what the data holds; `base` is the directory of run.toml.

    Never raises for a fault of the data: all of them are in `errors`, at once.
    """
    root = (base / config.root).resolve()
    errors: list[Problem] = []
    table = _table(root / config.classes, errors)
    scans = scan_splits(config, root, SPLITS, progress)
    warnings: list[Problem] = []
    for scan in scans.values():
        _judge_files(scan, config, errors, warnings)
    warnings += _in_two_splits(scans)
    used: tuple[int, ...] = ()
    if not table.entries:
        warnings += _ids_without_table(scans)
    elif scans["train"].pairs:
        used = _judge_classes(config, table, scans, errors, warnings)
    resolved = None
    if not errors:
        resolved = _resolve(config, root, table, used, scans)
    return _report(root, table, used, scans, errors=errors, warnings=warnings, resolved=resolved)


def require(report: AuditReport) -> ResolvedData:
    """The resolved data, or one ConfigError that holds every error of the audit."""
    if report.resolved is not None:
        return report.resolved
    assert report.errors
    if len(report.errors) == 1:
        (only,) = report.errors
        raise ConfigError(_with_files(only), where=only.where, remedy=only.remedy)
    parts = [str(ConfigError(_with_files(error), where=error.where, remedy=error.remedy)) for error in report.errors]
    raise ConfigError(
        "\n".join([f"{len(parts)} things about the data want mending:", *parts]),
        remedy="`segwatch audit run.toml` shows what the data holds",
    )


def _with_files(problem: Problem) -> str:
    lines = [problem.what, *(f"    {file}" for file in problem.files[:FILES_IN_A_MESSAGE])]
    if len(problem.files) > FILES_IN_A_MESSAGE:
        lines.append(f"    and {len(problem.files) - FILES_IN_A_MESSAGE} more, all in `segwatch audit run.toml --json`")
    return "\n".join(lines)


def _table(path: Path, errors: list[Problem]) -> ClassTable:
    try:
        return load_class_table(path)
    except ConfigError as error:  # the masks are read all the same: their ids are what a new table is written from
        errors.append(_problem(error))
        return ClassTable(path, ())


def _problem(error: ConfigError) -> Problem:
    return Problem(what=error.what, where=error.where, remedy=error.remedy or "")


# --- files


def _judge_files(scan: SplitScan, config: DataConfig, errors: list[Problem], warnings: list[Problem]) -> None:
    skipping = config.on_bad_file == "skip"
    for fault in Fault:
        bad = [file for file in scan.bad if file.fault is fault]
        if not bad:
            continue
        skipped = skipping and fault in SKIPPABLE
        (warnings if skipped else errors).append(_file_problem(scan, fault, bad, skipped=skipped))
    if scan.unlisted is not None:
        errors.append(_problem(scan.unlisted))
    elif not scan.pairs and (skipping or not scan.bad):
        errors.append(
            Problem(
                what=f"no pair of {scan.name} can be used",
                where=f"[data.{scan.name}]",
                remedy="an image and its mask have the same name but for the suffix",
            )
        )
    elif scan.pixels.keys() == {0, IGNORE_INDEX}:
        errors.append(
            Problem(
                what=f"the masks of {scan.name} hold only 0 and 255, as black-and-white masks do: no class ids",
                where=f"data.{scan.name}.masks",
                remedy="write each class as its own id: 255 means no label and would be ignored",
            )
        )


def _file_problem(scan: SplitScan, fault: Fault, bad: list[BadFile], *, skipped: bool) -> Problem:
    what = f"{len(bad)} in {scan.name}: {fault}"
    remedy = bad[0].remedy
    if skipped:
        what += ", left out"
    elif fault in SKIPPABLE and "skip" not in remedy:
        remedy += '; or set data.on_bad_file = "skip"'
    return Problem(
        what=what,
        where=f"[data.{scan.name}]",
        remedy=remedy,
        files=tuple(f"{file.path}: {file.reason}" for file in bad),
    )


def _in_two_splits(scans: dict[str, SplitScan]) -> Iterator[Problem]:
    for first, second in itertools.combinations(scans.values(), 2):
        both = sorted({pair.image for pair in first.pairs} & {pair.image for pair in second.pairs})
        if both:
            yield Problem(
                what=f"{len(both)} images are in {first.name} and in {second.name}",
                where=f"[data.{second.name}]",
                remedy="keep the splits apart: a score on images that were trained on says nothing",
                files=tuple(both),
            )


# --- classes


def _ids_without_table(scans: dict[str, SplitScan]) -> Iterator[Problem]:
    ids = sorted({class_id for scan in scans.values() for class_id in scan.pixels} - {IGNORE_INDEX})
    if ids:
        yield Problem(what=f"the masks hold ids {ids}", remedy="these are the ids that the class table has to name")


def _judge_classes(
    config: DataConfig, table: ClassTable, scans: dict[str, SplitScan], errors: list[Problem], warnings: list[Problem]
) -> tuple[int, ...]:
    """The ids to use, ascending; empty when that is impossible."""
    train = scans["train"].pixels
    possible = tuple(class_id for class_id in table.named_ids if train[class_id])
    if config.use == "named-and-present":
        used = possible
    else:
        wrong = list(_judge_list(config.use, table, train, f"data.train.masks ({config.train.masks})"))
        errors += wrong
        if wrong:
            return ()
        used = tuple(sorted(config.use))
    if len(used) < 2:
        listed = config.use != "named-and-present"
        errors.append(
            Problem(
                what=f"no two classes to train, only {list(used)}; the training masks hold ids {sorted(train)}",
                where="data.use" if listed else str(table.path),
                remedy="name at least two ids that the training masks hold",
            )
        )
        return ()
    errors += _nothing_to_score(used, scans)
    warnings += _judge_ignored(used, table, scans)
    warnings += _judge_balance(used, table, scans)
    return used


def _judge_list(use: list[int], table: ClassTable, train: Counter[int], masks: str) -> Iterator[Problem]:
    would_work = [class_id for class_id in table.ids if train[class_id]]
    for class_id, times in Counter(use).items():
        if times > 1:
            yield Problem(
                what=f"data.use lists id {class_id} {times} times", where="data.use", remedy="list each id once"
            )
        if class_id not in table.ids:
            yield Problem(
                what=f"data.use lists id {class_id}, which the class table does not have",
                where=str(table.path),
                remedy=f"add id {class_id} to the table, or take it out of data.use; these would work: {would_work}",
            )
        elif not train[class_id]:
            yield Problem(
                what=f"data.use lists id {class_id} ({_called(table, class_id)}), which no training mask holds",
                where=masks,
                remedy=f"take id {class_id} out of data.use: it cannot be learned; these would work: {would_work}",
            )


def _nothing_to_score(used: tuple[int, ...], scans: dict[str, SplitScan]) -> Iterator[Problem]:
    for scan in scans.values():
        if scan.pairs and not any(scan.pixels[class_id] for class_id in used):
            yield Problem(
                what=f"no mask of {scan.name} holds any of the used ids {list(used)}; it holds {sorted(scan.pixels)}",
                where=f"data.{scan.name}.masks",
                remedy="check that its masks are written with the same ids as those of train",
            )


def _judge_ignored(used: tuple[int, ...], table: ClassTable, scans: dict[str, SplitScan]) -> Iterator[Problem]:
    """Whatever is not used becomes the ignore index: say how much that is, and why."""
    ignored = sorted({class_id for scan in scans.values() for class_id in scan.pixels} - set(used))
    if ignored:
        parts = (f"{scan.name} {_ignored(scan, used)}" for scan in scans.values())
        yield Problem(
            what=f"ids {ignored} are ignored (255, never class 0): {', '.join(parts)}",
            remedy="nothing, if that is meant; else name them in the class table or list them in data.use",
        )
    unknown = sorted(set(ignored) - set(table.ids) - {IGNORE_INDEX})
    if unknown:
        yield Problem(
            what=f"the masks hold ids that the class table does not have: {unknown}",
            where=str(table.path),
            remedy="add them to the table if they mean something",
        )
    unnamed = [class_id for class_id in ignored if class_id in table.ids and not _name(table, class_id)]
    if unnamed:
        yield Problem(
            what=f"the masks hold ids without a name: {unnamed}",
            where=str(table.path),
            remedy="name them to use them; unnamed ids are not trained",
        )


def _judge_balance(used: tuple[int, ...], table: ClassTable, scans: dict[str, SplitScan]) -> Iterator[Problem]:
    lost = [class_id for class_id in _test_only(table, scans) if _name(table, class_id)]
    if lost:
        yield Problem(
            what=f"val or test has classes that train has not: {_list_called(table, lost)}; they are not scored",
            where="data.train.masks",
            remedy="move images that show them to train, or accept that they cannot be learned",
        )
    for name in ("val", "test"):
        unseen = [class_id for class_id in used if scans[name].pairs and not scans[name].pixels[class_id]]
        if unseen:
            yield Problem(
                what=f"{name} has no pixel of {_list_called(table, unseen)}: no IoU for it there",
                where=f"data.{name}.masks",
                remedy="the mean goes over the other classes; move images if it should be scored",
            )
    rare = _rare(used, scans)
    if rare:
        yield Problem(
            what=f"under 0.01 % of the training pixels: {_list_called(table, rare)}",
            remedy="expect a low IoU for it; that is no fault of the training",
        )


def _test_only(table: ClassTable, scans: dict[str, SplitScan]) -> list[int]:
    elsewhere = {class_id for name in ("val", "test") for class_id in scans[name].pixels}
    return [class_id for class_id in table.ids if class_id in elsewhere and not scans["train"].pixels[class_id]]


def _rare(used: tuple[int, ...], scans: dict[str, SplitScan]) -> list[int]:
    train = scans["train"].pixels
    return [class_id for class_id in used if train[class_id] < RARE_SHARE * train.total()]


def _ignored(scan: SplitScan, used: tuple[int, ...]) -> str:
    total = scan.pixels.total()
    pixels = total - sum(scan.pixels[class_id] for class_id in used)
    return f"{pixels} pixels ({percent(pixels / total)})" if total else "no pixels"


def percent(share: float) -> str:
    """Two digits after the point, or two that are not 0: 0.001 % must not read as none."""
    number = 100 * share
    return f"{number:.2f} %" if number >= 0.1 or number == 0 else f"{number:.2g} %"


def _name(table: ClassTable, class_id: int) -> str:
    entry = table.get(class_id)
    return entry.name if entry else ""


def _called(table: ClassTable, class_id: int) -> str:
    return _name(table, class_id) or "unnamed"


def _list_called(table: ClassTable, ids: Iterable[int]) -> str:
    return ", ".join(f"{class_id} {_called(table, class_id)}" for class_id in ids)


# --- results


def _resolve(
    config: DataConfig, root: Path, table: ClassTable, used: tuple[int, ...], scans: dict[str, SplitScan]
) -> ResolvedData:
    return ResolvedData(
        root=root,
        scale=config.scale,
        classes=tuple(
            ResolvedClass(
                id=entry.id,
                name=entry.name or f"class_{entry.id}",  # listed by hand: it needs something to be called by
                colour=entry.colour,
                pixels={scan.name: scan.pixels[entry.id] for scan in scans.values()},
            )
            for entry in table.entries
            if entry.id in used
        ),
        splits={scan.name: tuple(scan.pairs) for scan in scans.values()},
        skipped={scan.name: len(scan.bad) for scan in scans.values()},
    )


def _report(
    root: Path,
    table: ClassTable,
    used: tuple[int, ...],
    scans: dict[str, SplitScan],
    *,
    errors: list[Problem],
    warnings: list[Problem],
    resolved: ResolvedData | None,
) -> AuditReport:
    present = {class_id for scan in scans.values() for class_id in scan.pixels}
    return AuditReport(
        root=root,
        class_table=table.path,
        images={scan.name: len(scan.pairs) for scan in scans.values()},
        pixels={scan.name: scan.pixels.total() for scan in scans.values()},
        ignored_share={
            scan.name: 1 - sum(_share(scan, class_id) or 0.0 for class_id in used) if used and scan.pairs else None
            for scan in scans.values()
        },
        classes=tuple(
            ClassCount(
                id=entry.id,
                name=entry.name,
                colour=entry.colour,
                used=entry.id in used,
                pixels={scan.name: scan.pixels[entry.id] for scan in scans.values()},
                images={scan.name: scan.masks[entry.id] for scan in scans.values()},
                share={scan.name: _share(scan, entry.id) for scan in scans.values()},
            )
            for entry in table.entries
        ),
        unnamed_present=tuple(entry.id for entry in table.entries if entry.id in present and not entry.name),
        named_absent=tuple(class_id for class_id in table.named_ids if class_id not in present),
        test_only=tuple(_test_only(table, scans)),
        rare=tuple(_rare(used, scans)),
        unknown_ids=tuple(_unknown(class_id, scans) for class_id in sorted(present - set(table.ids))),
        bad_files={
            scan.name: {
                fault.value: tuple(file.path for file in scan.bad if file.fault is fault)
                for fault in sorted({file.fault for file in scan.bad})
            }
            for scan in scans.values()
        },
        errors=tuple(errors),
        warnings=tuple(warnings),
        resolved=resolved,
    )


def _unknown(class_id: int, scans: dict[str, SplitScan]) -> UnknownId:
    examples = [file for scan in scans.values() for file in scan.examples.get(class_id, [])]
    return UnknownId(
        id=class_id,
        pixels={scan.name: scan.pixels[class_id] for scan in scans.values()},
        share={scan.name: _share(scan, class_id) for scan in scans.values()},
        files=sum(scan.masks[class_id] for scan in scans.values()),
        examples=tuple(examples[:5]),
        note="no label" if class_id == IGNORE_INDEX else "",
    )


def _share(scan: SplitScan, class_id: int) -> float | None:
    total = scan.pixels.total()
    return scan.pixels[class_id] / total if total else None
