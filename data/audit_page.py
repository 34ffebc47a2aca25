"""Writes audit.md: what the terminal shows of an audit, with every file and figure, to keep beside the data.

Decides nothing; the picture in it is drawn by `audit_picture`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..durable import write_text
from ..plain import one_line, plain
from .audit import AuditReport, UnknownColour, UnknownId
from .audit_picture import draw_audit, write_picture
from .audit_words import absent, as_toml, misfit, note, present, share, summary
from .colours import as_percent
from .config import SPLITS
from .problems import Problem

PAGE = "audit.md"
PICTURE = "audit.png"
FILES_SHOWN = 200
READY = "Ready to train."
VERDICT = re.compile(r"\A# Audit\n\n\*\*(.+)\*\*$", re.MULTILINE)
SPECIAL = re.compile(r"([\\`*<|]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z]))")
"""An underscore inside of a word is no Markdown, and paths are full of them."""


def write_audit(report: AuditReport, directory: Path, *, refused: str = "") -> tuple[Path, ...]:
    """Write audit.md, and audit.png where the classes are settled. Returns the files; raises OSError.

    `refused` says why a run will not train on what the audit settled.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / PAGE]
    if report.resolved is None:
        (directory / PICTURE).unlink(missing_ok=True)  # of an earlier audit: it would lie beside other words
    else:
        write_picture(directory / PICTURE, draw_audit(report))
        written.append(directory / PICTURE)
    write_text(directory / PAGE, page(report, refused=refused))
    return tuple(written)


def verdict_in(directory: Path) -> str | None:
    """What the audit.md there says of its data: `READY`, or why not. `None` where there is no page that says it."""
    try:
        said = VERDICT.search((directory / PAGE).read_text(errors="replace"))
    except OSError:
        return None
    return said and said[1]


def page(report: AuditReport, *, refused: str = "") -> str:
    """The whole page as Markdown."""
    parts = [_head(report, refused)]
    parts += [_problems("Errors", report.errors)] if report.errors else []
    if not misfit(report):
        parts += [_split(report, name) for name in SPLITS if report.images[name]]
        parts += [_unknown(report)] if report.unknown_ids or report.unknown_colours else []
    parts += [_weights(report)] if report.class_weights else []
    parts += [_problems("Warnings", report.warnings)] if report.warnings else []
    parts += [_for_run_toml(report)] if report.resolved is not None else []
    return "\n\n".join(parts) + "\n"


def _head(report: AuditReport, refused: str) -> str:
    ready = READY if report.resolved is not None else f"Not ready: errors: {len(report.errors)}."
    if refused:
        ready = f"Not ready: {_plain(one_line(refused))}"
    lines = ["# Audit", f"**{ready}**", "\n".join(f"- {_plain(line)}" for line in summary(report))]
    if line := absent(report):
        lines.append(_plain(line))
    if report.resolved is not None:
        lines.append(f"![Training images beside their masks, and the share of each class]({PICTURE})")
    return "\n\n".join(lines)


def _split(report: AuditReport, name: str) -> str:
    ignored = report.ignored_share[name]
    told = "" if ignored is None else f", {as_percent(ignored)} of them ignored"
    rows = [
        (
            f"`{_hex(entry.colour)}`",
            str(entry.id),
            _plain(entry.name or "-"),
            f"{entry.pixels[name]:,}",
            share(entry.share, name),
            str(entry.images[name]),
            note(entry, report),
        )
        for entry in present(report)
    ]
    head = f"## {name}: {report.images[name]} images, {report.pixels[name]:,} pixels{told}"
    kinds = ", ".join(f"{number} {kind}" for kind, number in report.mask_kinds[name].items())
    table = _table(("colour", "id", "name", "pixels", "share", "images", "note"), rows)
    files = sum(map(len, report.bad_files[name].values()))
    left_out = f"Left out: {_number(report.skipped[name], 'image')} ({_number(files, 'bad file')})."
    return "\n\n".join([head, f"Masks: {kinds}. {left_out}", table])


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _unknown(report: AuditReport) -> str:
    rows = [_unknown_row(str(entry.id), entry, entry.note) for entry in report.unknown_ids] + [
        _unknown_row(f"`{entry.colour}`", entry, "ignored" if entry.ignored else "") for entry in report.unknown_colours
    ]
    table = _table(("value", *SPLITS, "masks", "note", "such as"), rows)
    return f"## Values that the class table does not have\n\n{table}"


def _unknown_row(value: str, entry: UnknownId | UnknownColour, told: str) -> tuple[str, ...]:
    examples = ", ".join(_plain(file) for file in entry.examples)
    return value, *(share(entry.share, name) for name in SPLITS), str(entry.files), told, examples


def _weights(report: AuditReport) -> str:
    names = {entry.id: entry.name for entry in report.classes}
    rows = [
        (str(class_id), _plain(names.get(class_id, "") or "-"), *(f"{values[place]:.4g}" for values in columns))
        for columns in [tuple(report.class_weights.values())]
        for place, class_id in enumerate(report.proposed_use)
    ]
    table = _table(("id", "name", *report.class_weights), rows)
    told = (
        "What `loss.class_weights` would give each class. Median frequency: the median of the classes' frequencies by "
        "the frequency of the class, which is its share of the pixels of the images that hold it. Inverse: 1 by its "
        "pixels, scaled to a mean of 1. Both are kept within the limit of `loss.class_weight_limit`."
    )
    return f"## Class weights\n\n{told}\n\n{table}"


def _problems(title: str, problems: Sequence[Problem]) -> str:
    return "\n\n".join([f"## {title}", *(_problem(problem) for problem in problems)])


def _problem(problem: Problem) -> str:
    told = "  \n".join(_plain(line.strip()) for line in problem.what.splitlines())  # two blanks break a line
    lines = [f"### {problem.code}", told]
    if problem.where:
        lines.append(f"Where: {_plain(problem.where)}")
    if problem.lines:
        lines.append(_fenced("toml", problem.lines))
    if problem.files:
        more = [f"- and {len(problem.files) - FILES_SHOWN} more"] if len(problem.files) > FILES_SHOWN else []
        lines.append("\n".join([*(f"- {_plain(file)}" for file in problem.files[:FILES_SHOWN]), *more]))
    lines.append(f"What to do: {_plain(problem.remedy)}")
    return "\n\n".join(lines)


def _for_run_toml(report: AuditReport) -> str:
    weights = report.class_weights["median-frequency"]
    listed = ", ".join(f"{weight:.4g}" for weight in weights)
    text = (
        f"{as_toml(report)}\n\n[loss]\n"
        '# "none" is the default; "median-frequency" lifts rare classes, here to:\n'
        f"# class_weights = [{listed}]"
    )
    return f"## For run.toml\n\nKeeps these classes whatever the masks hold later:\n\n{_fenced('toml', [text])}"


def _fenced(language: str, lines: Iterable[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02X}{:02X}{:02X}".format(*colour)


def _plain(text: str) -> str:
    """Names and paths as they are: no character of them is Markdown's; a table's row is one line."""
    return SPECIAL.sub(r"\\\1", plain(text)).replace("\n", "  ")
