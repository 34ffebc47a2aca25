"""The words of an audit that the terminal and audit.md share. Decides nothing, prints nothing."""

from __future__ import annotations

from collections.abc import Iterator

from .audit import AuditReport, ClassCount, UnknownColour
from .colours import as_percent
from .config import SPLITS
from .resolved import Reading

COLOURS_SHOWN = 8


def summary(report: AuditReport) -> Iterator[str]:
    """What was read, where, and how: a sentence each."""
    counts = ", ".join(f"{report.images[split]} {split}" for split in SPLITS)
    yield f"{counts} images with masks in {report.root}"
    yield f"class table {report.class_table}"
    if report.statement:
        yield report.statement
    if report.split_shares:
        yield "split drawn: " + ", ".join(_drawn(report, split) for split in SPLITS if split in report.split_shares)


def _drawn(report: AuditReport, split: str) -> str:
    share = report.split_shares[split]
    scenes = "" if share.scenes is None else f" in {share.scenes} scene{'' if share.scenes == 1 else 's'}"
    return f"{split} {as_percent(share.got)} (asked {as_percent(share.asked)}){scenes}"


def misfit(report: AuditReport) -> bool:
    """Whether an error lists the colours of the masks, since the table has others: its counts say nothing then."""
    return any(error.code == "class-colours" and error.lines for error in report.errors)


def present(report: AuditReport) -> list[ClassCount]:
    """The entries of the class table that any mask holds."""
    return [] if misfit(report) else [entry for entry in report.classes if any(entry.pixels.values())]


def absent(report: AuditReport) -> str:
    """The entries that no mask holds, in one line; empty where there are none."""
    if misfit(report):
        return ""
    # Pixels of a colour that several entries share are counted with the first of them.
    shown = {entry.colour for entry in present(report)} if report.reading is Reading.COLOURS else set()
    names = [
        f"{entry.id} {entry.name or '(unnamed)'}"
        for entry in report.classes
        if not any(entry.pixels.values()) and entry.colour not in shown
    ]
    return f"In no mask: {', '.join(names)}" if names else ""


def colours_worth_a_line(report: AuditReport) -> tuple[UnknownColour, ...]:
    """The most frequent unknown colours, unless an error lists them already."""
    return () if misfit(report) else report.unknown_colours[:COLOURS_SHOWN]


def note(entry: ClassCount, report: AuditReport) -> str:
    """What becomes of an entry that masks hold."""
    if entry.joined_into is not None:
        return f"joined into {entry.joined_into}"
    if entry.used:
        return "used, rare" if entry.id in report.rare else "used"
    if entry.ignored:
        return "ignored"
    if not entry.name:
        return "unnamed"
    if entry.id in report.test_only:
        return "not in train"
    return "not used" if report.resolved is not None else ""


def share(shares: dict[str, float | None], split: str) -> str:
    """A dash for none, and for unknown."""
    value = shares[split]
    return as_percent(value) if value else "-"


def weight(entry: ClassCount) -> str:
    return "" if entry.weight is None else f"{entry.weight:.2f}"


def as_toml(report: AuditReport) -> str:
    """What keeps these classes, whatever the masks hold later."""
    return f"[data]\nuse = [{', '.join(map(str, report.proposed_use))}]"
