"""Weeks of training: what a fact, a look and a daemon cost after 10,000 epochs and 10 million journal lines.

Measured in a process of its own, and as ratios to a run of 100 epochs on the same machine at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ..conftest import REPOSITORY
from .matrix import fault

pytestmark = pytest.mark.alone

SHORT, LONG, LINES = 100, 10_000, 10_000_000
EMPTY_DAEMON_MB = 75.0
"""What the real one holds with nothing to remember: the soak measures it."""
LIMIT_MB = 120.0


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
    provoked="the facts and files of such a run, then the real supervisor on it",
)
def test_after_10000_epochs_a_look_a_fact_and_the_memory_are_as_promised(short, long, provoked):
    provoked()
    for what in ("idle_tick_ms", "rules_ms", "epoch_ms", "glance_ms"):
        assert long[what] <= 3 * max(short[what], 0.1), f"{what}: {short[what]:.3f} -> {long[what]:.3f}"
    assert EMPTY_DAEMON_MB + long["rss_mb"] - short["rss_mb"] < LIMIT_MB


@fault(
    "scale-10m-journal-lines",
    area="Beyond single faults",
    fault="10 million lines in one journal",
    promise="P7",
    provoked="a sparse journal of that length, one more line at its end",
)
def test_a_line_behind_10_million_others_costs_what_any_line_costs(short, long, provoked):
    provoked()
    for what in ("line_ms", "tail_ms"):
        assert long[what] <= 3 * max(short[what], 0.1), f"{what}: {short[what]:.3f} -> {long[what]:.3f}"


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
