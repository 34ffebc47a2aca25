"""A worker without torch: keeps the real contract (spec, journal, checkpoints, exit record) and does what it is told.

Started as `python fake_worker.py SCENARIO SPEC`. SCENARIO is JSON: `steps_per_epoch`, `step_seconds`, `lose_lr` and
`faults`, a map from "attempt:step" to one of kill, hang, lock, stop, crash, nan, oom, orphan, permanent, segv, slow,
torn, halves, flood; `slow_save` and `before_manifest`, seconds by "attempt:epoch". With `diagnosis`, a nan or a crash
leaves its batch to be replayed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock

from segwatch.checkpoints.manifest import Architecture, Manifest, Role, StoredFile, read_manifest, sha256_of
from segwatch.durable import LineLog, next_number, takes_name, write_text
from segwatch.trainer.contract import (
    AttemptSpec,
    Cause,
    CheckpointLine,
    DrillLine,
    ExitCode,
    ExitRecord,
    Finished,
    Phase,
    Progress,
    Started,
    Trouble,
)

asked = Event()


class FakeWorker:
    def __init__(self, scenario: dict, spec: AttemptSpec) -> None:
        self.scenario = scenario
        self.spec = spec
        self.steps_per_epoch = scenario.get("steps_per_epoch", 4)
        self.journal = LineLog(spec.directory / "journal.jsonl", fsync=False, follow=True)
        self.epoch = self.step = self.step_in_epoch = 0
        if spec.resume_from:
            point = read_manifest(spec.run_dir / spec.resume_from)
            self.epoch, self.step, self.step_in_epoch = point.epoch, point.step, point.step_in_epoch
        self.stepped = False

    def write(self, line) -> None:
        self.journal.append(line.model_dump_json())

    def run(self) -> ExitCode:
        self.look_for_company()
        self.write(Phase(time=time.time(), phase="loading"))
        if self.scenario.get("import_error"):
            return self.leave(ExitCode.PERMANENT, "ImportError: no module named torch")
        if self.scenario.get("crash_at_start"):
            return self.leave(ExitCode.CRASHED, "RuntimeError: before the first step", Cause.WORKER_CRASHED)
        self.started()
        if self.spec.resume_from is None:
            self.commit(Role.INITIAL)
        self.write(Phase(time=time.time(), phase="first-step"))
        while self.epoch < self.spec.epochs:
            while self.step_in_epoch < self.steps_per_epoch:
                if asked.is_set():
                    self.commit(Role.RECOVERY)
                    return self.leave(ExitCode.STOPPED, "stopped on request")
                code = self.take_step()
                if code is not None:
                    return code
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            self.write(Phase(time=time.time(), phase="saving"))
            self.commit(Role.EPOCH)
            self.write(Phase(time=time.time(), phase="training"))
        return self.leave(ExitCode.FINISHED, "all epochs are complete")

    def look_for_company(self) -> None:
        """By a lock of its own, which nobody deletes: whether another worker of the run is at work. Held to the end."""
        place = self.spec.run_dir.parents[1]
        self.alone = (place / "fake_worker.lock").open("w")
        try:
            fcntl.flock(self.alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (place / "company.txt").write_text(f"attempt {self.spec.attempt} began beside another worker")

    def started(self) -> None:
        spec = self.spec
        self.write(
            Started(
                time=time.time(),
                attempt=spec.attempt,
                pid=os.getpid(),
                lr=self.scenario.get("echo_lr", {}).get(str(spec.attempt), spec.lr),
                amp=spec.amp,
                batch_size=spec.batch_size,
                accumulate=spec.accumulate,
                device="cpu",
                parameters=1000,
                epoch=self.epoch,
                step=self.step,
                steps_per_epoch=self.steps_per_epoch,
                epochs=spec.epochs,
            )
        )

    def fault_of(self, number: int) -> str | None:
        """What this step meets; a drill is told of first."""
        fault = self.scenario.get("faults", {}).get(f"{self.spec.attempt}:{number}")
        for drill in self.spec.drills:
            if drill.step == number:
                self.write(DrillLine(time=time.time(), drill=drill))
                fault = {"nan-loss": "nan", "out-of-memory": "oom"}.get(drill.kind.value, drill.kind.value)
        return fault

    def take_step(self) -> ExitCode | None:
        number = self.step + 1
        fault = self.fault_of(number)
        self.befall(fault)
        match fault:
            case "crash":
                if "diagnosis" in self.scenario:
                    self.trouble(Cause.WORKER_CRASHED, "RuntimeError: made to crash")
                return self.leave(ExitCode.CRASHED, "RuntimeError: made to crash", Cause.WORKER_CRASHED)
            case "nan" | "flood":
                self.trouble(Cause.NAN_LOSS, "the loss became NaN")
                return self.leave(ExitCode.UNSTABLE, "the loss became NaN", Cause.NAN_LOSS)
            case "oom":
                self.trouble(Cause.OUT_OF_MEMORY, "CUDA out of memory")
                return self.leave(ExitCode.OUT_OF_MEMORY, "CUDA out of memory", Cause.OUT_OF_MEMORY)
            case "inf-gradients":
                self.trouble(Cause.INF_GRADIENTS, "the gradients are Inf", fatal=False)
            case "slow":
                Event().wait(self.scenario["slow_seconds"])
        Event().wait(self.scenario.get("step_seconds", 0.01))
        self.step, self.step_in_epoch, self.stepped = number, self.step_in_epoch + 1, True
        self.write(
            Progress(
                time=time.time(),
                step=self.step,
                epoch=self.epoch + 1,
                step_in_epoch=self.step_in_epoch,
                loss=1.0 / self.step,
                grad_norm=1.0,
                lr=self.spec.lr,
                images_per_second=10.0,
                p99_step_seconds=0.01,
            )
        )
        return None

    def befall(self, fault: str | None) -> None:
        """What ends or stops a process, or spoils its journal, without a word of its own."""
        match fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segv":
                faulthandler._sigsegv()
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    Event().wait(60)
            case "lock":
                held = Lock()
                held.acquire()
                held.acquire()
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "orphan":
                lock = int(os.environ["SEGWATCH_LOCK_FD"])
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(lock,))
                (self.spec.run_dir.parents[1] / "orphan.pid").write_text(str(child.pid))
                os.kill(os.getpid(), signal.SIGKILL)
            case "torn":
                self.write_raw(b'{"kind":"progress","time":1.0,"st')
                os.kill(os.getpid(), signal.SIGKILL)
            case "halves":
                self.write_in_halves(Phase(time=time.time(), phase="training"))
            case "flood":
                self.flood(self.scenario["flood_bytes"])

    def write_raw(self, payload: bytes) -> None:
        with (self.spec.directory / "journal.jsonl").open("ab") as journal:
            journal.write(payload)

    def write_in_halves(self, line) -> None:
        payload = line.model_dump_json().encode() + b"\n"
        self.write_raw(payload[:20])
        Event().wait(0.3)
        self.write_raw(payload[20:])

    def flood(self, size: int) -> None:
        """A long night's progress in a moment: 1,000 steps a block."""
        line = Progress(
            time=time.time(),
            step=self.step,
            epoch=self.epoch + 1,
            step_in_epoch=self.step_in_epoch,
            loss=1.0,
            grad_norm=1.0,
            lr=self.spec.lr,
            images_per_second=10.0,
            p99_step_seconds=0.01,
        )
        block = (line.model_dump_json() + "\n").encode() * 1000
        for _ in range(1 + size // len(block)):
            self.write_raw(block)

    def leave_batch(self) -> str:
        """A new incidents/NNN with something that looks like the batch."""
        begun = self.spec.run_dir / "incidents" / ".worker.tmp"
        begun.mkdir(parents=True, exist_ok=True)
        (begun / "batch.pt").write_text("a batch")
        while not takes_name(begun, place := next_number(begun.parent)):
            continue
        return f"incidents/{place.name}"

    def trouble(self, cause: Cause, message: str, *, fatal: bool = True) -> None:
        self.write(
            Trouble(
                time=time.time(),
                cause=cause,
                step=self.step + 1,
                epoch=self.epoch + 1,
                message=message,
                evidence={"lr": self.spec.lr},
                fatal=fatal,
                incident=self.leave_batch() if fatal and "diagnosis" in self.scenario else None,
            )
        )

    def commit(self, role: Role) -> None:
        directory = self.spec.run_dir / "checkpoints"
        directory.mkdir(exist_ok=True)
        manifest = Manifest(
            role=role,
            attempt=self.spec.attempt,
            epoch=self.epoch,
            step=self.step,
            step_in_epoch=self.step_in_epoch,
            weights=StoredFile(name="x", sha256="", size=0),
            state=None,
            finite=f"{self.spec.attempt}:{self.epoch}" not in self.scenario.get("not_finite", []),
            class_ids=(0, 1),
            class_names=("a", "b"),
            architecture=Architecture(base_channels=1, classes=2),
            config_hash=self.spec.config_hash,
            created=datetime.now(UTC).isoformat(),
        )
        key = f"{self.spec.attempt}:{self.epoch}"
        if role is Role.EPOCH:
            Event().wait(self.scenario.get("slow_save", {}).get(key, 0))
        weights = self.file(directory / f"{manifest.stem}.pth", "weights")
        state = self.file(directory / f"{manifest.stem}.state.pth", "state")
        manifest = manifest.model_copy(update={"weights": weights, "state": state})
        if role is Role.EPOCH:
            Event().wait(self.scenario.get("before_manifest", {}).get(key, 0))
        write_text(directory / f"{manifest.stem}.json", manifest.model_dump_json())
        if f"{self.spec.attempt}:{self.epoch}" in self.scenario.get("flip", []) and role is Role.EPOCH:
            (directory / weights.name).write_bytes(b"changed after it was committed")
        self.write(
            CheckpointLine(
                time=time.time(),
                role=role.value,
                epoch=self.epoch,
                step=self.step,
                manifest=f"checkpoints/{manifest.stem}.json",
                sha256=weights.sha256,
                seconds=0.01,
            )
        )

    def file(self, path: Path, kind: str) -> StoredFile:
        write_text(path, f"{kind} of attempt {self.spec.attempt} step {self.step}")
        return StoredFile(name=path.name, sha256=sha256_of(path), size=path.stat().st_size)

    def leave(self, code: ExitCode, message: str, cause: Cause | None = None) -> ExitCode:
        record = ExitRecord(
            code=code, cause=cause, message=message, step=self.step, epoch=self.epoch, stepped=self.stepped
        )
        outcome = code.name.lower().replace("_", "-")
        self.write(Finished(time=time.time(), outcome=outcome, epoch=self.epoch, step=self.step))
        write_text(self.spec.directory / "exit.json", record.model_dump_json())
        return code


def main() -> int:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    scenario = json.loads(Path(sys.argv[1]).read_text())
    spec = AttemptSpec.model_validate_json(Path(sys.argv[2]).read_bytes())
    return FakeWorker(scenario, spec).run()


if __name__ == "__main__":
    sys.exit(main())
