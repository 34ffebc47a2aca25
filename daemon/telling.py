"""`segwatch notify test`: really sends a message to each channel, and says who would hear what. Trains nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ConfigError
from .channels import FILE, Channel
from .check import Check
from .config import AlertsConfig, load_config
from .events import Severity
from .freezing import frozen_config
from .quiet import QuietHours
from .rundir import find_run
from .world_checks import check_channels

NOBODY = 'add one to [alerts], such as notify = ["env:SLACK_URL"]: docs/alerts.md, "Notifications"'


def test_channels(target: Path | None, runs_dir: Path) -> list[tuple[Check, str]]:
    """Of a run.toml, or of a run: for each channel whether it took a message, and what it hears in words.

    Without a target, ./run.toml, else the newest run. Raises ConfigError where nobody is to be told.
    """
    alerts, base, where = _settings(target, runs_dir)
    channels = list({channel.url: channel for channel in alerts.notify}.values())
    if not channels:
        raise ConfigError("no channel: alerts.notify is empty", where=where, remedy=NOBODY)
    checks = check_channels(channels, base, send=True)
    return [(check, hears(channel, alerts)) for check, channel in zip(checks, channels, strict=True)]


def hears(channel: Channel, alerts: AlertsConfig) -> str:
    """What a channel is told of, and when."""
    words = "everything" if channel.severity is Severity.INFO else f"{channel.severity.value} and above"
    if channel.severity is Severity.CRITICAL:
        words = "critical alerts"
    words += "" if channel.resolved else ", not when they are over"
    if alerts.daily_digest and channel.hears_digest:
        words += f", a digest at {alerts.daily_digest}"
    quiet = alerts.quiet_hours if channel.quiet_hours is None else channel.quiet_hours
    hours = QuietHours.parse(quiet)
    if hours is not None:
        now = " (now: a test comes anyway)" if hours.end_of(time.time()) is not None else ""
        words += f", quiet {quiet}{now}"
    return words


def say(told: Sequence[tuple[Check, str]], console: Console) -> None:
    """A line for each channel, and below it what it hears or what is to be done."""
    for check, words in told:
        console.print(f"{check.state:4} {check.name}: {check.found}", soft_wrap=True, highlight=False, markup=False)
        below = f"hears {words}" if check.state == "ok" else f"-> {check.remedy}"
        console.print(f"     {below}", soft_wrap=True, highlight=False, markup=False)


def as_json(told: Sequence[tuple[Check, str]]) -> list[dict[str, Any]]:
    """The same for other programs."""
    return [check.model_dump() | {"hears": words} for check, words in told]


def _settings(target: Path | None, runs_dir: Path) -> tuple[AlertsConfig, Path, Path]:
    """The table, the directory that `file:` is relative to, and where it stands."""
    source = Path("run.toml") if target is None and Path("run.toml").is_file() else target
    if source is not None and source.is_file():
        return load_config(source).alerts, source.resolve().parent, source
    run = find_run(target, runs_dir)
    alerts = frozen_config(run).alerts
    relative = [channel.url for channel in alerts.notify if channel.url.startswith(FILE) and not _absolute(channel)]
    if relative:
        raise ConfigError(
            f"{', '.join(relative)} is relative to the run.toml that the run was started with",
            where=run.path,
            remedy="name that file: segwatch notify test path/to/run.toml",
        )
    return alerts, run.path, run.path


def _absolute(channel: Channel) -> bool:
    return Path(channel.url.removeprefix(FILE)).expanduser().is_absolute()
