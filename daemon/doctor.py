"""`segwatch doctor`: is this machine ready for this run? Puts the checks in order and prints them, a line each.

What is looked at, and what is said of it, is each check's own business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..data.audit_page import PAGE, READY, verdict_in
from ..errors import ConfigError
from ..plain import one_line
from . import device_checks, memory_checks, next_steps, place_checks, world_checks
from .check import Check, fail, gigabytes, ok
from .config import RunConfig, load_config
from .places import Places
from .reporting import BOARD_PORT
from .storage import free_bytes
from .survey import Survey, survey

RUN_TOML = Path("run.toml")
MARKS = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[bold red]FAIL[/]"}


@dataclass(frozen=True)
class Examination:
    config: Path | None
    """The run.toml that was looked at; `None` where there is none."""
    checks: tuple[Check, ...]


def examine(source: Path | None, runs_dir: Path, *, send: bool = False, board_port: int = BOARD_PORT) -> Examination:
    """Every check; what is wrong with run.toml is one of them. Without one, the machine alone is looked at.

    `board_port` is where `segwatch run` will be asked to serve TensorBoard.
    """
    if source is None and RUN_TOML.exists():
        source = RUN_TOML
    return Examination(source, tuple(_checks(source, runs_dir, send=send, board_port=board_port)))


def exit_code(checks: Sequence[Check]) -> int:
    """1 where anything fails."""
    return int(any(check.state == "fail" for check in checks))


def as_json(found: Examination) -> dict[str, Any]:
    return {
        "config": None if found.config is None else str(found.config),
        "ready": exit_code(found.checks) == 0,
        "checks": [check.model_dump() for check in found.checks],
    }


def say(found: Examination, console: Console) -> None:
    """A line for each check, its remedy below, and the next command."""
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        console.print(MARKS[check.state], end="  ")
        _say(console, f"{check.name:<{width}}  {one_line(check.found)}")
        if check.remedy is not None:
            _say(console, f"{'':<{width + 8}}-> {one_line(check.remedy)}")
    failed = sum(check.state == "fail" for check in found.checks)
    if failed:
        _say(console, f"\nNot ready: {failed} of {len(found.checks)} checks failed; their lines say what to do.")
    elif found.config is None:
        _say(console, next_steps.block("segwatch init DIR", heading="The machine is ready. Next:"))
    else:
        _say(console, next_steps.block(*_then(found.config), heading="Ready. Next:"))


def _then(source: Path) -> Iterator[str]:
    """Nobody should train on data that nobody has looked at."""
    if verdict_in(source.parent) is None:
        yield next_steps.command("audit", source)
    yield next_steps.command("run", source)


def check_audit(source: Path) -> Iterator[Check]:
    """The verdict of the last audit beside run.toml; nothing where there was none."""
    verdict, page = verdict_in(source.parent), source.parent / PAGE
    if verdict == READY:
        yield ok("audit", f"{page}: ready to train")
    elif verdict is not None:
        again = next_steps.command("audit", source)
        yield fail("audit", f"{page}: {verdict}", f"mend what the page names, and look again: {again}")


def before_run(source: Path, config: RunConfig, runs_dir: Path) -> list[Check]:
    """The checks that cost next to nothing and leave nothing if they are killed, for `segwatch run`: what is not as it
    should be. Whether file events arrive the watcher finds out by itself.
    """
    checks = [place_checks.check_writing(runs_dir), world_checks.check_clock(runs_dir, [source])]
    with contextlib.suppress(ConfigError):  # the audit, which comes next, explains it better
        checks.append(place_checks.check_disk(config, survey(config, source.resolve().parent), runs_dir))
    return [check for check in checks if check.state != "ok"]


def _checks(source: Path | None, runs_dir: Path, *, send: bool, board_port: int) -> Iterator[Check]:
    config: RunConfig | None = None
    found: Survey | None = None
    if source is not None:
        try:
            config = load_config(source)
            found = survey(config, source.resolve().parent)
            yield ok("run.toml", _told(source, found))
        except ConfigError as error:
            where = error.where if config is None else Places(source, config.data).of(error.where)
            said = f"{where}: {error.what}" if where else error.what
            yield fail("run.toml" if config is None else "data", said, error.remedy or "mend it")
    wanted = "auto" if config is None else config.trainer.device
    facts = device_checks.ask()
    yield device_checks.judge(facts, wanted)
    if config is not None and found is not None:
        gpu = None if isinstance(facts, str) else device_checks.chosen_gpu(facts, wanted)
        precision = None if gpu is None else device_checks.judge_precision(gpu, config)
        if precision is not None:
            yield precision
        yield memory_checks.check_memory(config, found, gpu)
        yield place_checks.check_disk(config, found, runs_dir)
    else:
        yield ok("disk", f"{gigabytes(free_bytes(place_checks.nearest(runs_dir)))} free in {runs_dir}")
    yield place_checks.check_writing(runs_dir)
    yield place_checks.check_events(runs_dir, scan_seconds=2.0 if config is None else config.watch.scan_seconds)
    if source is not None and config is not None and found is not None:
        yield from check_audit(source)
        yield place_checks.check_reading(config, found)
    yield world_checks.check_port(board_port)
    if config is not None and source is not None:
        yield from world_checks.check_channels(config.alerts.notify, source.resolve().parent, send=send)
    files = [] if source is None else [source]
    files += [] if found is None else [image for image, _ in found.sample]
    yield world_checks.check_clock(runs_dir, files, synchronised=world_checks.set_by_a_server())


def _told(source: Path, found: Survey) -> str:
    counts = ", ".join(f"{number} {split}" for split, number in found.counts.items())
    return f"{source}: {counts} images with masks, {found.classes} classes named"


def _say(console: Console, words: str) -> None:
    console.print(words, soft_wrap=True, highlight=False, markup=False)
