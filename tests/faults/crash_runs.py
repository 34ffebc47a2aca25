"""Kills the supervisor at a system call of its choice, hundreds of times: forks instead of starting Python anew.

`python crash_runs.py PLACE STRIDE TIMES` prints one JSON line for each crash. The supervisor, its store, sinks, policy,
roll-back and retention are the real ones, in a process of its own that strace kills; the worker is the fake one,
forked, so that it lives on, and the fake evaluator dies with it. Watchdog, scheduler, TensorBoard and the audit are
left out here: they keep no state. One crash run takes about a quarter of a second.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "daemon"))

import fake_evaluator  # noqa: E402
import fake_worker  # noqa: E402
from segwatch.daemon import process, supervisor  # noqa: E402
from segwatch.daemon.alerts import AlertLog  # noqa: E402
from segwatch.daemon.config import load_config  # noqa: E402
from segwatch.daemon.freezing import create  # noqa: E402
from segwatch.daemon.history import History  # noqa: E402
from segwatch.daemon.inbox import EvaluatorSaid, Inbox  # noqa: E402
from segwatch.daemon.job import Begun, SpecWriter, _record_wishes, recorded  # noqa: E402
from segwatch.daemon.recording import Recorder  # noqa: E402
from segwatch.daemon.results import BestFiles, ResultsFile  # noqa: E402
from segwatch.daemon.rundir import RunDir  # noqa: E402
from segwatch.daemon.scoring import Scoring  # noqa: E402
from segwatch.daemon.standby import Standby  # noqa: E402
from segwatch.daemon.store import Store  # noqa: E402
from segwatch.daemon.supervisor import Supervisor  # noqa: E402
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData  # noqa: E402
from segwatch.evaluator.report import EvaluatorSpec  # noqa: E402
from segwatch.trainer.contract import WORKER_LOCK_FD, AttemptSpec  # noqa: E402

SYSCALLS = (
    "openat,write,pwrite64,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir,"
    "ftruncate,flock,kill,clone,clone3,fork,vfork"
)
SCENARIO = {"steps_per_epoch": 2, "step_seconds": 0.0, "faults": {"1:5": "nan"}, "miou": [0.3, 0.5, 0.4]}
"""Two good epochs, a NaN, a roll-back with the learning rate halved, two epochs more."""
FINGERPRINTS = {"val": "v", "test": "t"}
EPOCHS = 4
RUN_TOML = """\
[data]
classes = "classes.json"
images = "images"
masks = "masks"
split = { val = 0.1, test = 0.1 }
[trainer]
epochs = 4
batch_size = 4
lr = 1e-3
[watch]
scan_seconds = 0.01
[recovery]
backoff_seconds = 0
[checkpoints]
keep_epochs = 1
"""
PAIRS = (Pair(image="a.png", mask="a.png"),)
DATA = ResolvedData(
    root=Path("/data"),
    scale=0.25,
    classes=(
        ResolvedClass(id=0, name="a", colour=(1, 2, 3), pixels={"train": 1}, seen={"train": 1}),
        ResolvedClass(id=1, name="b", colour=(4, 5, 6), pixels={"train": 1}, seen={"train": 1}),
    ),
    splits={"train": PAIRS, "val": PAIRS, "test": PAIRS},
)


# --- what stands in for processes ------------------------------------------------------------------------------------


class Forked:
    """As much of a Popen as the daemon uses."""

    returncode: int | None = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def poll(self) -> int | None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self.wait()
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def fork(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = work()
        except BaseException:  # noqa: BLE001 - a fork that returned would run the caller's code a second time
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def spawn_worker(command: object, spec: Path, log: Path, lock: int) -> Forked:
    """A worker that outlives the supervisor, with the run's lock in its hands."""

    def begin() -> int:
        os.setsid()
        os.environ[WORKER_LOCK_FD] = str(lock)
        before_training()
        return train(spec)

    child = Forked(fork(begin))
    os.close(lock)
    return child


def train(spec: Path) -> int:
    signal.signal(signal.SIGTERM, lambda *_: fake_worker.asked.set())
    return fake_worker.FakeWorker(SCENARIO, AttemptSpec.model_validate_json(spec.read_bytes())).run()


def before_training() -> None:
    """Nothing here; hand_over_runs.py closes what a fork inherits and a started process does not."""


def standby_for(run: RunDir) -> Standby | None:
    """None here; hand_over_runs.py has one."""


class ScorerInside:
    """The daemon's end of an evaluator that dies with it, as the real one does: it scores while it is asked."""

    unable = refusal = None

    def __init__(self, run: RunDir, inbox: Inbox) -> None:
        self._spec = EvaluatorSpec(
            run_dir=run.path, cache_dir=run.cache_dir, device="cpu", batch_size=1, threads=1, resolution="scaled"
        )
        self._inbox = inbox
        self.in_flight = None

    @property
    def idle(self) -> bool:
        return self.in_flight is None

    def tend(self) -> None: ...

    def heard(self, said: EvaluatorSaid) -> bool:
        return True

    def answered(self) -> None:
        self.in_flight = None

    def ask(self, request) -> None:
        self.in_flight = request
        answers: list = []
        fake_evaluator.say = answers.append
        fake_evaluator.evaluate(SCENARIO, self._spec, request, FINGERPRINTS)
        for answer in answers:
            self._inbox.put(EvaluatorSaid(1, answer))


class Quiet:
    """Watches nothing and says nothing: the loop looks by itself."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self, directories: object) -> None: ...

    def stop(self) -> None: ...

    def progress(self, line: object) -> None: ...

    def say(self, text: str) -> None: ...


# --- one daemon ------------------------------------------------------------------------------------------------------


def watch(place: Path) -> int:
    """What `segwatch run` does between taking the run directory and the closing words."""
    source, run = place / "run.toml", RunDir(place / "runs" / "run")
    config = load_config(source)
    run.path.mkdir(parents=True, exist_ok=True)
    known = recorded(run)
    if not known.ever_stepped:
        create(run, source, config, DATA)
    store = Store(run.path)
    history = History.of(store.events())
    recorder = Recorder(
        store, history, [AlertLog(run.path), ResultsFile(run.path, history), BestFiles(run.path, history)]
    )
    recorder.catch_up()
    begun = Begun(new=not known.ever_stepped, changes={})
    _record_wishes(run, recorder, config=config, begun=begun, drills=(), retry=False)
    inbox = Inbox()
    scoring = Scoring(run.path, history, ScorerInside(run, inbox), min_delta=config.alerts.min_delta)
    standby = standby_for(run)
    code = Supervisor(
        run,
        config,
        SpecWriter(run, config),
        recorder=recorder,
        scoring=scoring,
        screen=Quiet(),
        inbox=inbox,
        standby=standby,
    ).run()
    if standby is not None:
        standby.close()
    recorder.close()
    return code


def daemon(place: Path, inject: str | None = None) -> int:
    """One daemon in a process of its own, killed by strace where `inject` says. Returns its exit code."""

    def stop_then_watch() -> int:
        if inject is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
        return watch(place)

    pid = fork(stop_then_watch)
    return ended(pid, inject) if inject is not None else Forked(pid).wait()


def ended(pid: int, inject: str, calls: str = SYSCALLS) -> int:
    """Let a daemon that has stopped itself go on, killed by strace where `inject` says. Returns its exit code."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return os.waitstatus_to_exitcode(status)
    trace = ["-e", f"trace={calls}", "-e", f"inject={inject}"]
    tracer = subprocess.Popen(["strace", "-qq", "-p", str(pid), "-o", "/dev/null", *trace])
    seen = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0\n" in seen.read_text():
        time.sleep(0.001)
    os.kill(pid, signal.SIGCONT)
    code = Forked(pid).wait()
    tracer.wait()
    return code


def reap_all() -> None:
    """Every worker that a killed daemon left: this process is their next of kin."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


# --- many daemons ----------------------------------------------------------------------------------------------------


def fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "run.toml").write_text(RUN_TOML)
    return place


def crashes(place: Path, stride: int, times: int) -> Iterator[dict]:
    """Each system call name, each of its calls (every `stride`-th), until a run ends without having met it."""
    for name in SYSCALLS.split(","):
        number = 1
        while True:
            here = fresh(place / f"{name}-{number}")
            codes = [daemon(here, f"{name}:signal=KILL:when={number}") for _ in range(times)]
            if codes[0] != -signal.SIGKILL:
                reap_all()
                shutil.rmtree(here)
                break
            codes.append(daemon(here))
            reap_all()
            yield {"name": name, "number": number, "place": str(here), "codes": codes}
            number += stride


def prepare() -> None:
    """Stand-ins for processes, and orphans come to this one instead of init."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    process.spawn_worker = spawn_worker
    process.POLL_SECONDS = 0.005
    supervisor.Watcher = Quiet
    fake_evaluator.miou_interval = lambda *_: None  # a second of bootstrap a run, and no state
    fake_evaluator.write_per_image = lambda *_: None


def main() -> int:
    place, stride, times = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    prepare()
    undisturbed = fresh(place / "undisturbed")
    print(json.dumps({"place": str(undisturbed), "codes": [daemon(undisturbed)]}), flush=True)
    reap_all()
    for crash in crashes(place, stride, times):
        print(json.dumps(crash), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
