"""A daemon with a fault inside it, seen from outside; `broken_daemon.py` is what runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..daemon.conftest import Daemon, write_data

HERE = Path(__file__).parent


class Broken(Daemon):
    """A daemon with a fault inside it; see broken_daemon.py."""

    faults = ""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        os.environ["SEGWATCH_BREAK"] = self.faults
        try:
            return self.spawn([sys.executable, str(HERE / "broken_daemon.py"), "run.toml", *arguments])
        finally:
            del os.environ["SEGWATCH_BREAK"]

    def break_it(self) -> None:
        (self.place / "broken").touch()

    def mend_it(self) -> None:
        (self.place / "broken").unlink(missing_ok=True)

    def times(self) -> int:
        mark = self.place / "provoked.txt"
        return len(mark.read_text().splitlines()) if mark.exists() else 0


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Broken]:
    write_data(tmp_path)
    daemon = Broken(tmp_path)
    daemon.configure()
    daemon.scenario()
    yield daemon
    daemon.clean()


def until(condition: Callable[[], bool], daemon: Daemon) -> None:
    """Wait for what is no fact."""
    pause = threading.Event()
    for _ in range(int(daemon.deadline_seconds / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("the deadline passed before it held")
