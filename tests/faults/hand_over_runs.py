"""Kills the supervisor at every system call of a hand-over to the standby, as crash_runs.py does over a whole run.

`python hand_over_runs.py PLACE STRIDE` prints one JSON line for each. The standby is forked, with nothing to load; what
is spoken with it, and what it does when the line ends, are the real thing. Strace begins where the hand-over does; a
system call's name is done with once the daemon died with the new worker recorded.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import crash_runs  # noqa: E402
from segwatch.daemon.events import AttemptSpawned  # noqa: E402
from segwatch.daemon.rundir import RunDir  # noqa: E402
from segwatch.daemon.standby import Standby  # noqa: E402
from segwatch.daemon.store import read_events  # noqa: E402
from segwatch.trainer.standby import await_order, end_with_daemon  # noqa: E402

CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,close,sendto,sendmsg,recvfrom,poll,ftruncate,unlink"
LEFT_SECONDS = 30
"""After a run whose epochs are all trained, nobody may be left for so long."""


def start_standby(_command: object, line: socket.socket, _output: Path) -> crash_runs.Forked:
    def wait_and_train() -> int:
        os.setsid()
        close_other_lines(line.fileno())
        end_with_daemon(wanted=True)
        return crash_runs.train(await_order(line).spec)

    return crash_runs.Forked(crash_runs.fork(wait_and_train))


def close_other_lines(kept: int = -1) -> None:
    """As exec does: a fork that kept the daemon's end would hide its death from the standby."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        try:
            if number != kept and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)
        except OSError:  # the descriptor of the listing itself
            continue


class Stopping(Standby):
    """Waits for the standby, and then for the tracer, before it hands over."""

    def hand_over(self, *order):
        if self._child is None:  # the first worker is started as ever
            return None
        while not self.ready:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGSTOP)
        Stopping.hand_over = Standby.hand_over
        return self.hand_over(*order)


def killed_at(place: Path, inject: str) -> int:
    def watch() -> int:
        crash_runs.standby_for = lambda run: Stopping(run.path / "standby.log", start=start_standby)
        return crash_runs.watch(place)

    return crash_runs.ended(crash_runs.fork(watch), inject, CALLS)


def is_recorded(place: Path) -> bool:
    """Whether the daemon came to note the worker of the attempt that was handed over."""
    facts = [fact for _, fact in read_events(RunDir(place / "runs" / "run").path)]
    return any(isinstance(fact, AttemptSpawned) and fact.attempt == 2 for fact in facts)


def crashes(place: Path, stride: int, killed: Callable[[Path, str], int] = killed_at) -> Iterator[dict]:
    for name in CALLS.split(","):
        number, done = 1, False
        while not done:
            here = crash_runs.fresh(place / f"{name}-{number}")
            code = killed(here, f"{name}:signal=KILL:when={number}")
            done = code != -signal.SIGKILL or is_recorded(here)
            codes = [code] if code != -signal.SIGKILL else [code, crash_runs.daemon(here)]
            reap()
            if code == -signal.SIGKILL:
                yield {"name": name, "number": number, "place": str(here), "codes": codes}
            else:
                shutil.rmtree(here)
            number += stride


def reap() -> None:
    signal.alarm(LEFT_SECONDS)  # which ends this program, and so the row
    crash_runs.reap_all()
    signal.alarm(0)


def main() -> int:
    place, stride = Path(sys.argv[1]), int(sys.argv[2])
    crash_runs.prepare()
    crash_runs.SCENARIO = {**crash_runs.SCENARIO, "step_seconds": 0.02}
    crash_runs.before_training = close_other_lines
    crash_runs.standby_for = lambda run: Standby(run.path / "standby.log", start=start_standby)
    undisturbed = crash_runs.fresh(place / "undisturbed")
    print(json.dumps({"place": str(undisturbed), "codes": [crash_runs.daemon(undisturbed)]}), flush=True)
    reap()
    for crash in crashes(place, stride):
        print(json.dumps(crash), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
