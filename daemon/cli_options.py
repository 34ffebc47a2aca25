"""What the commands share: options that mean the same everywhere, the run that is meant, and where they print."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .completing import run_names

if TYPE_CHECKING:
    from rich.console import Console

    from .rundir import RunDir

RUN_HELP = "A run's directory, or its name below --runs-dir; without it, the newest run."
RunArgument = Annotated[
    Path | None, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=run_names)
]
RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=run_names)
]
RunMeant = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.", autocompletion=run_names),
]
"""Where the newest run is not meant by itself."""
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Strict JSON for other programs.")]


def found(run: Path | None, runs_dir: Path) -> RunDir:
    """The run that a person means. Raises UsageError."""
    from .rundir import find_run

    return find_run(run, runs_dir)


def console(*, stderr: bool = False) -> Console:
    """Where this command prints."""
    from .terminal import Terminal

    stream = sys.stderr if stderr else sys.stdout
    # A pipe has no width of its own, and 80 columns would break paths that somebody may want to copy.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Terminal(stderr=stderr, width=width)


def print_json(value: Any) -> None:
    """JSON for other programs."""
    from ..durable import dumps

    typer.echo(dumps(value, indent=1))
