"""Weeks of training: what a fact, a look and a daemon cost after 10,000 epochs and 10 million journal lines.

Measured in a process of its own, and as ratios to a run of 100 epochs on the same machine at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.daemon.observing import NOTED_EACH_BYTES

from ..conftest import REPOSITORY
from .broken import until
from .long_run import grow
from .matrix import fault

pytestmark = pytest.mark.alone

SHORT, LONG, LINES = 100, 10_000, 10_000_000
LIMIT_MIB = 120
LISTING_MS, RETENTION_MS = 250.0, 750.0
"""CPU time that may be spent on all 10,000 epochs' files: once for each commit, and at most once a minute."""


def measured(place, *arguments: object) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.faults.long_run", str(place), *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"run": place / "x" / "runs" / "run"}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("short"), "--epochs", SHORT, "--lines", 100_000)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("long"), "--epochs", LONG, "--lines", LINES)


@fault(
    "scale-10k-epochs",
    area="Beyond single faults",
    fault="10,000 epochs and 500 incidents in one run",
    promise="P7",
    provoked="the facts and files of such a run, then the real supervisor on it, and a `segwatch run` that takes it up",
)
def test_after_10000_epochs_a_look_and_a_fact_cost_what_they_cost_at_first(short, long, provoked):
    provoked()
    for what in ("idle_tick_ms", "rules_ms", "epoch_ms", "glance_ms"):
        assert long[what] <= 3 * max(short[what], 0.1), f"{what}: {short[what]:.3f} -> {long[what]:.3f}"
    assert long["listing_ms"] < LISTING_MS, "a commit lists the names of the directory, and reads no old file"
    assert long["retention_ms"] < RETENTION_MS


@fault(
    "scale-10k-epochs",
    area="Beyond single faults",
    fault="10,000 epochs and 500 incidents in one run",
    promise="P7",
    provoked="the facts and files of such a run, then the real supervisor on it, and a `segwatch run` that takes it up",
)
def test_a_daemon_that_takes_up_a_run_of_10000_epochs_stays_small(daemon, provoked):
    daemon.configure(epochs=LONG + 100)
    daemon.scenario(step_seconds=0.3, steps_per_epoch=10_000, faults={"1:12": "inf-gradients"})
    first = daemon.start()
    daemon.until(lambda history: bool(history.attempts) and history.attempts[0].started is not None)
    first.kill()
    first.wait()
    grow(daemon.run_dir, LONG)
    provoked()
    second = daemon.start()
    until((daemon.run_dir / "incidents" / "001" / "incident.json").exists, daemon)
    with Path(f"/proc/{second.pid}/status").open() as status:
        held = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert second.poll() is None, daemon.finish(second)[1]
    assert len(daemon.history.epochs) == LONG
    assert held < LIMIT_MIB << 10, f"{held >> 10} MiB"


@fault(
    "scale-10m-journal-lines",
    area="Beyond single faults",
    fault="10 million lines in one journal",
    promise="P7",
    provoked="a sparse journal of that length, read once; then the next daemon takes it up, and one more line comes",
)
def test_a_line_behind_10_million_others_costs_what_any_line_costs(short, long, provoked):
    provoked()
    for what in ("line_ms", "tail_ms"):
        assert long[what] <= 3 * max(short[what], 0.1), f"{what}: {short[what]:.3f} -> {long[what]:.3f}"
    assert long["read_again_mb"] <= NOTED_EACH_BYTES / 1e6


@fault(
    "scale-status",
    area="Beyond single faults",
    fault="`segwatch status` of a run of 10,000 epochs whose daemon is dead",
    promise="P7",
    provoked="the command in a process of its own, measured in CPU seconds against a run of 100 epochs",
)
def test_status_takes_under_half_a_second_however_long_the_run(short, long, provoked):
    provoked()
    seconds = {name: cpu_seconds("status", str(of["run"])) for name, of in (("short", short), ("long", long))}
    assert seconds["long"] <= 0.5
    assert seconds["long"] <= 1.3 * seconds["short"]


def cpu_seconds(*arguments: str, times: int = 5) -> float:
    """The least of some: wall time, and a process that shares its core, measure the other tests as well."""
    taken = []
    for _ in range(times):
        command = [sys.executable, "-c", "from segwatch.daemon.cli import main; main()", *arguments]
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        taken.append(usage.ru_utime + usage.ru_stime)
    return min(taken)
