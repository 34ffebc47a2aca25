"""Whole processes: recovery, the daemon's memory and share of a core, its commands, and the worker's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
from segwatch.daemon.events import ScoreRecorded
from segwatch.daemon.store import read_events
from segwatch.data.scenes import write_scenes
from segwatch.trainer.standby import WAITS

from .plain_restart import WAYS, killed_to_step
from .restart import RUN_TOML, SEGWATCH, _daemon, _standby_waits, _until, measure_restarts
from .table import Row, below, by_turns, growth

WATCHED_SECONDS = 15.0
"""Less than an epoch takes."""
SETTLED_SECONDS = 5.0
"""After a score, until its picture and its page are written."""
USUAL_EPOCH_SECONDS = 720.0
RESTARTED = (8, 16)
"""Base channels of the networks whose worker is killed."""
LINES = (100_000, 10_000_000)
"""Of a journal; most of the long one is a hole, for nobody reads it twice."""
FEWER = 3
"""Rounds of what takes half a minute each."""
SHAPE = (192, 192)
IMAGES = 12


def recovery(place: Path, rounds: int = 5) -> Iterator[Row]:
    """From kill -9 to the first new step, on a real UNet; see `tests.bench.restart`."""
    taken: dict[str, list[float]] = {"standby": [], "spawned": []}
    for base in RESTARTED:
        here = place / f"base-{base}"
        here.mkdir(parents=True)
        times = rounds if base == RESTARTED[0] else min(rounds, FEWER)
        medians = measure_restarts(here, times, base_channels=base).medians()
        bare, note = medians["bare loop"], f"median of {times}" + ("" if times == rounds else ": each takes long")
        for way, seconds_each in taken.items():
            seconds_each.append(medians[way])
            goal = "under 1 s" if way == "standby" else ""
            met = medians[way] < 1 if goal else None
            yield Row(
                "recovery", f"killed to first new step, {way}", f"UNet-{base}", f"{medians[way]:.2f} s",
                f"{bare:.2f} s", "bash loop", medians[way] / bare, goal, met, note,
            )  # fmt: skip
        if base == RESTARTED[0]:
            for way in WAYS:  # around a script of their own: they know nothing of segwatch's worker
                plain = median(killed_to_step(here / f"{way}-{n}", way, base, _until) for n in range(FEWER))
                yield Row(
                    "recovery", "killed to first new step, standby", f"UNet-{base}", f"{medians['standby']:.2f} s",
                    f"{plain:.2f} s", way, medians["standby"] / plain, "", None,
                    f"around a small plain script; median of {FEWER}",
                )  # fmt: skip
    for way, seconds_each in taken.items():
        yield growth("recovery", f"killed to first new step, {way}", [base**2 for base in RESTARTED], seconds_each)


def commands(place: Path, rounds: int = 5) -> Iterator[Row]:
    """What a person waits for at a prompt; the floor is Python itself."""
    run_dir = _trained(place)
    for words, limit in ((["--help"], 0.3), (["status", str(run_dir)], 0.5)):
        command = [str(SEGWATCH), *words]
        times = by_turns(lambda command=command: _run(command), lambda: _run([sys.executable, "-c", "pass"]), rounds)
        note = f"Python alone takes {times.theirs:.2f} s; {_imports(command)}"
        yield below("daemon", f"segwatch {words[0]}", f"{len(times.ours)} starts", times.mine, limit, "s", note=note)


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
    """A run that a daemon watched until it was stopped, in `place`/daemon. Its epochs take about half a minute."""
    here = place / "daemon"
    if not here.exists():
        here.mkdir()
        root = write_scenes(place / "scenes-daemon", counts={"train": 160, "val": 2, "test": 2}, size=SHAPE, seed=1)
        text = RUN_TOML.format(root=root, standby="false", base_channels=48)
        assert "batch_size = 4" in text
        (here / "run.toml").write_text(text.replace("batch_size = 4", "batch_size = 1"))
        with _daemon(here):
            _until(lambda: _scored(here / "runs/run") > 0)
    return here / "runs" / "run"


def _scored(run_dir: Path) -> int:
    if not (run_dir / "events.jsonl").exists():
        return 0
    return sum(isinstance(fact, ScoreRecorded) and fact.split == "test" for _, fact in read_events(run_dir))


def daemon(place: Path) -> Iterator[Row]:
    """A daemon that watches a real worker; and what it costs after 10,000 epochs."""
    run_dir = _trained(place)
    known = _scored(run_dir)
    with _daemon(run_dir.parent.parent) as process:
        watched = psutil.Process(process.pid)
        _until(lambda: _scored(run_dir) > known)
        threading.Event().wait(SETTLED_SECONDS)
        between = _cpu_seconds(watched, lambda: threading.Event().wait(WATCHED_SECONDS)) / WATCHED_SECONDS
        assert _scored(run_dir) == known + 1, "an epoch came while the time between two was measured"
        began = time.monotonic()
        spent = _cpu_seconds(watched, lambda: _until(lambda: _scored(run_dir) > known + 1))
        spent += _cpu_seconds(watched, lambda: threading.Event().wait(SETTLED_SECONDS))
        an_epoch = spent - between * (time.monotonic() - began)
        memory = watched.memory_info().rss / 1e6
    yield below("daemon", "memory", "resident", memory, 120, "MB")
    note = f"between two epochs; one takes {an_epoch:.2g} s of CPU until it is scored, drawn and told"
    yield below("daemon", "share of a core", f"over {WATCHED_SECONDS:.0f} s", 100 * between, 1, "%", note)
    share = 100 * (between + an_epoch / USUAL_EPOCH_SECONDS)
    yield below("daemon", "share of a core", "100 epochs in 20 hours", share, 1, "%", "reckoned from the two")
    yield from _long(place)


def _cpu_seconds(process: psutil.Process, meanwhile: Callable[[], object]) -> float:
    before = sum(process.cpu_times()[:2])
    meanwhile()
    return sum(process.cpu_times()[:2]) - before


def _long(place: Path) -> Iterator[Row]:
    small, large = 10, 10_000
    short, long = LINES
    few = _measured(place / f"long-{small}", small, short)
    many = _measured(place / f"long-{large}", large, long)
    for what, words in (("idle_tick_ms", "a look"), ("rules_ms", "alert rules"), ("epoch_ms", "an epoch's facts")):
        ratio = many[what] / max(few[what], 0.1)
        yield Row(
            "daemon", f"{words} at epoch {large}", "median of 15", f"{many[what]:.3g} ms", f"{few[what]:.3g} ms",
            f"at epoch {small}", ratio, "at most 3 x, of 0.1 ms or more", ratio <= 3,
        )  # fmt: skip
    for what, words in (("line_ms", "one more journal line"), ("tail_ms", "the journal's end")):
        ratio = many[what] / max(few[what], 0.1)
        yield Row(
            "daemon", f"{words} behind {long:,} others", "median of 15", f"{many[what]:.3g} ms", f"{few[what]:.3g} ms",
            f"behind {short:,}", ratio, "at most 3 x, of 0.1 ms or more", ratio <= 3,
        )  # fmt: skip
    yield from _remembering(place)


def _remembering(place: Path) -> Iterator[Row]:
    """All that a daemon holds, on runs of two lengths."""
    taken, sizes = [], (1_000, 10_000)
    for epochs in sizes:
        command = [sys.executable, "-m", "tests.bench.remembering", str(place / f"remembered-{epochs}"), str(epochs)]
        for way in ("write", "keep"):
            done = subprocess.run([*command, way], capture_output=True, text=True, check=True)
        taken.append(float(done.stdout.splitlines()[-1]))
        note = "base and growth in one figure: a process with all that a daemon imports and keeps"
        yield below("daemon", "memory", f"after {epochs} epochs", taken[-1], 120, "MB", note)
    yield growth("daemon", "memory", sizes, taken, lambda value: f"{value:.0f} MB")


def _measured(place: Path, epochs: int, lines: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "tests.faults.long_run",
        str(place),
        "--epochs",
        str(epochs),
        "--lines",
        str(lines),
    ]
    place.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def memory(place: Path, rounds: int = 5) -> Iterator[Row]:
    """Peak resident memory of a worker and of a bare loop around the same step that saves by torch.save."""
    from segwatch.evaluator.evaluate import KEPT_BYTES  # with torch, which the other parts do without

    peaks = []
    for base in (16, 32):
        turns = [[_peak(place, way, base, number) for way in ("worker", "bare")] for number in range(rounds)]
        worker, bare = (median(column) for column in zip(*turns, strict=True))
        peaks.append(worker)
        ratio = median(ours / theirs for ours, theirs in turns)
        note = "the copy for a checkpoint: three times the weights, with AdamW"
        yield Row(
            "memory", "peak of the worker", f"UNet-{base}, 4x3x192x192", f"{worker:.0f} MB", f"{bare:.0f} MB",
            "bare loop", ratio, "at most 1.1 x", ratio <= 1.1, note,
        )  # fmt: skip
    yield growth("memory", "peak of the worker", [16**2, 32**2], peaks, lambda peak: f"{peak:.0f} MB")
    yield standby_memory(place)
    kept = f"{KEPT_BYTES >> 20} MB of predictions"
    note = "a byte a pixel of the test images, until they are drawn; where they are more, those of the last worst alone"
    yield Row("memory", "evaluator's predictions", "at most", kept, "-", "by design", None, "", None, note)


def standby_memory(place: Path) -> Row:
    """Resident, of a standby that waits with torch and its first optimizer loaded; and that it holds no GPU."""
    root = write_scenes(place / "scenes-standby", counts={"train": 8, "val": 2, "test": 2}, size=SHAPE, seed=1)
    here = place / "standby"
    here.mkdir()
    (here / "run.toml").write_text(RUN_TOML.format(root=root, standby="true", base_channels=8))
    with _daemon(here) as process:
        _until(lambda: _standby_waits(process))
        standby = next(child for child in psutil.Process(process.pid).children() if child.name() == WAITS)
        resident = standby.memory_info().rss / 1e6
        opened = {mapped.path for mapped in standby.memory_maps() if mapped.path.startswith("/dev/nvidia")}
    note = f"it has mapped {len(opened)} files of a GPU: {'a CUDA context' if opened else 'no CUDA context'}"
    row = below("memory", "standby", "resident, waiting", resident, 400, "MB", note)
    return replace(row, met=row.met and not opened)


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
