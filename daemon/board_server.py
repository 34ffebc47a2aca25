"""Serves a run's TensorBoard on loopback while the daemon lives. Whatever happens to it, training goes on.

Only on loopback: TensorBoard asks nobody for a password, and would show a run to the whole network.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import process

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
COMMAND = (sys.executable, "-P", "-m", "segwatch.daemon.board_process")
LOG = "tensorboard.log"
KEPT = "scalars=5000,images=100"
"""Points of each curve that it holds in memory; by itself 1000, and 10 pictures: every hundredth of a long run."""
RELOAD_SECONDS = 15


@contextmanager
def served(run_dir: Path, port: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """A TensorBoard of `run_dir` on this port of loopback until the block is left; none without a port.

    `say` hears where it is, or why there is none: nothing that goes wrong with it is raised.
    """
    child = None if port is None else start(run_dir, port, say)
    try:
        yield
    finally:
        if child is not None:
            assert child.stdin is not None
            child.stdin.close()
            child.kill()


def start(run_dir: Path, port: int, say: Callable[[str], None]) -> subprocess.Popen[bytes] | None:
    """`None`, and why in words, where it cannot be."""
    if (taken := why_not(port)) is not None:
        say(f"no TensorBoard: port {port} of {HOST} {taken}; name another with --tensorboard-port. The run goes on")
        return None
    try:
        with (run_dir / LOG).open("ab") as output:
            child = subprocess.Popen(
                [*COMMAND, *_arguments(run_dir, port)],
                stdin=subprocess.PIPE,  # which ends when this process does, however it ends
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the daemon, which ends it last
            )
    except OSError as error:
        say(f"no TensorBoard: {error}. The run goes on")
        return None
    process.reap(child, lambda code: log.info("TensorBoard ended (exit code %d); see %s", code, LOG))
    say(f"TensorBoard: {address(port)} (in some seconds; what it says goes to {LOG})")
    return child


def address(port: int) -> str:
    """Opens on the page with the charts that segwatch has laid out."""
    return f"http://{HOST}:{port}/#custom_scalars"


def _arguments(run_dir: Path, port: int) -> list[str]:
    return [
        *("--logdir", str(run_dir / "tensorboard")),
        *("--host", HOST, "--port", str(port)),
        *("--reload_interval", str(RELOAD_SECONDS)),
        *("--samples_per_plugin", KEPT),
        *("--window_title", run_dir.name),
    ]


def why_not(port: int) -> str | None:
    """In words why it cannot be served there, as TensorBoard itself would find it: by taking the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "is not for you to take"
        except OSError:
            return "is taken"
    return None
