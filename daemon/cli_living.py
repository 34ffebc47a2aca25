"""The commands for living with runs: notify, systemd, list, compare. Parse, call, print, exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .completing import run_names

if TYPE_CHECKING:
    from rich.console import Console

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Strict JSON for other programs.")]
Config = Annotated[Path, typer.Argument(metavar="run.toml", help="What the service trains.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; the file's stem without it.")]
System = Annotated[
    bool, typer.Option("--system", help="A unit for /etc/systemd/system, run as you; without it one for your own.")
]


LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option("--log-format", help="json: one object a line on standard output and in daemon.log."),
]


def console_for(
    log_format: str, source: Path, text_console: Callable[[], Console], *, name: str | None, runs_dir: Path
) -> Console:
    """Where `segwatch run` prints; on a terminal that a lost connection takes away, with a hint."""
    if log_format == "json":
        from .json_lines import JsonConsole

        return JsonConsole(sys.stdout)
    from .lifeline import hint

    console, words = text_console(), hint(source, name, runs_dir)
    if words is not None:
        console.print(words, soft_wrap=True, highlight=False, markup=False)
    return console


def _run(name: str) -> Any:
    return typer.Argument(
        metavar=name, help="A run's directory, or its name below --runs-dir.", autocompletion=run_names
    )


Target = Annotated[
    Path | None,
    typer.Argument(
        metavar="run.toml|RUN",
        help="Whose channels: a run.toml, or a run; without it ./run.toml, else the newest run.",
        show_default=False,
    ),
]


def register(app: typer.Typer, console: Callable[[], Console], print_json: Callable[[Any], None]) -> None:
    """Add all of them; `console` makes the one that they print on, `print_json` prints for programs."""
    _register_notify(app, console, print_json)
    _register_systemd(app)
    _register_runs(app, console, print_json)


def _register_notify(app: typer.Typer, console: Callable[[], Console], print_json: Callable[[Any], None]) -> None:
    notify = typer.Typer(help="Notifications: who is told, and whether it arrives.", no_args_is_help=True)
    app.add_typer(notify, name="notify", short_help="Try the notification channels.")

    @notify.command(short_help="Really send a message to each channel.")
    def test(target: Target = None, *, runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
        """Send a message to each channel of [alerts] notify, also in quiet hours, and say what each will hear.

        Exit code 1: one was not taken, and its line says what to do.
        """
        from . import telling

        told = telling.test_channels(target, runs_dir)
        if json:
            print_json(telling.as_json(told))
        else:
            telling.say(told, console())
        raise typer.Exit(any(check.state == "fail" for check, _ in told))


def _register_systemd(app: typer.Typer) -> None:
    @app.command(short_help="Print a systemd unit for a run.")
    def systemd(config: Config, name: Name = None, *, runs_dir: RunsDir = Path("runs"), system: System = False) -> None:
        """Print a systemd unit that trains a run.toml, and goes on after a crash or a reboot.

        A daemon that dies is started again and adopts the worker, which went on training. How to install it stands in
        its first lines.
        """
        from .systemd import unit

        typer.echo(unit(config, name=name, runs_dir=runs_dir, system=system), nl=False)


def _register_runs(app: typer.Typer, console: Callable[[], Console], print_json: Callable[[Any], None]) -> None:
    @app.command("list", short_help="Every run in a line: state, health, epoch, best.")
    def list_(*, runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
        """Every run below --runs-dir in a line: state, health, epoch, best test mIoU, when it last spoke."""
        from . import listing

        rows = listing.runs_in(runs_dir)
        if json:
            print_json(rows)
        else:
            listing.show(rows, runs_dir, console())

    @app.command(short_help="Two runs: which is better, how sure, what differed.")
    def compare(
        a: Annotated[Path, _run("A")],
        b: Annotated[Path, _run("B")],
        *,
        runs_dir: RunsDir = Path("runs"),
        json: Json = False,
    ) -> None:
        """Compare two runs: best by test and by val over the same images, classes, settings, incidents, time.

        "Better" is said only where the 95 % interval leaves no doubt. Runs that were scored on other images or classes
        are not comparable, and it says so.
        """
        from . import comparing, comparing_view
        from .rundir import find_run

        found = comparing.compare(find_run(a, runs_dir), find_run(b, runs_dir))
        if json:
            print_json(comparing.as_json(found))
        else:
            comparing_view.show(found, console())
