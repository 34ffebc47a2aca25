"""Prints an audit so that a newcomer sees on one screen what the data holds. Decides nothing."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..plain import one_line
from .audit import AuditReport
from .audit_words import absent, as_toml, colours_worth_a_line, note, present, share, summary, weight
from .config import SPLITS
from .problems import Problem

FILES_SHOWN = 50
FILES_OF_A_WARNING = 3


def render(report: AuditReport, console: Console, *, again: str, errors: bool = True) -> None:
    """The classes with their shares, then warnings, errors last, then the classes to use, as TOML. 80 columns suffice.

    Without `errors` those are left to the caller, who raises them. `again` is the command that audits the same data.
    """
    for line in summary(report):
        console.print(Text(line))
    if any(report.images.values()):
        table = _class_table(report)
        if table.row_count:
            console.print(table)
        if line := absent(report):
            console.print(Text(line, style="dim"))
    for problem in report.warnings:
        _print_problem(console, "warning", "yellow", problem, again)
    for problem in report.errors if errors else ():
        _print_problem(console, "error", "bold red", problem, again)
    console.print()
    console.print(_verdict(report))


def _class_table(report: AuditReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", width=2)
    table.add_column("id", justify="right")
    table.add_column("name", overflow="fold", max_width=20)
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for entry in present(report):
        table.add_row(
            _swatch("#{:02X}{:02X}{:02X}".format(*entry.colour)),
            str(entry.id),
            Text(entry.name or "-"),
            *(share(entry.share, split) for split in SPLITS),
            str(sum(entry.images.values())),
            weight(entry),
            Text(note(entry, report), style="" if entry.used else "dim"),
        )
    for unknown in report.unknown_ids:
        shares = (share(unknown.share, split) for split in SPLITS)
        words = Text(unknown.note or "not in table", style="dim")
        table.add_row("", str(unknown.id), "-", *shares, str(unknown.files), "", words)
    for colour in colours_worth_a_line(report):
        shares = (share(colour.share, split) for split in SPLITS)
        words = Text("ignored" if colour.ignored else "not in table", style="dim")
        table.add_row(_swatch(colour.colour), "-", colour.colour, *shares, str(colour.files), "", words)
    return table


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
