"""`segwatch status`, `alerts`, `ack` and `silence`: how a run stands, what is heard of it. Parse, call, print."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Json, RunArgument, RunMeant, RunsDir, console, found, print_json
from .spans import parse_since, parse_span

SEVERITIES = ("info", "warning", "critical")


def register(app: typer.Typer) -> None:
    app.command(short_help="How a run stands: state, health, progress, best, alerts.")(status)
    app.command(short_help="What went wrong, what was done, what you can do.")(alerts)
    app.command(short_help="Take note of an alert: no more notifications of it.")(ack)
    app.command(short_help="No notifications of a code for a while.")(silence)


def status(
    run: RunArgument = None,
    runs_dir: RunsDir = Path("runs"),
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay, and draw it anew every 2 s; Ctrl-C ends.")
    ] = False,
    json: Json = False,
) -> None:
    """How a run stands: state, health and why, progress, time left, scores, classes, alerts, evaluation, GPU.

    Works with the daemon dead or alive, reads only, and answers as fast after 10,000 epochs as after ten.
    """
    from . import looking, status_view, verdict

    meant = found(run, runs_dir)
    if watch:
        with contextlib.suppress(KeyboardInterrupt):  # a person has seen enough: nothing failed
            status_view.watch(meant, console(), json=json)
        return
    figures = verdict.status(looking.look_at(meant))
    if json:
        print_json(figures)
    else:
        status_view.show(figures, console())
        status_view.show_next(figures, console())


def alerts(
    run: RunArgument = None,
    runs_dir: RunsDir = Path("runs"),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and print each change as it comes; Ctrl-C ends.")
    ] = False,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="WHEN",
            help="Only what changed since: 2h, 3d, 2026-11-22, 2026-11-22T03:00 (UTC).",
            show_default=False,
        ),
    ] = None,
    severity: Annotated[
        str, typer.Option("--severity", metavar="LEAST", help="Only those at least so grave: info, warning, critical.")
    ] = "info",
    json: Json = False,
) -> None:
    """What went wrong: what, evidence, what segwatch did, what you can do. What fires stands last."""
    from ..nearby import did_you_mean, nearest
    from . import alerts_view
    from .alert_book import AlertBook

    if severity not in SEVERITIES:
        near = did_you_mean(nearest(severity, SEVERITIES), before="; ")
        raise typer.BadParameter(f"{severity!r} is none of {', '.join(SEVERITIES)}{near}", param_hint="--severity")
    now = time.time()
    try:
        wanted = alerts_view.Wanted(None if since is None else parse_since(since, now), severity)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    meant = found(run, runs_dir)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            alerts_view.follow(meant, wanted, console(), json=json)
    elif json:
        print_json(alerts_view.as_json(AlertBook(meant.path), wanted))
    else:
        alerts_view.show(meant, wanted, console(), now)


def ack(
    run: RunMeant,
    what: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT|CODE", help="As `segwatch alerts` shows it: incident:3, or nan-loss for all."
        ),
    ],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Take note of an alert that fires: it stays in status, and nobody is notified of it again.

    One that is over and begins anew is a new one. Works with the daemon dead: the next one takes it up.
    """
    from .taking_note import acknowledge

    typer.echo(acknowledge(found(run, runs_dir), what))


def silence(
    run: RunMeant,
    code: Annotated[str, typer.Argument(metavar="CODE", help="The code of an alert, such as miou-stall.")],
    time_: Annotated[
        str, typer.Option("--for", metavar="SPAN", help="30m, 8h, 2d; 0 ends a silence before its time.")
    ] = "8h",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Nobody is notified of this code for a while, however often it fires; status and alerts.log still tell it.

    What still fires when the time is over is told then. Works with the daemon dead: the next one takes it up.
    """
    from . import taking_note

    try:
        seconds = parse_span(time_)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from error
    typer.echo(taking_note.silence(found(run, runs_dir), code, seconds))
