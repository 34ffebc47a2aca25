"""The worker as the daemon starts it: a real process, its signals and its lock."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from segwatch.checkpoints.files import load_weights
from segwatch.checkpoints.manifest import read_manifest
from segwatch.durable import read_lines
from segwatch.trainer.__main__ import run
from segwatch.trainer.contract import JOURNAL_LINE, WORKER_LOCK_FD, AttemptSpec, Drill, ExitCode, ExitRecord

DEADLINE_SECONDS = 60


@contextmanager
def worker(spec: AttemptSpec, **keywords: object) -> Iterator[subprocess.Popen]:
    with (spec.directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "segwatch.trainer", str(spec.directory / "spec.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **keywords,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "the worker did not get there in time"
        time.sleep(0.02)


def kinds(spec: AttemptSpec) -> list[str]:
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    return [JOURNAL_LINE.validate_json(line).kind for line in raw]


def test_sigterm_saves_at_a_step_and_another_process_goes_on_bit_for_bit(make_spec, tmp_path):
    spec = make_spec(epochs=10_000, batch_size=1)
    lock = os.open(tmp_path / "worker.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with worker(spec, pass_fds=(lock,), env={**os.environ, WORKER_LOCK_FD: str(lock)}) as process:
        os.close(lock)
        other = os.open(tmp_path / "worker.lock", os.O_RDWR)
        wait_until(lambda: "progress" in kinds(spec))
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.send_signal(signal.SIGINT)  # Ctrl-C in the terminal of the daemon is not the worker's business
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == ExitCode.STOPPED
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)

    record = ExitRecord.model_validate_json((spec.directory / "exit.json").read_text())
    inside_an_epoch = record.step % 7
    stem = f"recovery_step{record.step}" if inside_an_epoch else f"checkpoint_epoch{record.epoch}"
    epochs = record.epoch + 1
    resumed = make_spec(attempt=2, epochs=epochs, batch_size=1, resume_from=f"checkpoints/{stem}.json")
    undisturbed = make_spec(run="undisturbed", epochs=epochs, batch_size=1)
    ends = []
    for each in (resumed, undisturbed):
        assert run(each.directory / "spec.json", lambda: False) == ExitCode.FINISHED
        directory = each.run_dir / "checkpoints"
        ends.append(load_weights(directory, read_manifest(directory / f"checkpoint_epoch{epochs}.json")))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_a_kill_leaves_the_drill_in_the_journal_and_no_exit_record(make_spec):
    spec = make_spec(drills=(Drill.parse("kill@2"),))
    with worker(spec) as process:
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    assert kinds(spec)[-1] == "drill"
    assert not (spec.directory / "exit.json").exists()


def test_a_hung_worker_is_deaf_to_sigterm_and_still_shows_its_stacks(make_spec):
    spec = make_spec(drills=(Drill.parse("hang@2"),))
    log = spec.directory / "worker.log"
    with worker(spec) as process:
        wait_until(lambda: "drill" in kinds(spec))
        wait_until(lambda: "drill: hang@2" in log.read_text())
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "in _hang" in log.read_text())
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
