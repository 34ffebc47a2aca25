"""`segwatch init` and `segwatch doctor`: what stands before the first run. Parse, call, print, exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import reporting

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer, console: Callable[[], Console], print_json: Callable[[Any], None]) -> None:
    """Add both commands; `console` makes the one that they print on, `print_json` prints for programs."""

    @app.command(short_help="Write a run.toml for a folder of images and masks.")
    def init(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that holds images and masks.")],
        output: Annotated[
            Path | None,
            typer.Option(
                "--output", metavar="FILE", help="Where run.toml goes; into DIR without it.", show_default=False
            ),
        ] = None,
    ) -> None:
        """Look at a folder, find its pairs, mask format and class table, audit them, and write a commented run.toml.

        It asks nothing that it can find out, overwrites nothing, and prints the next two commands. Exit code 78: no
        data set, or one that has to be mended first.
        """
        from .starting import initialise

        raise typer.Exit(0 if initialise(folder, output, console()) else 78)

    @app.command(short_help="Is this machine ready? One line per check, with the remedy.")
    def doctor(
        config: Annotated[
            Path | None,
            typer.Argument(
                metavar="run.toml",
                help="What is to be trained; ./run.toml without it, if it is there.",
                show_default=False,
            ),
        ] = None,
        runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")] = Path("runs"),
        tensorboard_port: reporting.BoardPort = None,
        send: Annotated[bool, typer.Option("--send", help="Really send a test notification to each channel.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Strict JSON for other programs.")] = False,
    ) -> None:
        """Check GPU, memory, disk, file system, reading speed, TensorBoard's port, notifications and the clock.

        Exit code 1: something would keep a run from working, and its line says what to do.
        """
        from . import doctor as checks

        found = checks.examine(config, runs_dir, send=send, board_port=tensorboard_port or reporting.BOARD_PORT)
        if json:
            print_json(checks.as_json(found))
        else:
            checks.say(found, console())
        raise typer.Exit(checks.exit_code(found.checks))
