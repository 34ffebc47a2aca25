"""The commands that go on with a run, whole: with its run.toml, its name and where runs are kept. Knows no facts."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..durable import write_json
from . import next_steps
from .rundir import RunDir

SOURCE = "source.json"
RUNS_DIR = "runs"
"""What `--runs-dir` is without being named."""
UNKNOWN = "RUN.TOML"
"""Stands for the run.toml of a run that an older release began."""


@dataclass(frozen=True)
class Calls:
    """The commands that an alert may advise. It is read anywhere, on a phone too: paths are absolute."""

    run: str = f"segwatch run {UNKNOWN}"
    audit: str = f"segwatch audit {UNKNOWN}"


NOT_KNOWN = Calls()


def remember(run: RunDir, source: Path) -> None:
    """Keep where the run.toml lies that this run was called with last. Raises OSError."""
    where = str(source.parent.resolve() / source.name)
    if _source(run) != where:
        write_json(run.path / SOURCE, {"source": where})


def command(run: RunDir, *options: str) -> str:
    """`segwatch run …` as it has to be typed from here to mean this run."""
    source, elsewhere = _source(run), run.path.parent != Path(os.path.realpath(RUNS_DIR))
    name: list[str] = [] if source is not None and Path(source).stem == run.path.name else ["--name", run.path.name]
    runs_dir: list[str | Path] = ["--runs-dir", run.path.parent] if elsewhere else []
    return next_steps.command("run", UNKNOWN if source is None else Path(source), *name, *runs_dir, *options)


def calls(run: RunDir) -> Calls:
    source = _source(run) or UNKNOWN
    where = ["--name", run.path.name, "--runs-dir", str(run.path.parent)]
    return Calls(run=shlex.join(["segwatch", "run", source, *where]), audit=shlex.join(["segwatch", "audit", source]))


def _source(run: RunDir) -> str | None:
    try:
        found = json.loads((run.path / SOURCE).read_bytes())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
