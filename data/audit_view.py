"""Prints an audit so that a newcomer sees on one screen what the data holds. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..plain import one_line
from .audit import AuditReport
from .audit_words import absent, as_toml, colours_worth_a_line, note, present, share, summary, weight
from .config import SPLITS
from .problems import Problem

WIDE = 120
"""Columns of a terminal from which on each split has its pixels and images beside its share."""
FILES_SHOWN = 50
FILES_OF_A_WARNING = 3


def render(report: AuditReport, console: Console, *, again: str, errors: bool = True) -> None:
    """The classes with their shares, then warnings, errors last, then the classes to use, as TOML. 80 columns suffice.

    Without `errors` those are left to the caller, who raises them. `again` is the command that audits the same data.
    """
    for line in summary(report):
        console.print(Text(line))
    if any(report.images.values()):
        wide = console.width >= WIDE
        table = _class_table(report, wide=wide)
        if table.row_count:
            console.print(table)
            if not wide:
                told = f"Pixels and images of each split: in {WIDE} columns, and in the audit.md of `segwatch audit`."
                console.print(Text(told, style="dim"))
        if line := absent(report):
            console.print(Text(line, style="dim"))
    for problem in report.warnings:
        _print_problem(console, "warning", "yellow", problem, again)
    for problem in report.errors if errors else ():
        _print_problem(console, "error", "bold red", problem, again)
    console.print()
    console.print(_verdict(report))


def _class_table(report: AuditReport, *, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", width=2)
    table.add_column("id", justify="right")
    table.add_column("name", overflow="fold", max_width=20)
    for split in SPLITS:
        for column in (split, "pixels", "images") if wide else (split,):
            table.add_column(column, justify="right", no_wrap=True)
    if not wide:
        table.add_column("images", justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for entry in present(report):
        table.add_row(
            _swatch("#{:02X}{:02X}{:02X}".format(*entry.colour)),
            str(entry.id),
            Text(entry.name or "-"),
            *_amounts(entry.share, entry.pixels, entry.images, wide=wide),
            weight(entry),
            Text(note(entry, report), style="" if entry.used else "dim"),
        )
    for unknown in report.unknown_ids:
        amounts = _amounts(unknown.share, unknown.pixels, unknown.images, wide=wide)
        words = Text(unknown.note or "not in table", style="dim")
        table.add_row("", str(unknown.id), "-", *amounts, "", words)
    for colour in colours_worth_a_line(report):
        amounts = _amounts(colour.share, colour.pixels, colour.images, wide=wide)
        words = Text("ignored" if colour.ignored else "not in table", style="dim")
        table.add_row(_swatch(colour.colour), "-", colour.colour, *amounts, "", words)
    return table


def _amounts(
    shares: dict[str, float | None], pixels: dict[str, int], images: dict[str, int], *, wide: bool
) -> Iterator[str]:
    """Of each split its share, and its pixels and images where there is room; else the images of all of them."""
    for split in SPLITS:
        yield share(shares, split)
        if wide:
            yield _millions(pixels[split])
            yield str(images[split])
    if not wide:
        yield str(sum(images.values()))


def _millions(pixels: int) -> str:
    """Exact up to a million; audit.md has each pixel."""
    return str(pixels) if pixels < 1_000_000 else f"{pixels / 1_000_000:.4g} M"


def _swatch(colour: str) -> Text:
    return Text("\N{FULL BLOCK}" * 2, style=colour.lower())


def _print_problem(console: Console, kind: str, style: str, problem: Problem, again: str) -> None:
    head = Text.assemble((kind, style), ": ", problem.what)
    if problem.where:
        head.append(f"\n{one_line(problem.where)}", style="dim")
    console.print()
    console.print(head)
    for line in problem.lines:
        console.print(Text(line), soft_wrap=True)
    shown = FILES_SHOWN if kind == "error" else FILES_OF_A_WARNING
    below = [Text(one_line(file)) for file in problem.files[:shown]]
    if len(problem.files) > shown:
        below.append(Text(f"and {len(problem.files) - shown} more, all with: {again} --json"))
    for text in (*below, Text(f"-> {problem.remedy}")):
        console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _verdict(report: AuditReport) -> Text:
    if report.resolved is None:
        number = len(report.errors)
        return Text(f"Not ready: {'1 error' if number == 1 else f'{number} errors'}.", style="bold red")
    text = f"{len(report.proposed_use)} classes; to keep them whatever the masks hold later:\n\n{as_toml(report)}"
    return Text.assemble(("Ready. ", "bold green"), text)
