"""Faults of the disk: full, read-only, failing, or gone under the feet of daemon and worker."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from segwatch.daemon.events import DaemonStarted, DiskSeen, RunFinished
from segwatch.daemon.store import Store, read_events
from segwatch.errors import SegwatchError

from ..daemon.conftest import Daemon
from .broken import until
from .matrix import fault

TMPFS_KIB = 6000


@pytest.fixture
def small_disk(daemon: Daemon) -> Iterator[Path]:
    """`runs` is a file system of its own of a few megabytes."""
    runs = daemon.place / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_KIB}k", "none", str(runs)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system can only be mounted by root, where mounting is allowed")
    yield runs
    daemon.clean()
    subprocess.run(["umount", "-l", str(runs)], check=True)


@pytest.fixture
def kept_disk(small_disk: Path, daemon: Daemon) -> Iterator[Path]:
    """`small_disk` under a second name, by which it can be looked at and brought back while it is unmounted."""
    kept = daemon.place / "kept"
    kept.mkdir()
    subprocess.run(["mount", "--bind", str(small_disk), str(kept)], check=True)
    yield kept
    subprocess.run(["umount", "-l", str(kept)], check=True)


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Write until nothing more fits, then give `leave` bytes back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


def said(daemon: Daemon, words: str) -> bool:
    log = daemon.run_dir / "daemon.log"
    return log.exists() and words in log.read_text()


def seen(daemon: Daemon) -> list[str]:
    return [event.state for _, event in read_events(daemon.run_dir) if isinstance(event, DiskSeen)]


def writes_facts(pid: int) -> bool:
    """Whether this daemon still has the files open that it lost."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if path.readlink().name == "events.jsonl":
                return True
    return False


def lives(daemon: Daemon) -> int:
    """How often a daemon began, and began again from the disk."""
    return sum(isinstance(event, DaemonStarted) for _, event in read_events(daemon.run_dir))


def limited(daemon: Daemon, *, epochs: int, limit: float) -> None:
    daemon.configure(epochs=epochs)
    text = (daemon.place / "run.toml").read_text()
    (daemon.place / "run.toml").write_text(text.replace("[watch]", f"[watch]\ndisk_free_gb = {limit}"))


@fault(
    "disk-full",
    area="Storage",
    fault="no space left while facts, checkpoints, results and curves are written; later there is room again",
    promise="P1 P6 P7",
    provoked="a tmpfs of 6 MB is filled to the last byte under a running daemon and worker, then freed",
)
def test_a_full_disk_pauses_the_run_and_it_goes_on_when_there_is_room(daemon, small_disk, provoked, nothing_else_broke):
    limited(daemon, epochs=6, limit=0.001)
    daemon.scenario(step_seconds=0.05)
    running = daemon.start()
    before = daemon.until(lambda history: len(history.epochs) == 2 and not history.unscored)
    ballast = fill(small_disk)
    provoked()
    until(lambda: not before.attempts[-1].spawned or not daemon.worker_identity().alive(), daemon)
    assert running.poll() is None, "the daemon left"
    assert [e for _, e in daemon.scored_epochs()][:2] == [1, 2], "what stood in results.csv before is not whole"
    ballast.unlink()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3, 4, 5, 6]
    assert seen(daemon)[-1] == "fine"
    assert "disk-" in daemon.alerts_log()
    nothing_else_broke(daemon)


@fault(
    "disk-low",
    area="Storage",
    fault="less room than `watch.disk_free_gb`",
    promise="P3 P7",
    provoked="a tmpfs is filled up to 800 kB: one alert, no new attempt, one word when it is over",
)
def test_low_room_is_told_once_before_it_is_full_and_holds_back_new_attempts(
    daemon, small_disk, provoked, nothing_else_broke
):
    limited(daemon, epochs=3, limit=0.001)
    daemon.scenario(step_seconds=0.05, faults={"1:6": "kill"})
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    ballast = fill(small_disk, leave=800_000)
    provoked()
    daemon.until(lambda history: len(history.attempts) == 2)
    assert daemon.history.attempts[-1].spawned is None, "an attempt began without room for its checkpoints"
    ballast.unlink()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert seen(daemon) == ["low", "fine"]
    assert daemon.alerts_log().count("disk-low") == 2
    nothing_else_broke(daemon)


@fault(
    "disk-fsync-error",
    area="Storage",
    fault="fsync of events.jsonl, which every fact passes first, fails with EIO",
    promise="P6",
    provoked="os.fsync raises EIO once, three times in one run",
)
def test_after_an_fsync_that_failed_the_daemon_starts_again_from_the_disk(broken, provoked, nothing_else_broke):
    broken.faults = "fsync-fails"
    broken.configure(epochs=8)
    broken.scenario(step_seconds=0.03)
    running = broken.start()
    for epochs in (1, 3, 5):
        broken.until(lambda history, epochs=epochs: len(history.epochs) >= epochs)
        before = lives(broken)
        broken.break_it()
        until(lambda before=before: lives(broken) > before, broken)
    code, output = broken.finish(running)
    assert code == 0, output
    provoked(broken.times())
    assert broken.times() == 3
    assert len(broken.history.attempts) == 1, "the worker was not to blame"
    assert [epoch for _, epoch in broken.scored_epochs()] == list(range(1, 9))
    assert seen(broken).count("refused") == 3
    assert "FIRING   CRITICAL disk-refused" in broken.alerts_log()
    nothing_else_broke(broken)


@fault(
    "disk-read-only",
    area="Storage",
    fault="the file system becomes read-only and is mounted writable again",
    promise="P6 P7",
    provoked="EROFS from open, write, rename, link, unlink and mkdir of the daemon's own code, SQLite's apart",
)
def test_a_read_only_disk_is_waited_for_and_training_goes_on_meanwhile(broken, provoked, nothing_else_broke):
    broken.faults = "read-only"
    broken.configure(epochs=5)
    broken.scenario(step_seconds=0.05)
    running = broken.start()
    broken.until(lambda history: len(history.epochs) == 1)
    broken.break_it()
    manifest = broken.run_dir / "checkpoints" / "checkpoint_epoch4.json"
    until(manifest.exists, broken)
    assert len(broken.history.epochs) < 4
    broken.mend_it()
    code, output = broken.finish(running)
    assert code == 0, output
    assert broken.times() > 0
    provoked()
    assert len(broken.history.attempts) == 1
    assert [epoch for _, epoch in broken.scored_epochs()] == [1, 2, 3, 4, 5]
    assert "Read-only file system" in broken.alerts_log()
    nothing_else_broke(broken)


@fault(
    "disk-refuses-stop",
    area="Storage",
    fault="stopped while the disk refuses",
    promise="P4",
    provoked="SIGTERM to a daemon that waits for a disk without room",
)
def test_stopped_while_it_waits_for_the_disk_nothing_is_left(broken, provoked, nothing_else_broke):
    broken.faults = "no-room"
    broken.configure(epochs=50)
    broken.scenario(step_seconds=0.05)
    running = broken.start()
    broken.until(lambda history: len(history.epochs) == 1)
    broken.break_it()
    until(lambda: said(broken, "the disk refused"), broken)
    worker = broken.worker_identity()
    running.terminate()
    provoked()
    code, _ = broken.finish(running)
    assert code == 143
    assert not worker.alive()
    broken.mend_it()
    nothing_else_broke(broken, ended=False)
    broken.configure(epochs=len(broken.history.epochs) + 3)
    broken.scenario()
    code, output = broken.run()
    assert code == 0, output
    assert broken.history.incidents == [], "that it was asked to leave was known, whatever the disk refused"
    nothing_else_broke(broken)


@fault(
    "files-deleted-in-run",
    area="Storage",
    fault="TensorBoard directory, logs, results.csv, events.jsonl and state.db deleted or replaced while running",
    promise="P1 P7",
    provoked="each deleted once under one running daemon, TensorBoard replaced by an empty directory",
)
def test_what_is_deleted_under_a_running_daemon_is_written_again(daemon, provoked, nothing_else_broke):
    names = ["tensorboard/eval", "daemon.log", "results.csv", "events.jsonl", "state.db"]
    daemon.configure(epochs=2 * len(names) + 2)
    daemon.scenario(step_seconds=0.03)
    running = daemon.start()
    for number, name in enumerate(names, 1):
        daemon.until(lambda history, number=number: len(history.epochs) >= 2 * number)
        path = daemon.run_dir / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.unlink()
        provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert len(daemon.history.attempts) == 1
    assert [epoch for _, epoch in daemon.scored_epochs()] == list(range(1, 2 * len(names) + 3))
    assert list((daemon.run_dir / "tensorboard" / "eval").glob("events.out.*"))
    nothing_else_broke(daemon)


@fault(
    "checkpoints-deleted-in-run",
    area="Storage",
    fault="the checkpoint directory is deleted, then replaced by an empty one, while running",
    promise="P1 P7",
    provoked="`rm -r checkpoints` in mid-epoch, the evaluator behind; then another directory in its place",
)
def test_a_checkpoint_directory_that_is_deleted_costs_its_epochs_and_no_more(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=8)
    daemon.scenario(step_seconds=0.1, score_seconds=0.5)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 3)
    checkpoints = daemon.run_dir / "checkpoints"
    shutil.rmtree(checkpoints)
    provoked()
    until(lambda: "FIRING   CRITICAL checkpoints-gone" in daemon.alerts_log(), daemon)
    daemon.until(lambda history: len(history.epochs) >= 5)
    checkpoints.rename(daemon.place / "away")
    checkpoints.mkdir(exist_ok=True)
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    rows = {int(row["epoch"]): row["verdict"] for row in daemon.rows() if row["split"] == "test"}
    assert set(rows) == set(range(1, 9))
    assert "failed" in rows.values(), "an epoch whose file was deleted unscored cannot have a score"
    assert rows[8] == "ok"
    assert lives(daemon) == 1, "the daemon started again until somebody else made the directory"
    assert daemon.alerts_log().count("RESOLVED CRITICAL checkpoints-gone") == 1
    nothing_else_broke(daemon)


@fault(
    "disk-unmounted",
    area="Storage",
    fault="the file system of the run is unmounted while running, and mounted again",
    promise="P1 P4 P6 P7",
    provoked="`umount -l` of a tmpfs under daemon and worker; it comes back once both have met it",
)
def test_a_disk_that_is_unmounted_is_waited_for_and_the_run_goes_on(
    daemon, small_disk, kept_disk, provoked, nothing_else_broke
):
    limited(daemon, epochs=8, limit=0.001)
    daemon.scenario(step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) >= 2)
    daemon.scenario()
    worker = daemon.worker_identity()
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    provoked()
    until(lambda: not writes_facts(running.pid), daemon)
    until(lambda: not worker.alive(), daemon)
    assert list(small_disk.iterdir()) == [], "something was begun where the run is not"
    assert running.poll() is None, "the daemon left"
    subprocess.run(["mount", "--bind", str(kept_disk), str(small_disk)], check=True)
    code, output = daemon.finish(running)
    assert code == 0, output
    assert lives(daemon) == 2
    assert len(daemon.history.attempts) == 2
    assert {epoch for _, epoch in daemon.scored_epochs()} == set(range(1, 9))
    nothing_else_broke(daemon)


def sound(path: Path) -> bool:
    database = sqlite3.connect(path)
    try:
        return database.execute("pragma quick_check").fetchone()[0] == "ok"
    except sqlite3.DatabaseError:
        return False
    finally:
        database.close()


def header(content: bytearray) -> bytearray:
    return bytearray(b"\xff" * 1000) + content[1000:]


def page_of_facts(content: bytearray) -> bytearray:
    return content[:4096] + bytearray(b"\xff" * 1000) + content[5096:]


def bit_of_a_fact(content: bytearray) -> bytearray:
    content[content.index(b'"because"')] ^= 1
    return content


@fault(
    "state-db-corrupt",
    area="Storage",
    fault="state.db damaged between two calls",
    promise="P3 P6",
    provoked="its header, the page of the facts, one bit within a fact that SQLite calls sound; the run goes on",
)
def test_a_damaged_state_db_is_moved_aside_and_rebuilt(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=1)
    assert daemon.run()[0] == 0
    for epochs, damage in enumerate((header, page_of_facts, bit_of_a_fact), start=2):
        path = daemon.run_dir / "state.db"
        path.write_bytes(damage(bytearray(path.read_bytes())))
        assert sound(path) == (damage is bit_of_a_fact)
        provoked()
        daemon.configure(epochs=epochs)
        code, output = daemon.run()
        assert code == 0, output
    assert len(list(daemon.run_dir.glob("state.db.corrupt-*"))) == 3
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3, 4]
    nothing_else_broke(daemon)


@fault(
    "state-db-newer",
    area="Storage",
    fault="state.db of a newer release; state.db locked by another program",
    promise="P3",
    provoked="`pragma user_version = 99`; an exclusive lock of another connection",
)
def test_a_state_db_that_is_not_damaged_is_never_moved_aside(tmp_path, provoked, monkeypatch):
    store = Store(tmp_path)
    store.append(RunFinished())
    store.close()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("begin exclusive")
    provoked()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: connect(path, timeout=0.1))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Store(tmp_path)
    other.execute("rollback")
    other.execute("pragma user_version = 99")
    other.close()
    provoked()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(SegwatchError, match="state version 99"):
        Store(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before
    assert list(tmp_path.glob("*.corrupt-*")) == []
