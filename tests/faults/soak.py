"""Fault after fault on one real daemon, from a seeded list, and in the end the account: `make soak`.

Started as `python -m tests.faults.soak [--faults N] [--seed S]` in the repository root. The worker and the evaluator
are the fakes, so that a minute holds what a day of training would meet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from segwatch.daemon.events import EVENT
from segwatch.daemon.history import History
from segwatch.daemon.process import Identity
from segwatch.durable import read_lines
from segwatch.trainer.contract import JOURNAL, attempt_dir

from ..daemon.conftest import CONFIG, write_data
from ..watched import Watched
from .promises import assert_nothing_else_broke, strays

HERE = Path(__file__).resolve().parent
SIGNALS = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV, "hang": signal.SIGSTOP, "foreign-term": signal.SIGTERM}
BY_FILE = ("nan", "oom", "crash", "inf-gradients")
WEIGHTS = {
    **dict.fromkeys(("kill", "nan", "oom", "crash", "inf-gradients", "evaluator-kill", "daemon-kill"), 4),
    **dict.fromkeys(("segfault", "foreign-term", "daemon-term", "flip", "no-results", "torn-journal", "no-log"), 2),
    "hang": 1,
}
EXTRA = """same_cause = 1000000
whole_run = 1000000
backoff_limit_seconds = 0.05
wait_for_scores_seconds = 5
lr_factor = 0.99
standby = false
"""
WATCH = """hang_floor_seconds = 1.0
loading_seconds = 30.0
first_step_seconds = 3.0
saving_seconds = 3.0"""


TOLD_EVERY = 50
"""Faults, a minute or so."""


class Tail:
    """The history of a run that grows, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.history = History()

    def look(self) -> History:
        while True:
            lines, end = read_lines(self._path, self._offset)
            if end == self._offset:
                return self.history
            self._offset = end
            for line in lines:
                try:
                    body = json.loads(line)
                except ValueError:
                    continue  # torn by a kill
                self.history.apply(body["time"], EVENT.validate_python(body))


@dataclass
class Account:
    """What a soak ends with."""

    faults: int
    seed: int
    seconds: float = 0.0
    by_kind: dict[str, int] = field(default_factory=dict)
    daemons: int = 0
    attempts: int = 0
    epochs_trained: int = 0
    epochs_scored_once: int = 0
    incidents: int = 0
    incidents_lost: int = 0
    strays: int = 0
    useful_time: float = 0.0
    """Share of the time in which a worker took steps."""
    useful_steps: float = 0.0
    """Share of the steps that the final line of epochs consists of."""
    rss_mb: tuple[float, float] = (0.0, 0.0)
    """Of the daemon: median of the first and of the last quarter of the faults."""
    descriptors: tuple[float, float] = (0.0, 0.0)

    def check(self) -> None:
        assert self.epochs_trained == self.epochs_scored_once
        assert self.incidents_lost == 0
        assert self.strays == 0
        assert self.rss_mb[1] <= 1.2 * self.rss_mb[0] + self.epochs_trained * 0.012, "memory grows"
        assert self.descriptors[1] <= self.descriptors[0] + 3, "descriptors leak"
        assert self.rss_mb[1] < 120


class Soak(Watched):
    def __init__(
        self, place: Path, *, faults: int, seed: int, tell: Callable[[str], object] = lambda _words: None
    ) -> None:
        super().__init__(place)
        self.tell = tell
        self.account = Account(faults, seed)
        self.chance = random.Random(seed)
        self.hit: set[int] = set()
        """Attempts that were ended by a fault."""
        self.samples: list[tuple[float, int]] = []
        self.tail = Tail(self.run_dir / "events.jsonl")
        self.daemon: subprocess.Popen[str] | None = None

    # --- the run ---------------------------------------------------------------------------------------------------

    def configure(self, epochs: int) -> None:
        text = CONFIG.format(epochs=epochs, amp="off", extra=EXTRA).replace("hang_floor_seconds = 2.0", WATCH)
        (self.place / "run.toml").write_text(text)

    def start(self) -> None:
        with (self.place / "daemon.txt").open("a") as output:
            self.daemon = subprocess.Popen(
                [sys.executable, str(HERE / "soak_daemon.py")], cwd=self.place, stdout=output, stderr=output
            )
        self.account.daemons += 1

    def wait(self, holds: Callable[[History], bool], what: str) -> None:
        pause = threading.Event()
        until = time.monotonic() + self.deadline_seconds
        while not holds(self.tail.look()):
            assert self.daemon is not None
            assert self.daemon.poll() is None, f"the daemon left with {self.daemon.returncode}: see {self.place}"
            assert time.monotonic() < until, f"in vain: {what}; see {self.place}"
            pause.wait(0.02)

    def wait_for_progress(self, what: str) -> None:
        """Two epochs more than now: whatever was broken is mended, and training goes on."""
        known = len(self.tail.look().epochs)
        self.wait(lambda history: len(history.epochs) >= known + 2, f"epochs after {what}")

    # --- the faults ------------------------------------------------------------------------------------------------

    def run(self) -> Account:
        began = time.monotonic()
        write_data(self.place)
        self.configure(1_000_000)
        (self.place / "scenario.json").write_text(json.dumps({"steps_per_epoch": 2, "step_seconds": 0.02}))
        self.start()
        self.wait(lambda history: len(history.epochs) >= 2, "the first epochs")
        kinds = self.chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=self.account.faults)
        for number, kind in enumerate(kinds, start=1):
            if number % TOLD_EVERY == 0:
                self.tell(f"{number} of {len(kinds)} faults in {(time.monotonic() - began) / 60:.1f} min")
            self.make(kind)
            if self.chance.random() < 0.8 or kind == "daemon-term":  # else the next fault meets it in mid-recovery
                self.wait_for_progress(kind)
                self.sample()
        self.wait_for_progress("the last fault")
        self.end()
        self.account.by_kind = dict(sorted(Counter(kinds).items()))
        self.account.seconds = round(time.monotonic() - began, 1)
        return self.account

    def make(self, kind: str) -> None:
        match kind:
            case "kill" | "segfault" | "hang" | "foreign-term":
                self.signal_worker(SIGNALS[kind])
            case "nan" | "oom" | "crash" | "inf-gradients":
                (self.place / "fault.tmp").write_text(kind)
                (self.place / "fault.tmp").replace(self.place / "fault")
            case "evaluator-kill":
                for process in self.children_of_daemon("fake_evaluator.py"):
                    process.kill()
            case "daemon-kill":
                self.stop_daemon(signal.SIGKILL)
                self.start()
            case "daemon-term":
                self.stop_daemon(signal.SIGTERM)
                self.start()
            case "flip":
                self.flip()
            case "no-results":
                (self.run_dir / "results.csv").unlink(missing_ok=True)
            case "no-log":
                (self.run_dir / "daemon.log").unlink(missing_ok=True)
            case "torn-journal":
                attempt = self.tail.look().attempts[-1].number
                with (attempt_dir(self.run_dir, attempt) / JOURNAL).open("ab") as journal:
                    journal.write(b'{"kind":"progress","st\n\xff\xfe\n')

    def signal_worker(self, number: signal.Signals) -> None:
        attempt = self.tail.look().attempts[-1]
        if attempt.spawned is None or attempt.ended is not None or attempt.started is None:
            return
        worker = Identity(attempt.spawned.pid, attempt.spawned.create_time)
        if worker.send(number, group=False):
            self.hit.add(attempt.number)

    def children_of_daemon(self, script: str) -> list[psutil.Process]:
        assert self.daemon is not None
        try:
            children = psutil.Process(self.daemon.pid).children()
            return [child for child in children if script in " ".join(child.cmdline())]
        except psutil.Error:
            return []

    def stop_daemon(self, number: signal.Signals) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        self.daemon.wait(timeout=self.deadline_seconds)

    def flip(self) -> None:
        """The newest committed weights, whether they are scored already or not. Inode and all are as they were."""
        epochs = [epoch for epoch in self.tail.look().epochs.values() if epoch.moved is None]
        path = self.run_dir / epochs[-1].weights
        if path.exists():
            with path.open("r+b") as file:
                file.write(b"X")

    def sample(self) -> None:
        assert self.daemon is not None
        process = psutil.Process(self.daemon.pid)
        self.samples.append((process.memory_info().rss / 1e6, process.num_fds()))
        workers = [p for p in strays(self.place) if "soak_worker.py" in p]
        assert len(workers) <= 1, workers

    # --- the account -----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The last daemon is told of an end that is near, and comes to it by itself."""
        self.stop_daemon(signal.SIGTERM)
        self.configure(max(epoch.epoch for epoch in self.tail.look().lineage()) + 3)
        self.start()
        assert self.daemon is not None
        code = self.daemon.wait(timeout=self.deadline_seconds)
        assert code == 0, f"{code}: see {self.place}"
        assert_nothing_else_broke(self)
        self.settle()

    def settle(self) -> None:
        account, history = self.account, self.tail.look()
        account.attempts = len(history.attempts)
        account.epochs_trained = len(history.epochs)
        scored = Counter((row["attempt"], row["epoch"]) for row in self.rows())
        account.epochs_scored_once = sum(count == 2 for count in scored.values())
        account.incidents = len(history.incidents)
        told = {(i.opened.attempt, i.opened.fatal) for i in history.incidents}
        taken = [line.split() for line in self.read("taken").splitlines()]
        # A signal to a worker that its daemon has just asked to leave ended nothing where it saved and left as it was
        # asked: another SIGTERM, or a SIGSTOP that was undone. One that was killed in that moment is an incident.
        saved = {a.number for a in history.attempts if a.ended and a.ended.message == "stopped on request"}
        expected = {(attempt, True) for attempt in self.hit - saved}
        expected |= {(int(attempt), kind != "inf-gradients") for attempt, kind in taken}
        account.incidents_lost = len(expected - told)
        account.strays = len(strays(self.place))
        quarter = max(1, len(self.samples) // 4)
        first, last = self.samples[:quarter], self.samples[-quarter:]
        account.rss_mb = round(median_of(first, 0), 1), round(median_of(last, 0), 1)
        account.descriptors = median_of(first, 1), median_of(last, 1)
        self.count_useful(history)

    def read(self, name: str) -> str:
        path = self.place / name
        return path.read_text() if path.exists() else ""

    def count_useful(self, history: History) -> None:
        steps, trained = 0, 0.0
        for journal in self.run_dir.glob(f"attempts/*/{JOURNAL}"):
            times = []
            for line in journal.read_bytes().splitlines():
                if b'"kind":"progress","st' in line and len(line) < 40:
                    continue  # ours
                if b'"progress"' in line:
                    steps += 1
                    times.append(json.loads(line)["time"])
            trained += times[-1] - times[0] if times else 0.0
        assert history.created_at is not None
        assert history.last_at is not None
        self.account.useful_time = round(trained / (history.last_at - history.created_at), 3)
        self.account.useful_steps = round(2 * len(history.lineage()) / steps, 3)

    def clean(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        super().clean()


def median_of(samples: list[tuple[float, int]], place: int) -> float:
    return sorted(sample[place] for sample in samples)[len(samples) // 2]


def soak(place: Path, *, faults: int, seed: int, tell: Callable[[str], object] = lambda _words: None) -> Account:
    night = Soak(place, faults=faults, seed=seed, tell=tell)
    try:
        return night.run()
    finally:
        night.clean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")
    place = Path(tempfile.mkdtemp(prefix="segwatch-soak-"))
    print(f"in {place}", file=sys.stderr)
    account = soak(
        place,
        faults=arguments.faults,
        seed=arguments.seed,
        tell=lambda words: print(words, file=sys.stderr, flush=True),
    )
    for name, value in asdict(account).items():
        print(f"{name.replace('_', ' '):19} {value}")
    account.check()
    print("every promise held")


if __name__ == "__main__":
    main()
