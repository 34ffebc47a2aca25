"""`segwatch list`: every run of a directory in a line each, the one that spoke last first. Read-only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ..errors import SegwatchError
from ..plain import one_line
from . import verdict
from .alerts import duration
from .looking import Looker
from .rundir import RunDir, paths_in
from .store import EVENTS
from .words import percent

COLUMNS = ("run", "state", "health", "epoch", "best test mIoU", "at epoch", "last fact", "firing")
LEAST_FIRST = ("at epoch", "last fact", "firing", "epoch", "health", "best test mIoU")
"""What goes first where the terminal is narrow."""
FOLDED = {"run": 20, "firing": 16}
"""Columns that go on in the next line, and the width that they keep at least where they need it."""
GAP = 2
WORDS = frozenset({"run", "state", "health", "firing"})


def runs_in(runs_dir: Path) -> list[dict[str, Any]]:
    """The figures of each run; unknown is `None`. One that cannot be read says so and hides no other.

    Raises UsageError where the directory itself cannot be read.
    """
    found = [row for path in paths_in(runs_dir) if (row := _row(RunDir(path))) is not None]
    return sorted(found, key=lambda row: row["last_fact"] or 0.0, reverse=True)


def _row(run: RunDir) -> dict[str, Any] | None:
    """`None` for what is no run."""
    row: dict[str, Any] = {"name": run.path.name, "path": str(run.path), "last_fact": _last_fact(run)}
    try:
        if not run.exists:
            return None
        figures = standing(run)
    except (SegwatchError, OSError) as error:
        unknown = dict.fromkeys(("epoch", "epochs", "best", "best_epoch"))
        reason = error.what if isinstance(error, SegwatchError) else str(error)
        return row | unknown | {"state": "unreadable", "health": "unknown", "reason": reason, "firing": []}
    best = figures["best"] or {}
    kept = {key: figures[key] for key in ("state", "health", "reason", "epoch", "epochs", "firing")}
    return row | kept | {"best": best.get("miou"), "best_epoch": best.get("epoch")}


def standing(run: RunDir) -> dict[str, Any]:
    """What `segwatch status --json` says of it."""
    return verdict.status(Looker(run, alone=True).look())


def _last_fact(run: RunDir) -> float | None:
    """When the run spoke last, in seconds since the epoch."""
    try:
        return (run.path / EVENTS).stat().st_mtime
    except OSError:
        return None


def show(rows: Sequence[dict[str, Any]], runs_dir: Path, console: Console) -> None:
    if not rows:
        words = f"no run in {one_line(str(runs_dir))}: `segwatch run run.toml` begins one"
        console.print(words, soft_wrap=True, highlight=False, markup=False)
        return
    lines = [dict(zip(COLUMNS, cells, strict=True)) for cells in _cells(rows, time.time())]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    kept = _kept(lines, console.width)
    for column in kept:
        justify: Literal["left", "right"] = "left" if column in WORDS else "right"
        table.add_column(column, justify=justify, no_wrap=column not in FOLDED, overflow="fold")
    for line in lines:
        table.add_row(*(line[column] for column in kept))
    console.print(table)


def _kept(lines: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """The columns that fit, without the least important ones: a run that cannot be told by its name is no use."""
    kept = list(COLUMNS)
    for column in LEAST_FIRST:
        if sum(_least(name, lines) + GAP for name in kept) - GAP <= width:
            break
        kept.remove(column)
    return kept


def _least(column: str, lines: Sequence[Mapping[str, str]]) -> int:
    """Terminal columns that it takes at least."""
    longest = max(cell_len(text) for text in (column, *(line[column] for line in lines)))
    return min(longest, FOLDED.get(column, longest))


def _cells(rows: Sequence[dict[str, Any]], now: float) -> Iterator[tuple[str, ...]]:
    for row in rows:
        last, epoch = row["last_fact"], row["epoch"]
        yield (
            one_line(row["name"]),
            row["state"],
            row["health"],
            "-" if epoch is None else f"{epoch}/{row['epochs']}",
            percent(row["best"]),
            "-" if row["best_epoch"] is None else str(row["best_epoch"]),
            "-" if last is None else f"{duration(now - last)} ago",
            ", ".join(row["firing"]) or (one_line(row["reason"]) if row["state"] == "unreadable" else ""),
        )
