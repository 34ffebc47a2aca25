"""Has the data audited for a command: with a progress bar, what is told of it, and what stops a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.audit import AuditReport, audit, require
from ..data.audit_page import write_audit
from ..data.config import SPLITS
from ..data.resolved import ResolvedData
from ..errors import ConfigError
from . import next_steps
from .config import RunConfig
from .screen import nobody_may_look

REHEARSAL = "nan-loss@30"
"""Early, so that nobody waits for it, and after the first step, which is slow."""


def audit_data(source: Path, config: RunConfig, console: Console, *, splits: Collection[str] = SPLITS) -> AuditReport:
    """Read every mask of `splits`, with a progress bar where somebody looks."""
    with Progress(
        TextColumn("audit: every mask is read"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("audit", total=None)
        return audit(
            config.data,
            source.resolve().parent,
            weight_limit=config.loss.class_weight_limit,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            splits=splits,
        )


def keep_audit(report: AuditReport, directory: Path, console: Console) -> None:
    """Write audit.md and audit.png, and say where; a directory that cannot be written to stops nothing."""
    try:
        written = ", ".join(str(path) for path in write_audit(report, directory))
        told = f"written: {written}"
    except (OSError, ConfigError) as error:
        told = f"audit.md is not written: {error}"
    say(console, told)


def tell_effort(report: AuditReport, console: Console) -> None:
    """Print how fast the files were read, where any were."""
    if report.effort is not None and report.effort.pairs:
        say(console, report.effort.words())


def require_trainable(report: AuditReport, config: RunConfig) -> ResolvedData:
    """The data that the audit settled. Raises ConfigError where it, or what `[loss]` says of its classes, is wrong."""
    data = require(report)
    config.loss.resolved(data.classes)
    return data


def require_told(report: AuditReport) -> None:
    """Raises a ConfigError of one line where the audit has errors, which stand on the screen already."""
    if report.resolved is None:
        number = len(report.errors)
        raise ConfigError(f"not ready to train: {'1 error' if number == 1 else f'{number} errors'}, told by the audit")


def tell_next(source: Path, console: Console) -> None:
    """The run, and the same with a fault on purpose for who wants to see it recover before trusting it."""
    run = next_steps.command("run", source)
    say(console, next_steps.block(run, heading="Look at audit.png. Next:"))
    say(console, f"or the same, with one fault made on purpose, to see how it recovers:\n  {run} --drill {REHEARSAL}")


def say(console: Console, words: str) -> None:
    """A line for a person, who may have closed the terminal."""
    with nobody_may_look():
        console.print(words, soft_wrap=True, highlight=False, markup=False)
