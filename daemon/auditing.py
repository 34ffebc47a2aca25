"""Has the data audited for a command: with a progress bar, what is told of it, and what stops a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from ..data.audit import AuditReport, audit, require
from ..data.audit_page import write_audit
from ..data.config import SPLITS
from ..data.resolved import ResolvedData
from ..errors import ConfigError
from ..nearby import did_you_mean, nearest_beside
from . import next_steps
from .bars import bar
from .config import RunConfig
from .places import Places
from .screen import nobody_may_look

REHEARSAL = "nan-loss@30"
"""Early, so that nobody waits for it, and after the first step, which is slow."""


def audit_data(source: Path, config: RunConfig, console: Console, *, splits: Collection[str] = SPLITS) -> AuditReport:
    """Read every mask of `splits`, with a progress bar where somebody looks. Problems name the line of run.toml.

    Raises ConfigError where `data.root` is not there.
    """
    places = Places(source, config.data)
    _require_root(source, config, places)
    with bar(console, "audit: every mask is read") as progress:
        report = audit(
            config.data,
            source.resolve().parent,
            weight_limit=config.loss.class_weight_limit,
            progress=progress,
            splits=splits,
        )
    placed = {name: tuple(map(places.in_problem, getattr(report, name))) for name in ("errors", "warnings")}
    return report.model_copy(update=placed)


def _require_root(source: Path, config: RunConfig, places: Places) -> None:
    """Raises one ConfigError for a directory that is not there, instead of one for everything in it."""
    root = (source.resolve().parent / config.data.root).resolve()
    if not root.is_dir():
        near = did_you_mean(nearest_beside(root), after=" else ")
        raise ConfigError(
            f"no such directory: {root}",
            where=places.of("data.root"),
            remedy=f"{near}set data.root to where the data lies; it is relative to run.toml",
        )


def keep_audit(report: AuditReport, directory: Path, console: Console, *, refused: str = "") -> None:
    """Write audit.md and audit.png, and say where; a directory that cannot be written to stops nothing."""
    try:
        written = ", ".join(str(path) for path in write_audit(report, directory, refused=refused))
        told = f"written: {written}"
    except (OSError, ConfigError) as error:
        told = f"audit.md is not written: {error}"
    say(console, told)


def tell_effort(report: AuditReport, console: Console) -> None:
    """Print how fast the files were read, where any were."""
    if report.effort is not None and report.effort.pairs:
        say(console, report.effort.words())


def require_trainable(report: AuditReport, config: RunConfig, source: Path) -> ResolvedData:
    """The data that the audit settled. Raises ConfigError where it, or what `[loss]` says of its classes, is wrong."""
    data = require(report, again=next_steps.command("audit", source))
    refused = loss_refusal(report, config, source)
    if refused is not None:
        raise refused
    return data


def loss_refusal(report: AuditReport, config: RunConfig, source: Path) -> ConfigError | None:
    """What keeps `[loss]` from being meant for the classes that the audit settled; `None` where it settled none."""
    if report.resolved is not None:
        try:
            config.loss.resolved(report.resolved.classes)
        except ConfigError as error:
            return Places(source).in_error(error)
    return None


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
