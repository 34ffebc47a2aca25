"""A `segwatch run` in a process of its own, seen from outside: its facts, its rows, its worker. For tests only."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from segwatch.daemon.history import History
from segwatch.daemon.process import Identity
from segwatch.daemon.store import read_events

POLL_SECONDS = 0.05


class Watched:
    """The run `runs/run` below `place`, and the processes that were started on it."""

    deadline_seconds = 60.0
    columns = 200
    """How wide the terminal is that nobody sits at."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.run_dir = place / "runs" / "run"
        self.children: list[subprocess.Popen[str]] = []

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            command,
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": str(self.columns)},
        )
        self.children.append(child)
        return child

    def finish(self, child: subprocess.Popen[str]) -> tuple[int, str]:
        """To its end; returns exit code and everything it printed. Fails with what it said until the deadline."""
        try:
            output, _ = child.communicate(timeout=self.deadline_seconds)
        except subprocess.TimeoutExpired as error:
            said = (error.output or b"").decode(errors="replace")
            late = f"{child.args} still runs after {self.deadline_seconds:.0f} s"
            raise AssertionError(f"{late}. It said:\n{said}") from None
        return child.returncode, output

    @property
    def history(self) -> History:
        return History.of(read_events(self.run_dir))

    def until(self, holds: Callable[[History], bool]) -> History:
        """Wait for a fact. Fails at the deadline instead of sleeping until something probably happened."""
        pause = threading.Event()
        for _ in range(int(self.deadline_seconds / POLL_SECONDS)):
            if (self.run_dir / "events.jsonl").exists():
                history = self.history
                if holds(history):
                    return history
            pause.wait(POLL_SECONDS)
        raise AssertionError("the deadline passed before it held")

    def rows(self) -> list[dict[str, str]]:
        with (self.run_dir / "results.csv").open() as file:
            return list(csv.DictReader(file))

    def scored_epochs(self, split: str = "test") -> list[tuple[int, int]]:
        """(attempt, epoch) of every row of a split, in the order of the file."""
        return [(int(row["attempt"]), int(row["epoch"])) for row in self.rows() if row["split"] == split]

    def worker_identity(self) -> Identity:
        spawned = self.history.attempts[-1].spawned
        assert spawned is not None
        return Identity(spawned.pid, spawned.create_time, spawned.boot)

    def alerts_log(self) -> str:
        return (self.run_dir / "alerts.log").read_text()

    def clean(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if (self.run_dir / "events.jsonl").exists():
            for attempt in self.history.attempts:
                if attempt.spawned is not None:
                    Identity(attempt.spawned.pid, attempt.spawned.create_time, attempt.spawned.boot).send(
                        signal.SIGKILL
                    )
