"""`run_with_fakes.py` in a daemon that something is wrong with; SEGWATCH_BREAK says what, comma-separated.

For what no test can do to another process from outside: the system-wide inotify limits, the clock, a thread that dies.
A fault that lasts for a while is there as long as the file `broken` lies beside run.toml.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import sqlite3
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "daemon"))
BROKEN = Path("broken").resolve()
MARK = Path("provoked.txt").resolve()


def provoked() -> None:
    """A line for each time that the fault really happened."""
    with MARK.open("a") as mark:
        mark.write("x\n")


def fsync_fails() -> None:
    """EIO, as from a disk that lost pages: once for each file `broken`, which it removes."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if BROKEN.exists() and name.endswith("events.jsonl"):
            BROKEN.unlink()
            provoked()
            raise OSError(errno.EIO, "Input/output error", name)
        real(descriptor)

    os.fsync = fsync


def read_only() -> None:
    """EROFS for whatever the daemon changes below runs/: a remount with files open for writing is refused by Linux.

    Not for what SQLite does by itself: the daemon always writes a line of events.jsonl before it.
    """
    refuse = refuse_writes(errno.EROFS, "Read-only file system")

    def refused(call):
        def instead(path, *rest, **named):
            refuse(str(Path.cwd() / path))
            return call(path, *rest, **named)

        return instead

    for name in ("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir"):
        setattr(os, name, refused(getattr(os, name)))


def no_room() -> None:
    """ENOSPC for whatever the daemon writes below runs/; names find room, as in the directories of a full disk."""
    refuse_writes(errno.ENOSPC, "No space left on device")


def refuse_writes(number: int, words: str):
    """Returns what refuses a name below runs/ while the fault lasts."""
    write, fopen = os.write, os.open

    def refuse(name: str) -> None:
        if BROKEN.exists() and "/runs/" in name:
            provoked()
            raise OSError(number, words, name)

    def refuse_write(descriptor: int, payload: bytes) -> int:
        refuse(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return write(descriptor, payload)

    def refuse_open(path, flags, *rest, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(str(path))
        return fopen(path, flags, *rest, **named)

    os.write, os.open = refuse_write, refuse_open
    return refuse


def no_watches() -> None:
    """ENOSPC from inotify_add_watch: fs.inotify.max_user_watches is reached."""
    from segwatch.daemon import watcher

    def start(self) -> None:
        provoked()
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    watcher.Observer.start = start


def polling_only() -> None:
    """No event ever comes, as on NFS."""
    from segwatch.daemon import watcher

    def silent(self, event) -> None:
        provoked()

    watcher._Handler.on_any_event = silent


def handler_raises() -> None:
    """The first event kills watchdog's thread."""
    from segwatch.daemon import watcher

    def broken(self, event) -> None:
        provoked()
        raise RuntimeError("an exception in a handler")

    watcher._Handler.on_any_event = broken


def scheduler_dies() -> None:
    """APScheduler's thread ends right after it began; nothing else tells of housekeeping."""
    from apscheduler.schedulers.blocking import BlockingScheduler
    from segwatch.daemon import supervisor, watcher

    def main_loop(self) -> None:
        provoked()
        raise RuntimeError("the scheduler's thread is dead")

    BlockingScheduler._main_loop = main_loop
    watcher.BackgroundScheduler._main_loop = main_loop
    supervisor.HOUSEKEEP_SECONDS = 0.2


def clock_jumps() -> None:
    """The wall clock is an hour ahead, an hour behind, and right again, every half second. Monotonic time is not."""
    from apscheduler.schedulers import base, blocking

    real, began = time.time, time.monotonic()

    def shift() -> float:
        return (0.0, 3600.0, -3600.0)[int((time.monotonic() - began) / 0.5) % 3]

    def jumping() -> float:
        provoked()
        return real() + shift()

    class Jumping(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.now(tz) + dt.timedelta(seconds=shift())

    time.time = jumping
    base.datetime = Jumping
    for module in (base, blocking):
        if hasattr(module, "datetime"):
            module.datetime = Jumping


def locked() -> None:
    """SQLite says that it is locked while `broken` lies there: no damage, and no reason to move state.db aside."""
    connect = sqlite3.connect

    def refuse(*arguments, **named):
        if BROKEN.exists():
            provoked()
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return connect(*arguments, **named)

    sqlite3.connect = refuse


for name in filter(None, os.environ.get("SEGWATCH_BREAK", "").split(",")):
    globals()[name.replace("-", "_")]()

if __name__ == "__main__":
    import run_with_fakes

    sys.exit(run_with_fakes.main())
