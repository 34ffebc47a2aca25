"""What the shell completes besides commands and options: the names of runs. Asked at each press of the tab key."""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import UsageError


def run_names(context: typer.Context, incomplete: str) -> list[str]:
    """The runs below --runs-dir whose names begin so, the newest first; none where there is no such directory."""
    from .rundir import run_paths

    runs_dir = Path(context.params.get("runs_dir") or "runs")
    try:
        found = [path for path in run_paths(runs_dir) if path.name.startswith(incomplete)]
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]
    except (OSError, UsageError):  # it completes nothing; an error would stand in the middle of the prompt
        return []
