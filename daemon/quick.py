"""Recognises a plain `segwatch status`, so that it is answered without typer's parser: that one loads pydantic, which
costs more time than the whole answer. Whatever is not plain, a mistake or `--help`, is left to typer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class Asked(TypedDict):
    """The arguments of the command, as typer would hand them over."""

    run: Path | None
    runs_dir: Path
    watch: bool
    json: bool


def status_asked(arguments: Sequence[str]) -> Asked | None:
    """What stands behind `segwatch`, or `None` for all that is not a plain `status`."""
    if arguments[:1] != ["status"]:
        return None
    asked = Asked(run=None, runs_dir=Path("runs"), watch=False, json=False)
    rest = iter(arguments[1:])
    for word in rest:
        if word == "--json":
            asked["json"] = True
        elif word in {"--watch", "-w"}:
            asked["watch"] = True
        elif word == "--runs-dir":
            if (directory := next(rest, "-")).startswith("-"):
                return None
            asked["runs_dir"] = Path(directory)
        elif word.startswith("-") or not word or asked["run"] is not None:
            return None
        else:
            asked["run"] = Path(word)
    return asked
