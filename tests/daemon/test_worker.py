"""How a worker that was asked to leave is said to have ended."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from queue import SimpleQueue

import pytest
from segwatch.daemon import farewell, process
from segwatch.daemon.config import WatchConfig
from segwatch.daemon.worker import Worker
from segwatch.trainer.contract import EXIT, SPEC, AttemptSpec, ExitCode, ExitRecord

DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"


@pytest.fixture
def deaf_worker(tmp_path):
    """A worker that does not hear that it should leave, and its process."""
    child = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    child.stdout.readline()

    spec = AttemptSpec.model_construct(run_dir=tmp_path, attempt=1)

    def made(grace_seconds: float) -> tuple[Worker, subprocess.Popen]:
        watch = WatchConfig(stop_grace_seconds=grace_seconds)
        return Worker(spec, process.Identity.of(child.pid), watch=watch, now=0.0), child

    yield made
    child.kill()
    child.communicate()


def test_one_that_somebody_else_kills_while_it_has_time_to_leave_is_struck_down(deaf_worker):
    worker, child = deaf_worker(60.0)
    assert not worker.struck_down(-signal.SIGKILL), "nobody has asked it to leave"
    worker.ask_to_stop()
    child.kill()
    assert worker.struck_down(child.wait(10))


def test_one_that_takes_too_long_is_killed_by_the_daemon_and_not_struck_down(deaf_worker):
    worker, child = deaf_worker(0.1)
    worker.ask_to_stop()
    returncode = child.wait(10)
    assert returncode == -signal.SIGKILL
    assert not worker.struck_down(returncode)


def test_one_that_leaves_with_an_exit_code_or_by_the_signal_it_was_sent_went_on_request(deaf_worker):
    worker, _ = deaf_worker(60.0)
    worker.ask_to_stop()
    assert not worker.struck_down(0)
    assert not worker.struck_down(-signal.SIGTERM), "it had not come so far as to hear it"


def test_an_adopted_one_that_left_no_word_of_its_end_was_struck_down(deaf_worker):
    worker, _ = deaf_worker(60.0)
    assert not worker.struck_down(None), "nobody has asked it to leave"
    worker.ask_to_stop()
    assert worker.struck_down(None), "an earlier daemon's child: its exit code nobody can read"
    record = ExitRecord(code=ExitCode.STOPPED, cause=None, message="stopped on request", step=1, epoch=0, stepped=True)
    worker.spec.directory.mkdir(parents=True)
    (worker.spec.directory / EXIT).write_text(record.model_dump_json())
    assert not worker.struck_down(None)


def test_one_that_a_person_does_not_want_to_wait_for_is_not_struck_down(deaf_worker):
    worker, child = deaf_worker(60.0)
    worker.spec.directory.mkdir(parents=True)
    worker.ask_to_stop()
    assert not worker.killed_on_request
    worker.kill()
    assert not worker.struck_down(child.wait(10))
    assert worker.killed_on_request


def test_that_it_was_asked_is_known_where_the_disk_has_no_room_for_a_note(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / SPEC).write_text("{}")
    monkeypatch.setattr(farewell, "write_json", full)
    assert not farewell.was_asked(tmp_path)
    farewell.note_asked(tmp_path)
    assert farewell.was_asked(tmp_path)
    assert not farewell.was_killed_on_request(tmp_path)
    (tmp_path / SPEC).unlink()
    farewell.note_asked(tmp_path / "gone")  # nor does it keep anybody from stopping


def test_a_disk_that_takes_no_spec_does_not_keep_the_lock(tmp_path):
    lock = process.WorkerLock(tmp_path)
    (tmp_path / "attempts").write_text("in the way")
    spec = AttemptSpec.model_construct(run_dir=tmp_path, attempt=1)
    with pytest.raises(OSError, match="attempts"):
        Worker.spawn(spec, lock.acquire(), command=(), watch=WatchConfig(), inbox=SimpleQueue(), now=0.0)
    assert lock.free()
