"""The daemon's end of a diagnosis: starts it, bounds it, and reads what it found. At most one at a time.

It holds the worker's lock, since it needs the device to itself, and shares only files with the daemon. What is done
about its finding is `policy`'s to decide. Knows nothing about how an incident is replayed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..checkpoints.manifest import read_manifest
from ..durable import write_json
from ..errors import CorruptCheckpointError
from ..plain import one_line
from ..section import Record
from ..trainer.contract import Cause
from ..trainer.diagnosis import DIAGNOSIS, DIAGNOSIS_LOG, DIAGNOSIS_SPEC, Diagnosis, DiagnosisSpec, Finding
from . import process, rollback
from .config import RunConfig
from .events import Diagnosed, IncidentOpened
from .history import History
from .inbox import DiagnosisExited, Inbox
from .members import Epoch, Incident
from .policy import NUMERIC
from .recording import Recorder
from .standby import Standby

log = logging.getLogger(__name__)
DIAGNOSIS_COMMAND = (sys.executable, "-P", "-m", "segwatch.trainer.diagnose")
BATCH = "batch.pt"
"""Left by the worker: without it there is no step to repeat."""
BEGINS = 2
"""So often one incident is replayed: what takes the daemon with it twice would do so again."""
LIMIT_BYTES = 4 << 20
WORDS_LIMIT = 600
"""Letters of a finding that are told to a person; the whole of it lies in diagnosis.json."""
REPRODUCED = 2
"""Different states from which a file has to go wrong before it is left out."""
NOTE = "diagnosis"
ONSETS = ("onset_step", "loss_high_since", "grad_norm_high_since")
"""In the evidence of an incident: from which step on something was wrong."""


class Begun(Record):
    """What is noted of the newest diagnosis, for a daemon that comes after this one."""

    incident: int
    times: int
    pid: int = 0
    """0 while it is being started: then its spec on its command line tells it."""
    create_time: float = 0.0
    boot: str = ""

    @property
    def identity(self) -> process.Identity:
        return process.Identity(self.pid, self.create_time, self.boot) if self.pid else process.NOBODY


@dataclass
class _Running:
    incident: int
    identity: process.Identity
    until: float
    """Monotonic."""
    ended: str = ""
    """Why the daemon killed it; empty while it may work."""


class Diagnosing:
    """Replays of incidents, one after the other. `tend` is asked again and again until it answers."""

    def __init__(
        self,
        run_dir: Path,
        config: RunConfig,
        recorder: Recorder,
        *,
        command: Sequence[str],
        lock: process.WorkerLock,
        inbox: Inbox,
        free_the_device: Callable[[], None],
        say: Callable[[str], None],
        standby: Standby | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._config = config
        self._recorder = recorder
        self._command = command
        self._lock = lock
        self._inbox = inbox
        self._free_the_device = free_the_device
        self._say = say
        self._standby = standby
        self._running: _Running | None = None
        self._answer: Diagnosed | None = None

    @property
    def running(self) -> bool:
        return self._running is not None

    def wanted(self, incident: Incident) -> bool:
        """Whether this incident is one that a replay can tell something about, and it has not told it yet."""
        opened = incident.opened
        if not self._config.recovery.diagnose or incident.number in self._recorder.history.diagnoses:
            return False
        crashed_on_a_batch = opened.cause is Cause.WORKER_CRASHED and (self._place(opened.number) / BATCH).exists()
        return opened.fatal and (opened.cause in NUMERIC or crashed_on_a_batch)

    def tend(self, incident: Incident, now: float) -> Diagnosed | None:
        """What was found; `None` while it is being looked for. Raises OSError when the disk refuses."""
        running = self._running
        if running is not None:
            if now >= running.until and not running.ended:
                self._kill(running, f"it was not done within {self._limit:g} s, and was ended")
            return None
        answer, self._answer = self._answer, None
        if answer is not None and answer.incident == incident.number:
            return answer
        return self._begin(incident, now)

    def exited(self, message: DiagnosisExited) -> None:
        running = self._running
        if running is None or running.incident != message.incident:
            return
        self._running = None
        answer = _read(self._place(message.incident) / DIAGNOSIS, message.incident)
        if answer is None and running.ended:
            answer = _unknown(message.incident, running.ended)
        elif answer is None:
            where = f"incidents/{message.incident:03d}/{DIAGNOSIS_LOG}"
            answer = _unknown(message.incident, f"the replay left no answer (exit code {message.returncode}): {where}")
        self._answer = answer

    def stop(self) -> None:
        """At once, because the run is stopped: the next daemon begins again, and this time does not count."""
        running = self._running
        if running is not None and not running.ended:
            self._say("stopping: the replay of the incident is ended; the next `segwatch run` begins it again")
            known = self._noted()
            self._note(known.model_copy(update={"times": known.times - 1}))
            self._kill(running, "the run was stopped")

    def end_left_over(self) -> list[int]:
        """Kill what a daemon that is gone has left behind of a diagnosis; returns the pids."""
        begun = self._noted()
        if self._running is not None or not begun.incident:
            return []
        identity = left_over(self._run_dir, begun) or begun.identity
        if identity == process.NOBODY:
            return []
        ended = [identity.pid] if identity.send(signal.SIGKILL) else []
        return ended + self._lock.end_holders(identity)

    # --- one diagnosis -----------------------------------------------------------------------------------------------

    def _begin(self, incident: Incident, now: float) -> Diagnosed | None:
        number = incident.number
        fallen = fallen_epoch(self._run_dir, self._recorder.history, incident)
        if fallen is None and not (self._place(number) / BATCH).exists():
            collapsed = incident.opened.cause is Cause.MIOU_COLLAPSE
            missing = "the epoch that fell is gone" if collapsed else "the worker left no batch to repeat"
            return _unknown(number, missing)
        lock = self._lock.acquire()
        if lock is None:
            self._free_the_device()
            return None
        try:
            answer = self._already_known(number)
            spec = None if answer is not None else self._prepared(incident, fallen)
        except BaseException:
            os.close(lock)
            raise
        if spec is None:
            os.close(lock)
            return answer
        words = spec.with_name(DIAGNOSIS_LOG)
        child = self._standby.hand_over("diagnose", spec, words, lock) if self._standby is not None else None
        if child is None:
            child = process.spawn_worker(self._command, spec, words, lock)
        identity = process.Identity.of(child.pid)
        assert identity is not None, "a child that nobody has waited for has an entry in the process table"
        process.reap(child, lambda code: self._inbox.put(DiagnosisExited(number, code)))
        self._running = _Running(number, identity, now + self._limit)
        place = {"pid": identity.pid, "create_time": identity.create_time, "boot": identity.boot}
        self._note(self._noted().model_copy(update=place))
        self._say(f"incident {number:03d} is replayed, to find out what it was: {self._seconds:g} s at most")
        return None

    def _already_known(self, number: int) -> Diagnosed | None:
        """What one that outlived its daemon has found; or that none will ever come to its end."""
        begun = self._noted()
        times = begun.times if begun.incident == number else 0
        found = _read(self._place(number) / DIAGNOSIS, number) if times else None
        if found is None and times >= BEGINS:
            return _unknown(number, f"{times} replays were begun, and none came to its end")
        return found

    def _prepared(self, incident: Incident, fallen: Epoch | None) -> Path:
        """Its spec, on the disk, and the note that it was begun: before it is."""
        number, opened = incident.number, incident.opened
        place = self._place(number)
        place.mkdir(parents=True, exist_ok=True)  # a worker that knew of no trouble has left nothing
        (place / DIAGNOSIS).unlink(missing_ok=True)
        spec = DiagnosisSpec(
            run_dir=self._run_dir,
            incident=number,
            attempt=opened.attempt if fallen is None else fallen.attempt,
            directory=str(place.relative_to(self._run_dir)),
            good=tuple(good_states(self._run_dir, self._recorder.history, opened)),
            fallen=None if fallen is None else fallen.manifest,
            seconds=self._seconds,
        )
        write_json(place / DIAGNOSIS_SPEC, spec.model_dump(mode="json"))
        begun = self._noted()
        self._note(Begun(incident=number, times=1 + (begun.times if begun.incident == number else 0)))
        return place / DIAGNOSIS_SPEC

    def _kill(self, running: _Running, why: str) -> None:
        running.ended = why
        running.identity.send(signal.SIGKILL)

    @property
    def _seconds(self) -> float:
        return self._config.recovery.diagnosis_seconds

    @property
    def _limit(self) -> float:
        """It ends by itself after its own limit; one that does not is given as long as a worker that is to leave."""
        return self._seconds + self._config.watch.stop_grace_seconds

    def _place(self, number: int) -> Path:
        return _place(self._run_dir, number)

    def _noted(self) -> Begun:
        return noted(self._recorder.noted)

    def _note(self, begun: Begun) -> None:
        self._recorder.note(NOTE, begun.model_dump_json())


def good_states(run_dir: Path, history: History, opened: IncidentOpened) -> list[str]:
    """The manifests of what a replay can begin from: good, and from before anything was wrong as far as that is known.

    The onset is what worker or daemon saw themselves; scores that fell know it to the epoch.
    """
    seen = [opened.evidence.get(name) for name in ONSETS]
    onset = min((step for step in seen if isinstance(step, int)), default=None)
    return rollback.good_before(run_dir, history, opened.step, onset=onset)


def fallen_epoch(run_dir: Path, history: History, incident: Incident) -> Epoch | None:
    """Of a collapse the first epoch with low scores, as far as its weights are left to compare a replay with."""
    if incident.opened.cause is not Cause.MIOU_COLLAPSE:
        return None
    onset, until = incident.opened.evidence.get("onset_step"), incident.opened.attempt
    trained = [epoch for epoch in history.epochs.values() if epoch.step == onset and epoch.attempt <= until]
    if not trained:
        return None
    epoch = max(trained, key=lambda epoch: epoch.attempt)
    path = run_dir / epoch.manifest
    with contextlib.suppress(CorruptCheckpointError, FileNotFoundError):
        return epoch if (path.parent / read_manifest(path).weights.name).exists() else None
    return None


def noted(read: Callable[[str], str | None]) -> Begun:
    """Of the newest diagnosis; of incident 0 where there was none."""
    return Begun.model_validate_json(read(NOTE) or '{"incident": 0, "times": 0}')


def left_over(run_dir: Path, begun: Begun) -> process.Identity | None:
    """The process of a diagnosis that its daemon did not outlive, if it still runs."""
    if begun.identity.alive():
        return begun.identity
    return process.find_worker(spec_of(run_dir, begun.incident))


def spec_of(run_dir: Path, incident: int) -> Path:
    """What stands on the command line of a replay."""
    return _place(run_dir, incident) / DIAGNOSIS_SPEC


def _place(run_dir: Path, number: int) -> Path:
    return run_dir / "incidents" / f"{number:03d}"


def _unknown(incident: int, why: str) -> Diagnosed:
    return Diagnosed(incident=incident, finding=Finding.UNKNOWN, because=why)


def _read(path: Path, incident: int) -> Diagnosed | None:
    """The answer that lies there; `None` for none, or for what is none. Its words are made harmless and short."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            log.warning("%s is larger than any answer", path)
            return None
        found = Diagnosis.model_validate_json(content)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s is no answer: %d fields are wrong", path, error.error_count())
        return None
    words = one_line(found.because)
    return Diagnosed(
        incident=incident,
        finding=found.finding,
        because=words if len(words) <= WORDS_LIMIT else f"{words[:WORDS_LIMIT]} …",
        files=tuple(file.image for file in found.files if file.reproduced >= REPRODUCED and not file.cached_only),
        decode_again=tuple(file.image for file in found.files if file.cached_only),
        bf16_is_finite=found.bf16_is_finite,
        onset_step=found.onset_step,
        device_check=one_line(found.device_check)[:WORDS_LIMIT],
        seconds=found.seconds,
    )
