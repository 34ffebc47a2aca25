"""How a person looks at a run with more than words: the command `report`, and the TensorBoard options of `run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import RunArgument, RunsDir

if TYPE_CHECKING:
    from rich.console import Console

    from .rundir import RunDir

Board = Annotated[
    bool, typer.Option("--tensorboard", help="Serve TensorBoard on 127.0.0.1 while the run is watched, port 6006.")
]
BoardPort = Annotated[
    int | None,
    typer.Option(
        "--tensorboard-port", metavar="PORT", min=1, max=65535, help="The same on another port.", show_default=False
    ),
]
BOARD_PORT = 6006
"""TensorBoard's own."""


def board_port(port: int | None, *, wanted: bool) -> int | None:
    """`None` where nobody asked for TensorBoard; to name a port is to ask."""
    return port if port is not None or not wanted else BOARD_PORT


def register(app: typer.Typer, find: Callable[[Path | None, Path], RunDir], console: Callable[[], Console]) -> None:
    """Make it a command of `app`."""

    @app.command(short_help="Write report.html, report.md and results.png of a run as it stands.")
    def report(run: RunArgument = None, runs_dir: RunsDir = Path("runs")) -> None:
        """Write the report of a run as it stands, and say where it is.

        report.html is one file with its pictures in it; report.md says the same. Works while the run trains, after its
        end, and with the daemon dead.
        """
        from .report import report_on

        report_on(find(run, runs_dir), console())
