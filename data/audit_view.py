"""Prints an audit so that a newcomer sees on one screen what the data holds. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .audit import AuditReport, ClassCount, Problem, percent
from .config import SPLITS
from .resolved import ResolvedData

FILES_SHOWN = 8


def render(report: AuditReport, console: Console, *, errors: bool = True) -> None:
    """The classes with their shares, then warnings and errors, then the classes to use, as TOML. 80 columns suffice.

    Without `errors` those are left to the caller, who raises them.
    """
    console.print(_summary(report))
    if report.classes or report.unknown_ids:
        console.print(_class_table(report))
        for line in _absent(report.classes):
            console.print(line)
    for problem in report.warnings:
        console.print(_problem("warning", "yellow", problem))
    for problem in report.errors if errors else ():
        console.print(_problem("error", "bold red", problem))
    console.print()
    console.print(_verdict(report))


def _summary(report: AuditReport) -> Text:
    counts = ", ".join(f"{report.images[split]} {split}" for split in SPLITS)
    return Text(f"{counts} images with masks in {report.root}\nclass table {report.class_table}")


def _class_table(report: AuditReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", width=2)
    table.add_column("id", justify="right")
    table.add_column("name", overflow="fold", max_width=24)
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for entry in report.classes:
        if any(entry.pixels.values()):
            table.add_row(
                _swatch(entry.colour),
                str(entry.id),
                Text(entry.name or "-"),
                *_shares(entry.share),
                str(sum(entry.images.values())),
                Text(_note(entry, report), style="" if entry.used else "dim"),
            )
    for unknown in report.unknown_ids:
        note = unknown.note or "not in table"
        shares = _shares(unknown.share)
        table.add_row("", str(unknown.id), "-", *shares, str(unknown.files), Text(note, style="dim"))
    return table


def _shares(shares: dict[str, float | None]) -> list[str]:
    return ["-" if not (share := shares[split]) else percent(share) for split in SPLITS]


def _swatch(colour: tuple[int, int, int]) -> Text:
    return Text("\N{FULL BLOCK}" * 2, style="#{:02x}{:02x}{:02x}".format(*colour))


def _note(entry: ClassCount, report: AuditReport) -> str:
    if entry.used:
        return "used, rare" if entry.id in report.rare else "used"
    if not entry.name:
        return "unnamed"
    if entry.id in report.test_only:
        return "not in train"
    return "not used" if report.resolved is not None else ""


def _absent(classes: Iterable[ClassCount]) -> list[Text]:
    absent = [f"{entry.id} {entry.name or '(unnamed)'}" for entry in classes if not any(entry.pixels.values())]
    return [Text(f"In no mask: {', '.join(absent)}", style="dim")] if absent else []


def _problem(kind: str, style: str, problem: Problem) -> Group:
    head = Text.assemble((kind, style), ": ", problem.what)
    if problem.where:
        head.append(f"\n{problem.where}", style="dim")
    lines = [Text(file) for file in problem.files[:FILES_SHOWN]]
    if len(problem.files) > FILES_SHOWN:
        lines.append(Text(f"and {len(problem.files) - FILES_SHOWN} more, all with --json"))
    lines.append(Text(f"-> {problem.remedy}"))
    return Group(Text(), head, *(Padding(line, (0, 0, 0, 2)) for line in lines))


def _verdict(report: AuditReport) -> Text:
    if report.resolved is None:
        return Text(f"Not ready: {len(report.errors)} error(s).", style="bold red")
    return Text.assemble(("Ready. ", "bold green"), _as_toml(report.resolved))


def _as_toml(resolved: ResolvedData) -> str:
    ids = ", ".join(str(class_id) for class_id in resolved.class_ids)
    return f"{len(resolved.classes)} classes; to keep them whatever the masks hold later:\n\n[data]\nuse = [{ids}]"
