"""One look at a run for `status`: what its facts come to, and what is live: processes, the journal's end, the GPU.

Reads only, never waits for a lock and imports no models as long as glance.json is current. Knows nothing about words.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..durable import read_lines
from ..errors import UsageError
from . import going_on
from .glance_file import EVENTS, any_glance, read_glance
from .identity import Identity
from .rundir import RunDir, paths_in
from .wishes import Wish, waiting

JOURNAL_TAIL_BYTES = 64 << 10
CATCH_UP_SECONDS = 0.25
"""A daemon that lives writes glance.json within a look: worth this wait, before thousands of facts are read."""
POLL_SECONDS = 0.02
GPU_SECONDS = 3.0
"""Without persistence mode the driver wakes up for each question, which takes a second or two."""
LAST_SECONDS = 1.0
"""For a program that was killed to be gone."""
SIBLINGS = 20
"""Earlier runs of the same directory that are looked at, the newest ones."""
FIGURES = ("step", "epoch", "step_in_epoch", "loss", "lr", "images_per_second", "skipped_steps", "memory_mb", "time")


@dataclass(frozen=True)
class Sight:
    """A run as it stands at one moment."""

    run: RunDir
    figures: dict[str, Any]
    """As `glance.figures` has them."""
    progress: dict[str, Any] | None = None
    """The last progress line of the journal of the attempt that is under way."""
    phase: str | None = None
    daemon_alive: bool = False
    worker_alive: bool = False
    stopped_by_hand_at: float | None = None
    """When `segwatch stop` ended a worker that no daemon watched, in seconds since the epoch."""
    replaying: bool = False
    """It is being found out what the newest incident was."""
    gpus: list[dict[str, Any]] | None = None
    """`None` where no GPU is used, or it does not say in time."""
    siblings: dict[str, list[list[float]]] = field(default_factory=dict)
    """Milestones of earlier runs with the same classes, by name."""
    wishes: list[Wish] = field(default_factory=list)
    """What people asked for and no daemon has taken up yet."""
    again: str = "segwatch run"
    """The command that goes on with it, whole."""


def look_at(run: RunDir) -> Sight:
    """Raises SegwatchError where no run is, or its facts are those of a newer release."""
    return Looker(run).look()


def _is_replayed(run_dir: Path, incident: int | None) -> bool:
    return incident is not None and (run_dir / "incidents" / f"{incident:03d}" / "diagnosis_spec.json").exists()


class Looker:
    """Looks again and again; facts that nobody summed up are folded once, not at each look."""

    def __init__(self, run: RunDir, *, alone: bool = False) -> None:
        """`alone` asks neither the GPU nor the other runs: for who looks at all of them."""
        self._run = run
        self._alone = alone
        self._folded: dict[str, Any] | None = None
        self._folded_bytes = -1

    def look(self) -> Sight:
        run = self._run
        holder = run.holder()
        alive = holder is not None and holder.purpose == "watch" and holder.alive() is not False
        figures = self._figures(someone_writes=holder is not None and holder.alive() is True)
        attempt = figures["attempt"]
        worker_alive = _lives(attempt and attempt["worker"])
        # The slowest to answer is asked first: all the rest is read meanwhile.
        asked = _ask_gpus(attempt["device"]) if worker_alive and not self._alone else None
        progress, phase = _journal(run.path, attempt["number"]) if attempt else (None, None)
        siblings = {} if self._alone else dict(_siblings(run.path, figures))
        return Sight(
            run=run,
            figures=figures,
            progress=progress,
            phase=phase,
            daemon_alive=alive and figures["stopped"] is None,  # one on another host is taken at its word
            worker_alive=worker_alive,
            stopped_by_hand_at=_stopped_by_hand_at(run.path, attempt["number"]) if attempt else None,
            replaying=_is_replayed(run.path, figures["undiagnosed"]),
            siblings=siblings,
            wishes=[wish for _, wish in waiting(run.path) if isinstance(wish, Wish)],
            again=going_on.command(run),
            gpus=_answer(asked),
        )

    def _figures(self, *, someone_writes: bool) -> dict[str, Any]:
        found = read_glance(self._run.path)
        deadline = time.monotonic() + (CATCH_UP_SECONDS if someone_writes else 0.0)
        while found is None and time.monotonic() < deadline:
            threading.Event().wait(POLL_SECONDS)
            found = read_glance(self._run.path)
        return self._fold() if found is None else found

    def _fold(self) -> dict[str, Any]:
        events = self._run.path / EVENTS
        size = events.stat().st_size if events.exists() else -1
        if self._folded is None or size != self._folded_bytes:
            from .glance import folded  # the models of all facts: a third of a second

            self._folded, self._folded_bytes = folded(self._run), size
        return self._folded


def _lives(worker: dict[str, Any] | None) -> bool:
    return worker is not None and Identity(worker["pid"], worker["create_time"], worker["boot"]).alive()


def _journal(run_dir: Path, attempt: int) -> tuple[dict[str, Any] | None, str | None]:
    """The last progress line of an attempt's journal and its last phase, at the same cost however long it is."""
    path = run_dir / "attempts" / f"{attempt:03d}" / "journal.jsonl"
    try:
        size = path.stat().st_size
    except OSError:
        return None, None
    lines, _ = read_lines(path, max(0, size - JOURNAL_TAIL_BYTES))
    phase: str | None = None
    for line in reversed(lines):
        kind, entry = _entry(line)
        if kind == "phase" and phase is None and isinstance(entry.get("phase"), str):
            phase = str(entry["phase"])
        if kind == "progress" and _is_progress(entry):
            return {name: entry.get(name) for name in FIGURES}, phase
    return None, phase


def _stopped_by_hand_at(run_dir: Path, attempt: int) -> float | None:
    """The note that `farewell` has from `segwatch stop`."""
    path = run_dir / "attempts" / f"{attempt:03d}" / "asked.json"
    try:
        said, when = json.loads(path.read_bytes()), path.stat().st_mtime
    except (OSError, ValueError):  # none, or a disk without room left nothing but its name
        return None
    return when if isinstance(said, dict) and said.get("by_hand") is True else None


def _entry(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        entry = json.loads(line)
    except ValueError:  # torn, or the half of a line at which the tail begins
        return "", {}
    return (str(entry.get("kind")), entry) if isinstance(entry, dict) else ("", {})


def _is_progress(entry: dict[str, Any]) -> bool:
    """Whether it is one of the contract; a line that is not is never trusted."""
    needed = all(_number(entry.get(name)) for name in ("step", "epoch", "step_in_epoch", "images_per_second", "time"))
    return needed and all(entry.get(name) is None or _number(entry[name]) for name in FIGURES)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _siblings(run_dir: Path, figures: dict[str, Any]) -> Iterator[tuple[str, list[list[float]]]]:
    """Runs beside this one that began before it, with the same classes, and were not given up."""
    created, names = figures["created_at"], figures["class_names"]
    if created is None:
        return
    spoke = {path: at for path in _beside(run_dir) if path != run_dir and (at := _glanced(path)) is not None}
    for path in sorted(spoke, key=lambda path: -spoke[path])[:SIBLINGS]:
        other = any_glance(path)
        if other is None or other.get("class_names") != names or other.get("gave_up") is not None:
            continue
        began, course = other.get("created_at"), other.get("milestones")
        if _number(began) and began < created and isinstance(course, list) and course:
            yield path.name, course


def _beside(run_dir: Path) -> list[Path]:
    try:
        return paths_in(run_dir.parent)
    except UsageError:  # one may be let into a run, and not see what is beside it
        return []


def _glanced(run_dir: Path) -> float | None:
    """When it last left a glance, in seconds since the epoch; `None` for what is no run, or somebody else's."""
    try:
        return (run_dir / "glance.json").stat().st_mtime
    except OSError:
        return None


def _ask_gpus(device: str | None) -> subprocess.Popen[str] | None:
    """nvidia-smi, on its way to say how every GPU is that this process may see; `None` where no GPU is used."""
    if device is None or not device.startswith("cuda") or shutil.which("nvidia-smi") is None:
        return None
    query = "--query-gpu=index,name,memory.used,memory.total,utilization.gpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", *(["-i", visible] if visible else [])]
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None


def _answer(asked: subprocess.Popen[str] | None) -> list[dict[str, Any]] | None:
    """What it says in time; slow, gone or failing: then the journal's figure is what there is."""
    if asked is None:
        return None
    try:
        said, _ = asked.communicate(timeout=GPU_SECONDS)
    except subprocess.TimeoutExpired:
        _give_up(asked)
        return None
    return [gpu for line in said.splitlines() if (gpu := _gpu(line)) is not None] if asked.returncode == 0 else None


def _give_up(asked: subprocess.Popen[str]) -> None:
    """Kill it, and wait a moment at most: behind a GPU that is gone it cannot even be killed."""
    asked.kill()
    assert asked.stdout is not None
    asked.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        asked.wait(LAST_SECONDS)


def _gpu(line: str) -> dict[str, Any] | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 5:
        return None
    used, total, busy = (float(cell) if cell.replace(".", "", 1).isdigit() else None for cell in cells[2:])
    return {
        "index": cells[0],
        "name": cells[1],
        "memory_used_mb": used,
        "memory_total_mb": total,
        "utilisation_percent": busy,
    }
