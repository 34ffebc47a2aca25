"""TensorBoard beside a run: where it cannot be, the run hears of it in words and goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from segwatch.daemon import board_server
from segwatch.daemon.board_server import served


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_port_that_is_taken_is_named_and_the_block_is_entered(tmp_path, said):
    entered = False
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with served(tmp_path, port, said.append):
            entered = True
    assert entered
    assert said == [
        f"no TensorBoard: port {port} of 127.0.0.1 is taken; name another with --tensorboard-port. The run goes on"
    ]
    assert list(tmp_path.iterdir()) == []


def test_without_a_port_nothing_is_started_or_said(tmp_path, said):
    with served(tmp_path, None, said.append):
        pass
    assert said == []


def test_a_process_that_cannot_be_started_costs_a_line(tmp_path, said, monkeypatch):
    monkeypatch.setattr(board_server, "COMMAND", (str(tmp_path / "none"),))
    with served(tmp_path, 0, said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith("no TensorBoard: ")
    assert said[0].endswith("The run goes on")


def test_it_is_served_on_loopback_alone_and_says_what_it_says_into_a_file(tmp_path, said, monkeypatch):
    tell = "import sys; print(sys.argv[1:], flush=True); sys.stdin.read()"
    monkeypatch.setattr(board_server, "COMMAND", (sys.executable, "-c", tell))
    child = board_server.start(tmp_path, 0, said.append)
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    child.wait(timeout=60)
    told = (tmp_path / "tensorboard.log").read_text()
    assert "'--host', '127.0.0.1'" in told
    assert f"'{tmp_path / 'tensorboard'}'" in told


def test_it_ends_when_its_parent_is_killed():
    """Its parent's end of the pipe is all that it has: closed, as a SIGKILL closes it, it leaves."""
    leaves = "from segwatch.daemon.board_process import leave_with_parent as l; l(); import time; time.sleep(300)"
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", leaves], stdin=reading)
    os.close(reading)
    os.close(writing)
    assert child.wait(timeout=60) == 0
