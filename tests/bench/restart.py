"""How long until training goes on after its process was killed: segwatch with and without a standby, and a bare loop.

`python -m tests.bench.restart [ROUNDS]` prints the table. From `kill -9` to the first step that the next process tells
of, on a real UNet on the CPU, in turn: bare loop, without, with. The bare loop is bash around the very same worker.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from segwatch.daemon.events import AttemptSpawned
from segwatch.daemon.process import WORKER_COMMAND, Identity
from segwatch.daemon.store import read_events
from segwatch.data.scenes import write_scenes
from segwatch.trainer.standby import WAITS

SEGWATCH = Path(sys.executable).with_name("segwatch")
RUN_TOML = """\
[data]
root = "{root}"
classes = "classes.toml"
[data.train]
images = "images/train"
masks = "masks/train"
[data.val]
images = "images/val"
masks = "masks/val"
[data.test]
images = "images/test"
masks = "masks/test"
[model]
base_channels = {base_channels}
[trainer]
epochs = 100000
batch_size = 4
lr = 1e-3
threads = 1
[recovery]
standby = {standby}
same_cause = 1000
whole_run = 1000
backoff_seconds = 0
"""
"""No back-off: what is measured is the first restart, again and again, and the first is made at once."""
DEADLINE_SECONDS = 240.0
TRAINED_LINES = 3
"""Progress lines, about one a second, before it is killed."""


@dataclass(frozen=True)
class Restarts:
    """Seconds from the kill to the first new step, each time, by way of starting again."""

    seconds: dict[str, list[float]]

    def medians(self) -> dict[str, float]:
        return {way: median(values) for way, values in self.seconds.items()}


def measure_restarts(
    place: Path, rounds: int = 5, tell: Callable[[str], None] = lambda _: None, *, base_channels: int = 8
) -> Restarts:
    """Kill and wait, `rounds` times in each of the three ways, one after the other. Takes half a minute for each."""
    root = write_scenes(place / "scenes", counts={"train": 32, "val": 2, "test": 2}, size=(192, 192), seed=1)
    run_dirs = {
        way: _prepared(place / way, root, base_channels, standby=way == "standby") for way in ("spawned", "standby")
    }
    ways: dict[str, Callable[[], float]] = {
        "bare loop": lambda: _bare_loop(run_dirs["spawned"]),
        "spawned": lambda: _watched(place / "spawned", standby=False),
        "standby": lambda: _watched(place / "standby", standby=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, measure in ways.items():
            seconds[way].append(measure())
            tell(f"{number + 1}/{rounds} {way}: {seconds[way][-1]:.2f} s")
    return Restarts(seconds)


def _prepared(place: Path, root: Path, base_channels: int, *, standby: bool) -> Path:
    place.mkdir()
    text = RUN_TOML.format(root=root, standby=str(standby).lower(), base_channels=base_channels)
    (place / "run.toml").write_text(text)
    with _daemon(place):
        _until(lambda: len(list((place / "runs/run/checkpoints").glob("checkpoint_epoch*.json"))) > 0)
    return place / "runs" / "run"


def _watched(place: Path, *, standby: bool) -> float:
    """Under `segwatch run`, which goes on with the run from where it was stopped."""
    run_dir = place / "runs" / "run"
    before = _newest_attempt(run_dir)
    with _daemon(place) as daemon:
        _until(lambda: _newest_attempt(run_dir) > before and _progress(_journal(run_dir)) >= TRAINED_LINES)
        if standby:
            _until(lambda: _standby_waits(daemon))
        worker, attempt = _newest_worker(run_dir), _newest_attempt(run_dir)
        killed_at = time.time()
        worker.send(signal.SIGKILL)
        _until(lambda: _newest_attempt(run_dir) > attempt and _progress(_journal(run_dir)) > 0)
        return _first_step(_journal(run_dir), after=killed_at) - killed_at


def _bare_loop(run_dir: Path) -> float:
    """`while true` in bash around the worker of the run, which resumes from the same checkpoint each time."""
    directory = run_dir.parent / "loop"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(run_dir, directory)
    attempt = max((directory / "attempts").iterdir())
    spec = json.loads((attempt / "spec.json").read_text())
    (attempt / "spec.json").write_text(json.dumps({**spec, "run_dir": str(directory)}))
    journal = attempt / "journal.jsonl"
    journal.unlink()
    command = " ".join([*WORKER_COMMAND, str(attempt / "spec.json")])
    with (attempt / "worker.log").open("ab") as log:
        loop = subprocess.Popen(
            ["bash", "-c", f"while true; do {command}; done"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _until(lambda: _progress(journal) >= TRAINED_LINES)
        known = _progress(journal)
        [worker] = psutil.Process(loop.pid).children()
        killed_at = time.time()
        worker.kill()
        _until(lambda: _progress(journal) > known + 1)
        return _first_step(journal, after=killed_at) - killed_at
    finally:
        os.killpg(loop.pid, signal.SIGKILL)
        loop.wait()


@contextmanager
def _daemon(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (place / "output.txt").open("ab") as output:
        command = [str(SEGWATCH), "run", "run.toml"]
        daemon = subprocess.Popen(command, cwd=place, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait(DEADLINE_SECONDS)


def _journal(run_dir: Path) -> Path:
    return run_dir / "attempts" / f"{_newest_attempt(run_dir):03d}" / "journal.jsonl"


def _newest_attempt(run_dir: Path) -> int:
    return max((int(path.name) for path in (run_dir / "attempts").glob("*")), default=0)


def _newest_worker(run_dir: Path) -> Identity:
    spawned = [fact for _, fact in read_events(run_dir) if isinstance(fact, AttemptSpawned)][-1]
    return Identity(spawned.pid, spawned.create_time, spawned.boot)


def _lines(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _progress(journal: Path) -> int:
    return sum(line["kind"] == "progress" for line in _lines(journal))


def _first_step(journal: Path, *, after: float) -> float:
    """When the first process that started after that moment told of its first step, by the wall clock."""
    lines = iter(_lines(journal))
    next(line for line in lines if line["kind"] == "started" and line["time"] > after)
    return float(next(line["time"] for line in lines if line["kind"] == "progress"))


def _standby_waits(daemon: subprocess.Popen[bytes]) -> bool:
    return any(child.name() == WAITS for child in psutil.Process(daemon.pid).children())


def _until(holds: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE_SECONDS:.0f} s")
        pause.wait(0.05)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as place:
        restarts = measure_restarts(Path(place), rounds, tell=lambda words: print(words, flush=True))
    for way, seconds in restarts.medians().items():
        print(f"{way:10} median {seconds:.2f} s of {', '.join(f'{value:.2f}' for value in restarts.seconds[way])}")


if __name__ == "__main__":
    main()
