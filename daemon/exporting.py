"""`segwatch export`: a checkpoint for other programs, as safetensors or ONNX. The writing is the evaluator's.

What is missing on this machine is said before anything is loaded. A run is only read.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from ..errors import SegwatchError, UsageError
from ..evaluator.task import Exported, ExportTask, Format, Source
from .choosing import Choice, Wish, choose
from .errands import EXPORT, send
from .freezing import frozen_config
from .job import signals_raise
from .rundir import RunDir
from .screen import nobody_may_look

FORMATS: tuple[Format, ...] = get_args(Format)
PACKAGES: dict[str, tuple[str, ...]] = {"safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript")}
"""What writes each format; `segwatch[export]` brings them, and onnxruntime for the comparison."""


@dataclass(frozen=True)
class Export:
    """One file that was written, and what it was compared with."""

    choice: Choice
    format: Format
    output: Path
    exported: Exported


def export(
    run: RunDir,
    console: Console,
    *,
    wish: Wish,
    format: Format | None = None,  # noqa: A002 - the word of the command line
    output: Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = EXPORT,
) -> Export:
    """Write it, beside a proof that it says the same. Raises SegwatchError for a person's mistake and for a proof that
    fails; then nothing is left.
    """
    with signals_raise():
        kind = format_of(format, output)
        require_packages(kind)
        choice = choose(run, wish)
        target = (output or Path(default_name(run, choice, kind))).absolute()
        if os.path.lexists(target) and not overwrite:
            raise UsageError("is there already", where=target, remedy="--overwrite replaces it, --output names another")
        if not target.parent.is_dir():
            raise UsageError("its directory is not there", where=target, remedy="make it, or name another --output")
        _say(console, choice.words)
        task = ExportTask(
            source=Source(
                run_dir=run.path,
                checkpoint=choice.request,
                device="cpu",
                threads=frozen_config(run).evaluator.threads,
            ),
            format=kind,
            output=target,
            about={"source": f"segwatch run {run.path.name}"},
        )
        for answer in send(command, task):
            if isinstance(answer, Exported):
                return Export(choice, kind, target, answer)
    raise SegwatchError("the process at work left without an answer", where=target)


def format_of(wanted: str | None, output: Path | None) -> Format:
    """As asked; else as the name of the output says; else safetensors. Raises UsageError for any other."""
    named = "" if output is None else output.suffix.removeprefix(".").lower()
    said = wanted or named or "safetensors"
    for known in FORMATS:
        if said == known:
            return known
    where = "--format" if wanted else str(output)
    remedy = f"take one of {', '.join(FORMATS)}" + ("" if wanted else " as its ending, or say --format as well")
    raise UsageError(f"{said!r} is no format", where=where, remedy=remedy)


def require_packages(kind: Format) -> None:
    """Raises UsageError that says what to install."""
    missing = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{kind} needs {' and '.join(missing)}, not installed here",
            where="--format",
            remedy=f"pip install 'segwatch[export]', or pip install {' '.join(missing)}",
        )


def default_name(run: RunDir, choice: Choice, kind: Format) -> str:
    which = choice.path.stem if choice.epoch is None else f"epoch{choice.epoch.epoch}"
    return f"{run.path.name}_{which}.{kind}"


def say(done: Export, console: Console) -> None:
    _say(console, f"{done.exported.parity}")
    _say(console, f"{done.output} ({done.exported.size / 1e6:.1f} MB, sha256 {done.exported.sha256})")


def as_json(done: Export) -> dict[str, Any]:
    return {
        "checkpoint": done.choice.figures,
        "format": done.format,
        "path": str(done.output),
        "size": done.exported.size,
        "sha256": done.exported.sha256,
        "parity": done.exported.parity,
        "largest_difference": done.exported.largest_difference,
    }


def _say(console: Console, words: str) -> None:
    with nobody_may_look():
        console.print(words, soft_wrap=True, highlight=False, markup=False)
