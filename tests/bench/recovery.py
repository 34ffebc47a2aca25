"""The corpus of incidents, run and counted: `make bench-recovery`, or `python -m tests.bench.recovery --help`.

Every row is a `segwatch run` of a small real UNet on the CPU in a directory of its own, with its result beside it: what
is interrupted goes on with the rows that are not there yet. The table goes into docs/recovery.md, between its marks.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from segwatch.daemon.events import AttemptSpawned
from segwatch.daemon.process import Identity
from segwatch.daemon.store import read_events
from segwatch.data.scenes import write_scenes
from segwatch.durable import write_text

from .corpus import CALM, IMAGES, KINDS, REFERENCE, SEEDS, SIZE, Calm, Kind
from .health_cost import measure_bundle, measure_health_cost
from .outcome import Result, outcome
from .recovery_table import Figures, table, written_between
from .restart import measure_restarts

SEGWATCH = Path(sys.executable).with_name("segwatch")
PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"
LIMIT_SECONDS = 900.0
POLL_SECONDS = 0.02
RESULT = "result.json"
FIGURES = "figures.json"
STOPPED = frozenset({130, 143, -signal.SIGINT, -signal.SIGTERM})
"""Exit codes of a run that a person ended together with this."""


@dataclass(frozen=True)
class Row:
    kind: Kind | Calm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.seed}"


def rows(names: list[str], seeds: int) -> list[Row]:
    """Seed after seed, so that what is interrupted has something of every kind."""
    kinds = [kind for kind in (*CALM, *KINDS) if not names or kind.name in names]
    return [Row(kind, seed) for seed in range(seeds) for kind in kinds]


def run_row(row: Row, place: Path, root: Path) -> Result:
    """Run it, unless its result lies there. Raises OSError, TimeoutExpired, KeyboardInterrupt."""
    directory = place / row.name
    known = directory / RESULT
    if known.exists():
        return Result.model_validate_json(known.read_bytes())
    shutil.rmtree(directory, ignore_errors=True)  # of one that was interrupted: half a run is no measurement
    directory.mkdir(parents=True)
    write_text(directory / "run.toml", row.kind.settings.toml(root=str(root), seed=row.seed))
    drills = row.kind.drills(row.seed) if isinstance(row.kind, Kind) else ()
    command = [str(SEGWATCH), "run", "run.toml", *(word for drill in drills for word in ("--drill", drill))]
    began = time.monotonic()
    with (directory / "output.txt").open("ab") as output:
        daemon = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        if row.kind.name == "corrupt-checkpoint":
            _spoil_newest(directory / "runs" / "run", daemon, epochs=2 + row.seed % 3)
        code = daemon.wait(LIMIT_SECONDS)
    finally:
        if daemon.poll() is None:
            daemon.terminate()
            daemon.wait(60)
    if code in STOPPED:
        raise KeyboardInterrupt(f"{row.name} was stopped: no measurement")
    result = outcome(directory / "runs" / "run", row.kind, row.seed, exit_code=code, seconds=time.monotonic() - began)
    write_text(known, result.model_dump_json(indent=1) + "\n")
    return result


def _spoil_newest(run_dir: Path, daemon: subprocess.Popen[bytes], *, epochs: int) -> None:
    """Hold the worker, turn a byte of the newest training state, and kill the worker as the system would."""
    pause, deadline = threading.Event(), time.monotonic() + LIMIT_SECONDS
    newest: Path | None = None
    while newest is None and daemon.poll() is None and time.monotonic() < deadline:
        pause.wait(POLL_SECONDS)
        manifest = run_dir / "checkpoints" / f"checkpoint_epoch{epochs}.json"
        newest = manifest if manifest.exists() else None
    if newest is None:
        return
    spawned = [event for _, event in read_events(run_dir) if isinstance(event, AttemptSpawned)][-1]
    worker = Identity(spawned.pid, spawned.create_time, spawned.boot)
    worker.send(signal.SIGSTOP)
    newest = max((run_dir / "checkpoints").glob("checkpoint_epoch*.state.pth"), key=lambda path: path.stat().st_mtime)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    worker.send(signal.SIGKILL)


def main() -> int:
    """0 where every row came out as it has to; 1 else."""
    arguments = _arguments()
    place: Path = arguments.directory.resolve()
    root = place / "scenes"
    if not (root / "classes.toml").exists():
        write_scenes(root, counts=IMAGES, size=SIZE, seed=1)
    wanted = rows(arguments.kinds, arguments.seeds)
    if arguments.known:
        wanted = [row for row in wanted if (place / row.name / RESULT).exists()]
    results = _run_all(wanted, place, root, jobs=arguments.jobs)
    figures = _figures(place, arguments.restarts)
    words = table(results, figures)
    print(words)
    if arguments.write:
        write_text(PAGE, written_between(PAGE.read_text() if PAGE.exists() else "", words))
    return 0 if all(result.right is not False and result.healthy is not False for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=[], metavar="KIND", help="only these; by default all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--directory", type=Path, default=Path("build/recovery"), help="what is there is not run again")
    parser.add_argument("--restarts", type=int, default=3, help="rounds of the comparison with a bare loop; 0: none")
    parser.add_argument("--known", action="store_true", help="start nothing: the table of what is there")
    parser.add_argument("--write", action="store_true", help="the table into docs/recovery.md")
    return parser.parse_args()


def _run_all(wanted: list[Row], place: Path, root: Path, *, jobs: int) -> list[Result]:
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run_row, row, place, root): row for row in wanted}
        for done in as_completed(running):
            row, result = running[done], done.result()
            results[row.name] = result
            verdict = "calm" if result.right is None and not result.said else result.said
            sign = "ok" if result.right is not False and result.healthy is not False else "NOT AS IT HAS TO BE"
            print(f"{len(results)}/{len(wanted)} {row.name}: {sign}, {verdict}, {result.seconds:.0f} s", flush=True)
    return [results[row.name] for row in wanted]


def _figures(place: Path, rounds: int) -> Figures:
    """Measured once the runs are over, alone on the machine; known figures are not measured again."""
    known = place / FIGURES
    figures = Figures.model_validate_json(known.read_bytes()) if known.exists() else Figures()
    calm = place / f"{REFERENCE}-0" / "runs" / "run"
    if figures.health_share is None and calm.exists():
        cost = measure_health_cost(calm)
        update = {"health_share": cost.median, "health_mean": cost.mean, "health_steps": cost.steps}
        figures = figures.model_copy(update=update)
    if figures.bundle_ms is None and calm.exists():
        bundle = measure_bundle(calm)
        figures = figures.model_copy(update={"bundle_ms": bundle.milliseconds, "bundle_mb": bundle.megabytes})
    if rounds and not figures.restarts:
        directory = place / "restarts"
        directory.mkdir(exist_ok=True)
        restarts = measure_restarts(directory, rounds, tell=lambda words: print(words, flush=True))
        figures = figures.model_copy(update={"restarts": restarts.medians(), "rounds": rounds})
    write_text(known, figures.model_dump_json(indent=1) + "\n")
    return figures


if __name__ == "__main__":
    sys.exit(main())
