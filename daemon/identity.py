"""Who a process is: its pid *and* its create time, counted from a boot, since pids are reused.

Knows nothing about training or run directories, and is quick to import: `status` asks it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil


@cache
def boot_id() -> str:
    """Another one after each boot; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Identity:
    pid: int
    create_time: float
    """Seconds from the boot: the wall clock may jump, and the boot's own time on it with it."""
    boot: str = field(default_factory=boot_id)

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """`None` when there is no such process."""
        born = _born(pid)
        return None if born is None else cls(pid, born)

    def alive(self) -> bool:
        """Whether this very process still runs; one that only waits to be reaped does not."""
        try:
            return self == Identity.of(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def send(self, number: signal.Signals, *, group: bool = True) -> bool:
        """Signal the process group that it leads, or it alone; False when it is gone."""
        if not self.alive():
            return False
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def reused(self) -> bool:
        """Whether its pid is another process's by now, or of another boot: then nothing can be told from it."""
        return self.boot != boot_id() or Identity.of(self.pid) not in (None, self)


def _born(pid: int) -> float | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # no such process, or no /proc on this system
        try:
            return psutil.Process(pid).create_time() if not Path("/proc/self/stat").exists() else None
        except psutil.NoSuchProcess:
            return None
    ticks = int(stat.rpartition(")")[2].split()[19])  # proc(5), field 22; a name may hold spaces and brackets
    return ticks / os.sysconf("SC_CLK_TCK")


NOBODY = Identity(0, 0.0)
"""Stands for a process whose pid nobody noted: never alive, never signalled."""


def myself() -> Identity:
    found = Identity.of(os.getpid())
    assert found is not None
    return found
