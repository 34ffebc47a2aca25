"""`segwatch init`: from a folder of images and masks to a run.toml that works. Asks nothing that it can find out.

What the folder is like is found by `data.layouts`, which class table fits by `data.starting_table`, and the text comes
from `starting_config`; here they are put in order. Nothing that is there is ever overwritten.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ..data.audit import AuditReport
from ..data.audit_view import render
from ..data.classes import ClassTable, load_class_table
from ..data.config import SPLITS, DataConfig
from ..data.judging import SKIPPABLE
from ..data.layouts import Layout, find_layout
from ..data.scan import Scan, scan_splits
from ..data.splits import listings
from ..data.starting_table import Candidate, colours_of, judged, proposed_table, tables_beside
from ..durable import write_text
from ..errors import ConfigError, UsageError
from ..plain import one_line
from . import next_steps
from .bars import bar
from .config import parse_config
from .rundir import shown
from .starting_config import Start, fitting_scale, lacking_split, run_toml
from .survey import sizes_of

RUN_TOML = "run.toml"
PROPOSED = "classes.toml"
ANY_WRITE_BIT = 0o222
SIZES_READ = 200


@dataclass(frozen=True)
class _Found:
    """What is known once the masks are read."""

    start: Start
    report: AuditReport
    candidates: Sequence[Candidate]
    refused: dict[Path, str]
    new_table: tuple[Path, str] | None
    """A class table to write, and its text."""


def initialise(folder: Path, output: Path | None, console: Console) -> bool:
    """Write a run.toml for `folder` and print what was found; whether it is ready to train.

    Raises ConfigError for a folder that holds no data set, and UsageError where a run.toml is there already.
    """
    target = folder / RUN_TOML if output is None else output
    _refuse_to_overwrite(folder, target)
    layout = find_layout(folder)
    found = _look(folder, layout, target, console)
    text = run_toml(found.start)
    parse_config(text.encode(), target)  # what we write, we can read
    _write(target, text, found.new_table)
    render(found.report, console, again=next_steps.command("audit", target))
    _say(console, "")
    for line in _findings(found, folder):
        _say(console, line)
    _print_next(console, target, found)
    return found.report.resolved is not None


def _refuse_to_overwrite(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder, remedy="name the folder that holds images and masks")
    if target.exists():
        raise UsageError(
            "is there already, and is left as it is",
            where=target,
            remedy=f"use it: segwatch doctor {shlex.quote(str(target))}; or write another one: --output other.toml",
        )
    place = target.parent
    # The superuser may write anywhere; a directory without any write bit is meant to stay as it is all the same.
    if not place.is_dir() or not os.access(place, os.W_OK) or not place.stat().st_mode & ANY_WRITE_BIT:
        raise UsageError(
            "run.toml cannot be written here", where=place, remedy="say where it may be: --output run.toml"
        )


def _look(folder: Path, layout: Layout, target: Path, console: Console) -> _Found:
    """Read every mask once, and settle everything by it."""
    root = folder.resolve()
    sizes = _sizes(root, layout)
    start = Start(
        layout=layout,
        root=_from(target.resolve().parent, root),
        classes=PROPOSED,
        table_remark="",
        scale=fitting_scale(sizes),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
    )
    if layout.everything is not None and _no_scenes(start, root):
        start = replace(start, by="image")
    tables, refused = tables_beside(folder)
    scan = _scan(_config(start), root, tables, console)
    candidates = judged(_config(start), root, scan, tables)
    new_table = None
    if candidates and candidates[0].fits:
        table, remark = candidates[0].table, "its colours or ids are those of the masks"
    else:
        path = _free_name(target.resolve().parent)
        written, mask_format = proposed_table(_config(start), scan, path)
        table, remark = _not_yet_written(path, written), "written from what the masks hold: put in the names"
        start, new_table = replace(start, mask_format=mask_format), (path, written)
    start = replace(start, classes=_from(root, table.path.parent.resolve() / table.path.name), table_remark=remark)
    (chosen,) = judged(_config(start), root, scan, [table])
    if lost := _left_out(scan, chosen.report):
        start = replace(start, skip=lost)
        (chosen,) = judged(_config(start), root, scan, [table])
    report = chosen.report
    trained = [f"{entry.id} {entry.name}" for entry in report.classes if entry.used]
    return _Found(replace(start, trained=trained), report, candidates, refused, new_table)


def _config(start: Start) -> DataConfig:
    return DataConfig.model_validate(start.data())


def _no_scenes(start: Start, root: Path) -> bool:
    return bool(listings(_config(start), root).unlisted)


def _sizes(root: Path, layout: Layout) -> list[tuple[int, int]]:
    """(height, width) of up to 200 images, spread over all of them."""
    start = Start(layout, str(root), PROPOSED, "", 1.0, (1, 1), by="image")
    listed = listings(_config(start), root)
    images = sorted({image for split in listed.splits.values() for image, _ in split.pairs})
    if not images and listed.unlisted:
        raise _undrawable(next(iter(listed.unlisted.values())), root, layout)
    found = sizes_of(images[:: max(1, len(images) // SIZES_READ)])
    if not found:
        raise ConfigError("no image can be read", where=root, remedy="restore the files")
    return found


def _undrawable(error: ConfigError, root: Path, layout: Layout) -> ConfigError:
    """There is no run.toml yet whose keys a person could mend."""
    if layout.total >= len(SPLITS):
        return error
    return ConfigError(error.what, where=root, remedy="add some: train, val and test need at least one image each")


def _scan(config: DataConfig, root: Path, tables: Sequence[ClassTable], console: Console) -> Scan:
    with bar(console, "every mask is read") as progress:
        return scan_splits(
            config,
            root,
            keep=colours_of(tables),
            progress=progress,
        )


def _not_yet_written(path: Path, text: str) -> ClassTable:
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place) / path.name
        draft.write_text(text)
        return replace(load_class_table(draft), path=path)


def _left_out(scan: Scan, report: AuditReport) -> int:
    """How many images to do without: where nothing else is wrong, and most of them can be used. A person is told."""
    lost = sum(split.lost for split in scan.splits.values())
    bad = [file for split in scan.splits.values() for file in split.bad]
    only_files = bool(report.errors) and all(problem.code == "bad-files" for problem in report.errors)
    if not only_files or any(file.fault not in SKIPPABLE for file in bad) or lost >= sum(report.images.values()):
        return 0
    return max(1, lost)


def _free_name(place: Path) -> Path:
    """A name for a class table that nobody has taken."""
    names: Iterator[str] = iter([PROPOSED, *(f"classes-{number}.toml" for number in range(2, 1000))])
    return next(path for name in names if not (path := place / name).exists())


def _from(place: Path, path: Path) -> str:
    """Relative where that stays below; else absolute, since a chain of `..` breaks when either is moved."""
    relative = os.path.relpath(path, place)
    return str(path) if relative.startswith("..") else relative


def _write(target: Path, text: str, new_table: tuple[Path, str] | None) -> None:
    try:
        if new_table is not None:
            write_text(*new_table)
        write_text(target, text)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", where=target, remedy="say where it may be: --output run.toml"
        ) from error


# --- words


def _findings(found: _Found, folder: Path) -> Iterator[str]:
    layout, start = found.start.layout, found.start
    yield f"found      {layout.in_words}: {_counts(layout)}"
    for path in layout.other_masks:
        yield f"           {path} has masks for the same images; to use these, change `masks`"
    for name in layout.without_masks:
        yield f"           {name} has no masks and is left out"
    lacking = lacking_split(layout)
    if lacking:
        yield f"           there is no {lacking}: the other held-out split serves as both, which flatters"
    if found.new_table is not None:
        written = shown(found.new_table[0])
        yield f"classes    no table beside the data fits, so one was written: {written}; put in the names"
    else:
        yield f"classes    {found.report.class_table}: fits"
    for candidate in found.candidates:
        if not candidate.fits:
            yield f"           {_shown(candidate.table.path, folder)} does not fit: {one_line(candidate.why_not)}"
    for path, why in found.refused.items():
        yield f"           {_shown(path, folder)} is no class table: {one_line(why)}"
    yield f"scale      {start.scale:g}, for images of up to {start.largest[1]}x{start.largest[0]}"


def _counts(layout: Layout) -> str:
    return ", ".join(
        f"{number} pairs" if name == "all" else f"{number} {name}" for name, number in layout.pairs.items()
    )


def _shown(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _print_next(console: Console, target: Path, found: _Found) -> None:
    name = shlex.quote(str(target))
    _say(console, f"written    {target}")
    if found.report.resolved is None:
        _say(console, "           not ready to train: mend what is named above, then")
    _say(console, f"\nNext:\n  segwatch doctor {name}\n  segwatch audit {name}")


def _say(console: Console, words: str) -> None:
    console.print(words, soft_wrap=True, highlight=False, markup=False)
