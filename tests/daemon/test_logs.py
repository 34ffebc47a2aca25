"""Logs that never fill a disk, and lose nothing while they are rotated."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

from segwatch.daemon.logs import log_to
from segwatch.rotating import reopen_if_long, rotate_if_long


def test_a_log_that_is_long_keeps_its_beginning_and_what_came_last(tmp_path):
    log = tmp_path / "daemon.log"
    for number in range(4):
        log.write_text(f"{number}" * 10)
        assert not rotate_if_long(log, 10)
        assert rotate_if_long(log, 9)
    assert {path.name: path.read_text()[0] for path in tmp_path.iterdir()} == {
        "daemon.log.first": "0",
        "daemon.log.1": "3",
    }
    assert not rotate_if_long(log, 9)


def test_daemon_log_stays_bounded_and_whole_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("segwatch.daemon.logs.BoundedHandler.__init__.__kwdefaults__", {"limit_bytes": 2000})
    with log_to(tmp_path / "daemon.log"):
        for number in range(200):
            logging.getLogger("segwatch.daemon").info("line %d ends here", number)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["daemon.log", "daemon.log.1", "daemon.log.first"]
    assert sum(path.stat().st_size for path in files) < 3 * 2200
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert all(line.endswith("ends here") for line in lines)
    assert "line 0 " in (tmp_path / "daemon.log.first").read_text()
    assert "line 199 " in (tmp_path / "daemon.log").read_text()


def test_a_log_whose_directory_is_gone_loses_its_words_and_stops_nobody(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    with log_to(place / "daemon.log"):
        log = logging.getLogger("segwatch.daemon")
        log.info("before")
        place.rename(tmp_path / "away")
        log.info("lost")
        (tmp_path / "away").rename(place)
        log.info("after")
    assert [line.rsplit(" ", 1)[1] for line in (place / "daemon.log").read_text().splitlines()] == ["before", "after"]


WORKER = """
import os, sys, threading, time
from pathlib import Path
from segwatch.trainer.own_log import keep_short
log = Path(sys.argv[1])
keep_short(log, limit_bytes=20_000, every_seconds=0.002)
def speak(who):
    for number in range(1500):
        os.write(1 + who % 2, f"{who} {number} ends\\n".encode())
        if number % 50 == 0:
            time.sleep(0.004)
threads = [threading.Thread(target=speak, args=(who,)) for who in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_a_worker_begins_a_new_log_while_it_writes_and_loses_no_line(tmp_path):
    """Its four threads write on, to both streams: each line is whole and in its order, in one file or in the next."""
    log = tmp_path / "worker.log"
    kept: list[str] = []
    with log.open("ab") as output:
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(log)], stdout=output, stderr=output)
    assert worker.wait(60) == 0
    for name in ("worker.log.first", "worker.log.1", "worker.log"):
        path = tmp_path / name
        kept += path.read_text().splitlines() if path.exists() else []
    assert (tmp_path / "worker.log.first").exists()
    told = [line for line in kept if not line.startswith("this log")]
    assert all(line.endswith(" ends") for line in told)
    for who in range(4):
        numbers = [int(line.split()[1]) for line in told if line.startswith(f"{who} ")]
        assert numbers == sorted(numbers)
        assert numbers[0] == 0
        assert numbers[-1] == 1499
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000


def test_no_line_is_lost_between_two_files(tmp_path, monkeypatch):
    """With room for everything in two files, everything is there."""
    log = tmp_path / "worker.log"
    descriptor = log.open("ab", buffering=0)
    done = threading.Event()

    def speak() -> None:
        for number in range(20_000):
            descriptor.write(b"%d\n" % number)
        done.set()

    thread = threading.Thread(target=speak)
    thread.start()
    while not reopen_if_long(log, (descriptor.fileno(),), 30_000):
        assert not done.is_set()
    thread.join()
    descriptor.close()
    text = (tmp_path / "worker.log.first").read_text() + log.read_text()
    assert text == "".join(f"{number}\n" for number in range(20_000))


def test_streams_that_are_something_else_are_left_alone(tmp_path):
    log, other = tmp_path / "worker.log", tmp_path / "other"
    log.write_bytes(b"x" * 100)
    with other.open("wb", buffering=0) as stream:
        stream.write(b"y" * 100)
        assert not reopen_if_long(log, (stream.fileno(),), 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "worker.log"]
