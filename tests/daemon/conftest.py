"""A real daemon around a fake worker and a fake evaluator: everything but torch is the real thing."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from segwatch.daemon.history import History
from segwatch.daemon.process import Identity
from segwatch.daemon.store import read_events

HERE = Path(__file__).parent
DEADLINE_SECONDS = 60.0
CONFIG = """\
[data]
classes = "classes.json"
[data.train]
images = "images"
masks = "masks"
[data.val]
images = "images_val"
masks = "masks_val"
[data.test]
images = "images_test"
masks = "masks_test"
[trainer]
epochs = {epochs}
batch_size = 4
lr = 1e-3
amp = "{amp}"
[watch]
scan_seconds = 0.1
hang_floor_seconds = 1.0
stop_grace_seconds = 5
[recovery]
backoff_seconds = 0.05
{extra}
"""


class Daemon:
    """One `segwatch run` as a child process, on a run directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.run_dir = place / "runs" / "run"
        self.children: list[subprocess.Popen[str]] = []

    def configure(self, *, epochs: int = 3, amp: str = "off", extra: str = "") -> None:
        (self.place / "run.toml").write_text(CONFIG.format(epochs=epochs, amp=amp, extra=extra))

    def scenario(self, **what: object) -> None:
        (self.place / "scenario.json").write_text(json.dumps(what))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "run_with_fakes.py"), "run.toml", *arguments],
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def run(self, *arguments: str) -> tuple[int, str]:
        """To its end; returns exit code and everything it printed."""
        child = self.start(*arguments)
        output, _ = child.communicate(timeout=DEADLINE_SECONDS)
        return child.returncode, output

    @property
    def history(self) -> History:
        return History.of(read_events(self.run_dir))

    def until(self, holds: Callable[[History], bool]) -> History:
        """Wait for a fact. Fails at the deadline instead of sleeping until something probably happened."""
        pause = Event()
        for _ in range(int(DEADLINE_SECONDS / 0.05)):
            if (self.run_dir / "state.db").exists():
                history = self.history
                if holds(history):
                    return history
            pause.wait(0.05)
        raise AssertionError("the deadline passed before it held")

    def rows(self) -> list[dict[str, str]]:
        with (self.run_dir / "results.csv").open() as file:
            return list(csv.DictReader(file))

    def scored_epochs(self, split: str = "test") -> list[tuple[int, int]]:
        return [(int(row["attempt"]), int(row["epoch"])) for row in self.rows() if row["split"] == split]

    def worker_identity(self) -> Identity:
        spawned = self.history.attempts[-1].spawned
        assert spawned is not None
        return Identity(spawned.pid, spawned.create_time)

    def clean(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        if (self.run_dir / "state.db").exists():
            for attempt in self.history.attempts:
                if attempt.spawned is not None:
                    Identity(attempt.spawned.pid, attempt.spawned.create_time).send(signal.SIGKILL)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    write_data(tmp_path)
    daemon = Daemon(tmp_path)
    daemon.configure()
    daemon.scenario()
    yield daemon
    daemon.clean()


def write_data(place: Path) -> None:
    """Two classes, one image per split: what the audit needs to let a run begin."""
    classes = [{"id": 0, "name": "a", "colour": [0, 0, 0]}, {"id": 1, "name": "b", "colour": [255, 0, 0]}]
    (place / "classes.json").write_text(json.dumps({"classes": classes}))
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[64:] = 1
    rng = np.random.default_rng(0)
    for suffix in ("", "_val", "_test"):
        for kind in ("images", "masks"):
            (place / f"{kind}{suffix}").mkdir()
        pixels = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"images{suffix}" / f"one{suffix}.png")
        Image.fromarray(mask).save(place / f"masks{suffix}" / f"one{suffix}.png")


