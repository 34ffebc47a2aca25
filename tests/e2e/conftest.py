"""The real thing: the `segwatch` command, a real UNet, real files. Slow, so each run is asked several questions."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from segwatch.daemon.history import History
from segwatch.daemon.process import Identity
from segwatch.daemon.store import read_events
from segwatch.data.scenes import write_scenes

SEGWATCH = Path(sys.executable).with_name("segwatch")
DEADLINE_SECONDS = 240.0
RUN_TOML = """\
[data]
root = "{root}"
classes = "classes.toml"
scale = 0.5
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
base_channels = 4
[trainer]
epochs = {epochs}
batch_size = 4
lr = 3e-3
threads = 1
amp = "{amp}"
[watch]
scan_seconds = 0.3
hang_floor_seconds = {hang_floor}
[recovery]
backoff_seconds = 0.1
"""


def strict(text: str) -> Any:
    """JSON as the standard has it: NaN and Infinity are no words of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Site:
    """A working directory with a run.toml, and the command line in it."""

    def __init__(self, place: Path, root: Path) -> None:
        self.place = place
        self.root = root
        self.run_dir = place / "runs" / "run"
        self.children: list[subprocess.Popen[str]] = []

    def configure(self, *, epochs: int = 3, amp: str = "off", hang_floor: float = 60.0) -> None:
        text = RUN_TOML.format(root=self.root, epochs=epochs, amp=amp, hang_floor=hang_floor)
        (self.place / "run.toml").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [str(SEGWATCH), *arguments],
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        self.children.append(child)
        return child

    def segwatch(self, *arguments: str) -> tuple[int, str]:
        child = self.start(*arguments)
        output, _ = child.communicate(timeout=DEADLINE_SECONDS)
        return child.returncode, output

    @property
    def history(self) -> History:
        return History.of(read_events(self.run_dir))

    def until(self, holds: Callable[[History], bool]) -> History:
        pause = Event()
        for _ in range(int(DEADLINE_SECONDS / 0.1)):
            if (self.run_dir / "events.jsonl").exists():
                history = self.history
                if holds(history):
                    return history
            pause.wait(0.1)
        raise AssertionError("the deadline passed before it held")

    def worker(self) -> Identity:
        spawned = self.history.attempts[-1].spawned
        assert spawned is not None
        return Identity(spawned.pid, spawned.create_time)

    def rows(self, split: str = "test") -> list[dict[str, str]]:
        with (self.run_dir / "results.csv").open() as file:
            return [row for row in csv.DictReader(file) if row["split"] == split]

    def scored_epochs(self, split: str = "test") -> list[int]:
        return [int(row["epoch"]) for row in self.rows(split)]

    def specs(self) -> list[dict[str, Any]]:
        paths = sorted((self.run_dir / "attempts").glob("*/spec.json"))
        return [strict(path.read_text()) for path in paths]

    def journal(self, attempt: int) -> list[dict[str, Any]]:
        text = (self.run_dir / "attempts" / f"{attempt:03d}" / "journal.jsonl").read_text()
        return [strict(line) for line in text.splitlines()]

    def alerts_log(self) -> str:
        return (self.run_dir / "alerts.log").read_text()

    def clean(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.stdout.close()
        if (self.run_dir / "events.jsonl").exists():
            for attempt in self.history.attempts:
                if attempt.spawned is not None:
                    Identity(attempt.spawned.pid, attempt.spawned.create_time).send(signal.SIGKILL)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scenes")
    return write_scenes(directory, counts={"train": 16, "val": 4, "test": 4}, size=(96, 96), seed=1)


@pytest.fixture
def site(tmp_path: Path, scenes: Path) -> Iterator[Site]:
    site = Site(tmp_path, scenes)
    site.configure()
    yield site
    site.clean()
