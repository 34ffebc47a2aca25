"""The daemon's end of the standby: a process that has loaded all that a worker needs, and waits to become one.

Knows how one is started, handed a spec and ended. It is no worker and is never counted as one; where there is none, or
where it does not answer, whoever asked starts a process as if it had never been there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..durable import write_json
from ..rotating import rotate_if_long
from ..trainer.handover import HEIR, MESSAGE_BYTES, READY, STAND_UP, TAKEN, UP, Entry, Order
from . import process

log = logging.getLogger(__name__)

STANDBY_COMMAND = (sys.executable, "-P", "-m", "segwatch.trainer.standby")
ANSWER_SECONDS = 2.0
"""For each answer at the hand-over, while the loop waits. A start from nothing takes longer."""
DEATHS = 3
"""In a row, with none of them used in between; then none is started any more."""

Start = Callable[[Sequence[str], socket.socket, Path], "subprocess.Popen[bytes]"]


def start_process(command: Sequence[str], line: socket.socket, output: Path) -> subprocess.Popen[bytes]:
    """A standby with `line` as its input: in a session of its own, and with the environment of a worker."""
    rotate_if_long(output)
    with output.open("ab") as words:
        return subprocess.Popen(
            command,
            stdin=line.fileno(),
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


class Standby:
    """At most one process that waits. All calls come from the supervisor's thread."""

    def __init__(self, output: Path, *, command: Sequence[str] = STANDBY_COMMAND, start: Start = start_process) -> None:
        """`output` is the file for what it says before it becomes anything."""
        self._output = output
        self._command = command
        self._start_process = start
        self._child: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._is_ready = False
        self._deaths = 0

    @property
    def ready(self) -> bool:
        """Whether one has loaded everything and waits."""
        if self._line is not None and not self._is_ready:
            with contextlib.suppress(OSError):  # nothing said yet, or it is gone
                self._is_ready = self._line.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT) == READY
        return self._is_ready

    def tend(self) -> None:
        """Start one where there is none; one that died is mourned first."""
        if self._child is not None and self._child.poll() is not None:
            self._deaths += 1
            log.warning("the standby died (exit code %d); see %s", self._child.returncode, self._output.name)
            self._forget()
        if self._child is None and self._deaths < DEATHS:
            self._start()

    def hand_over(self, entry: Entry, spec: Path, output: Path, lock: int) -> subprocess.Popen[bytes] | None:
        """Let it become what `entry` and `spec` say, its words in the file `output`, `lock` in its hands.

        Returns the process, and the caller's copy of the lock is closed; or `None` with the lock as it was, where there
        is none that answers in time. Raises OSError, the lock closed, where the disk refuses.
        """
        if not self.ready:
            return None
        assert self._child is not None
        heir = spec.with_name(HEIR)
        try:
            self._name_heir(heir)
        except OSError:
            os.close(lock)
            raise
        try:
            self._give(Order(entry=entry, spec=spec, log=output), lock)
        except OSError as error:
            log.warning("the standby did not take over, so a process is started: %s", error or type(error).__name__)
            heir.unlink(missing_ok=True)
            self._deaths += 1
            self.close()
            return None
        child = self._child
        self._forget()
        self._deaths = 0
        os.close(lock)
        return child

    def close(self) -> None:
        """End it, where there is one."""
        child = self._child
        if child is not None:
            child.kill()  # before the line ends: the end of the line would start one that has its order
            process.reap(child, lambda code: log.debug("the standby is ended (%d)", code))
        self._forget()

    def _start(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # a system without such sockets
            self._deaths = DEATHS
            log.warning("there is no standby: %s", error)
            return
        with theirs:
            try:
                self._child = self._start_process(self._command, theirs, self._output)
            except OSError as error:  # no memory, no room: nothing that should disturb who trains
                self._deaths += 1
                log.warning("the standby is not started: %s", error)
                ours.close()
                return
        ours.settimeout(ANSWER_SECONDS)
        self._line = ours

    def _name_heir(self, heir: Path) -> None:
        """Before it has the lock: a daemon started after this one finds it by this and by nothing else."""
        assert self._child is not None
        identity = process.Identity.of(self._child.pid)
        assert identity is not None, "a child that nobody has waited for has an entry in the process table"
        write_json(heir, asdict(identity))

    def _give(self, order: Order, lock: int) -> None:
        """Raises OSError where it does not answer, or answers anything else."""
        assert self._line is not None
        self._line.send(STAND_UP)
        self._expect(UP)
        socket.send_fds(self._line, [order.model_dump_json().encode()], [lock])
        self._expect(TAKEN)

    def _expect(self, word: bytes) -> None:
        assert self._line is not None
        said = self._line.recv(MESSAGE_BYTES)
        if said != word:
            raise ConnectionError(f"it said {said!r} instead of {word!r}")

    def _forget(self) -> None:
        if self._line is not None:
            self._line.close()
        self._child, self._line, self._is_ready = None, None, False
