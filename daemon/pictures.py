"""Has the last steps before an incident drawn by a process that nobody waits for. Knows nothing of what is drawn."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)
DRAW_COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "segwatch.daemon.steps_plot")
LEAVE_SECONDS = 10.0
"""For what is still being drawn when the daemon leaves."""


class Pictures:
    """Starts one process per picture; a newer one for the same place takes the place of an older one."""

    def __init__(self, log_name: str) -> None:
        self._log_name = log_name
        self._drawing: dict[Path, subprocess.Popen[bytes]] = {}

    @property
    def unavailable(self) -> str:
        """Why nothing will be drawn; empty where it will."""
        missing = importlib.util.find_spec("matplotlib") is None
        return "matplotlib is not installed here (pip install matplotlib)" if missing else ""

    def draw(self, directory: Path) -> None:
        """Raises OSError where no process can be started."""
        self._end(directory)
        if self.unavailable:
            return
        with (directory / self._log_name).open("wb") as output:
            self._drawing[directory] = subprocess.Popen(
                [*DRAW_COMMAND, str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the daemon
            )

    def done(self) -> list[Path]:
        """The places where one has ended since the last look, whatever came of it."""
        ended = []
        for directory, child in list(self._drawing.items()):
            code = child.poll()
            if code is not None:
                del self._drawing[directory]
                ended.append(directory)
                if code != 0:
                    log.warning("%s was not drawn (exit code %d): %s there says why", directory, code, self._log_name)
        return ended

    def wait(self) -> None:
        """Until all are done; those that take too long are ended."""
        for directory, child in list(self._drawing.items()):
            try:
                child.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._end(directory)

    def _end(self, directory: Path) -> None:
        child = self._drawing.pop(directory, None)
        if child is not None:
            child.kill()
            child.wait()
