"""Whole processes: recovery, the daemon's memory and share of a core, its commands, and the worker's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
from segwatch.data.scenes import write_scenes

from .restart import RUN_TOML, SEGWATCH, _daemon, _journal, _newest_attempt, _progress, _until, measure_restarts
from .table import Row, below, growth, seconds

WATCHED_SECONDS = 20.0
SHAPE = (192, 192)
IMAGES = 24


def recovery(place: Path, rounds: int = 5) -> Iterator[Row]:
    """From kill -9 to the first new step, on a real UNet; see `tests.bench.restart`."""
    place.mkdir(exist_ok=True)
    medians = measure_restarts(place, rounds).medians()
    bare = medians["bare loop"]
    for way in ("standby", "spawned"):
        goal = "under 1 s" if way == "standby" else ""
        met = medians[way] < 1 if goal else None
        yield Row(
            "recovery", f"killed to first new step, {way}", "UNet-8", f"{medians[way]:.2f} s", f"{bare:.2f} s",
            "bash loop", medians[way] / bare, goal, met,
        )  # fmt: skip


def commands(place: Path, rounds: int = 5) -> Iterator[Row]:
    """What a person waits for at a prompt; the floor is Python itself."""
    run_dir = _trained(place)
    python = median(seconds(lambda: _run([sys.executable, "-c", "pass"])) for _ in range(rounds))
    for words, limit in ((["--help"], 0.3), (["status", str(run_dir)], 0.5)):
        taken = median(seconds(lambda words=words: _run([str(SEGWATCH), *words])) for _ in range(rounds))
        note = f"Python alone takes {python:.2f} s; {_imports([str(SEGWATCH), *words])}"
        yield below("daemon", f"segwatch {words[0]}", f"{rounds} starts", taken, limit, "s", note=note)


def _imports(command: list[str]) -> str:
    """What importing costs, by package, the most expensive first; by Python's own account."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True)
    spent: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").partition("|")
        if own.strip().isdecimal():
            spent[name.split("|")[1].strip().partition(".")[0]] += int(own)
    most = ", ".join(f"{package} {taken / 1e3:.0f}" for package, taken in spent.most_common(5))
    return f"profile: imports take {spent.total() / 1e3:.0f} ms, of them {most}"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _trained(place: Path) -> Path:
    """A run that a daemon watched until it was stopped, in `place`/daemon."""
    here = place / "daemon"
    if not here.exists():
        here.mkdir()
        root = write_scenes(place / "scenes-daemon", counts={"train": 32, "val": 2, "test": 2}, size=SHAPE, seed=1)
        (here / "run.toml").write_text(RUN_TOML.format(root=root, standby="false"))
        with _daemon(here):
            _until(lambda: len(list((here / "runs/run/checkpoints").glob("checkpoint_epoch*.json"))) > 0)
    return here / "runs" / "run"


def daemon(place: Path) -> Iterator[Row]:
    """A daemon that watches a real worker; and what it costs after 10,000 epochs."""
    run_dir = _trained(place)
    attempt = _newest_attempt(run_dir)
    with _daemon(run_dir.parent.parent) as process:
        _until(lambda: _newest_attempt(run_dir) > attempt and _progress(_journal(run_dir)) > 2)
        watched = psutil.Process(process.pid)
        before, began = sum(watched.cpu_times()[:2]), time.monotonic()
        threading.Event().wait(WATCHED_SECONDS)
        share = 100 * (sum(watched.cpu_times()[:2]) - before) / (time.monotonic() - began)
        memory = watched.memory_info().rss / 1e6
    size = f"over {WATCHED_SECONDS:.0f} s, some epochs a second scored and drawn"
    yield below("daemon", "memory", "resident", memory, 120, "MB")
    yield below("daemon", "share of a core", size, share, 1, "%", note="epochs of two seconds; real ones take minutes")
    yield from _long(place)


def _long(place: Path) -> Iterator[Row]:
    small, large = 10, 10_000
    few, many = (_measured(place / f"long-{epochs}", epochs) for epochs in (small, large))
    for what, words in (("idle_tick_ms", "a look"), ("rules_ms", "alert rules"), ("epoch_ms", "an epoch's facts")):
        ratio = many[what] / max(few[what], 0.1)
        yield Row(
            "daemon", f"{words} at epoch {large}", "median of 15", f"{many[what]:.3g} ms", f"{few[what]:.3g} ms",
            f"at epoch {small}", ratio, "at most 3 x, of 0.1 ms or more", ratio <= 3,
        )  # fmt: skip
    more = many["rss_mb"] - few["rss_mb"]
    yield below("daemon", "memory of 10,000 epochs", "on top of ten", more, 45, "MB")


def _measured(place: Path, epochs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.faults.long_run", str(place), "--epochs", str(epochs)]
    place.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def memory(place: Path, rounds: int = 3) -> Iterator[Row]:
    """Peak resident memory of a worker and of a bare loop around the same step that saves by torch.save."""
    peaks = []
    for base in (16, 32):
        worker, bare = (
            median(_peak(place, way, base, number) for number in range(rounds)) for way in ("worker", "bare")
        )
        peaks.append(worker)
        ratio = worker / bare
        note = "the copy of a checkpoint that is being written: three times the weights, with AdamW"
        yield Row(
            "memory", "peak of the worker", f"UNet-{base}, 4x3x192x192", f"{worker:.0f} MB", f"{bare:.0f} MB",
            "bare loop", ratio, "at most 1.1 x", ratio <= 1.1, note,
        )  # fmt: skip
    yield growth("memory", "peak of the worker", [16**2, 32**2], [peak / 1000 for peak in peaks])


def _peak(place: Path, way: str, base: int, number: int) -> float:
    command = [sys.executable, "-m", "tests.bench.process_parts", way, str(place), str(base), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Of this program. Not ru_maxrss, which goes on from that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1e3


def train_and_tell(way: str, place: Path, base: int, number: str) -> None:
    """Two epochs as the worker trains them or barely, and the peak in MB. In a process of its own."""
    import torch
    from segwatch.trainer.__main__ import run

    from .scenes import make_data, make_spec
    from .training_parts import ours

    shape = (base, 4, *SHAPE)
    if way == "worker":
        data = make_data(place / "scenes-memory", size=SHAPE, train=IMAGES)
        spec = make_spec(place / f"memory-{base}-{number}", data, model={"base_channels": base}, epochs=2)
        run(spec.directory / "spec.json", lambda: False)
    else:
        mine = ours(place, shape)
        for _ in range(2):
            for _ in range(IMAGES // 4):
                mine.step().tolist()
            state = {"weights": mine.model.state_dict(), "optimizer": mine.optimizer.state_dict()}
            torch.save(state, place / "bare-memory.pth")
    print(peak_mb())


if __name__ == "__main__":
    train_and_tell(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
