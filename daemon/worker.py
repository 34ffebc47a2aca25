"""The daemon's end of one attempt: its process, its journal, whether it gets on, and how it ended.

Reads what the worker leaves in its directory; shares no pipe and no memory with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

from pydantic import ValidationError

from ..durable import write_text
from ..trainer.contract import (
    EXIT,
    JOURNAL,
    LOG,
    SPEC,
    AttemptSpec,
    Cause,
    ExitCode,
    ExitRecord,
    JournalLine,
    Progress,
    Trouble,
    attempt_dir,
)
from . import process
from .config import WatchConfig
from .events import AttemptEnded, AttemptSpawned, Outcome
from .farewell import Condemned, note_asked, note_condemned, was_asked, was_killed_on_request
from .inbox import Inbox, WorkerExited
from .journal import JournalReader, last_trouble, tail
from .liveness import Liveness
from .members import Attempt
from .standby import Standby

KILL_GRACE_SECONDS = 3.0
"""For a worker that is to be killed in any case: it stands still, or its numbers are worthless."""


def known_worker(spawned: AttemptSpawned) -> process.Identity:
    """The process that was recorded, whether it still runs or not."""
    return process.Identity(spawned.pid, spawned.create_time, spawned.boot)


def running_worker(run_dir: Path, attempt: Attempt, lock: process.WorkerLock) -> process.Identity | None:
    """Of an attempt whose daemon is dead. A lock that is free vouches for nobody where its file was deleted: then the
    process itself is looked for.
    """
    if attempt.spawned is not None and (known := known_worker(attempt.spawned)).alive():
        return known
    spec = attempt_dir(run_dir, attempt.number) / SPEC
    nobody = lock.free() and (attempt.spawned is not None or lock.exists or not spec.exists())
    return None if nobody else process.find_worker(spec)


def spawned_as(attempt: int, identity: process.Identity) -> AttemptSpawned:
    return AttemptSpawned(attempt=attempt, pid=identity.pid, create_time=identity.create_time, boot=identity.boot)


class Worker:
    """One attempt that runs."""

    def __init__(
        self, spec: AttemptSpec, identity: process.Identity, *, watch: WatchConfig, now: float, offset: int = 0
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._reader = JournalReader(spec.directory / JOURNAL, offset)
        self._liveness = Liveness(watch, now)
        for line in tail(spec.directory / JOURNAL) if offset else ():  # of one that is adopted: it may train since long
            self._liveness.observe(line, now)
        self._grace_seconds = watch.stop_grace_seconds
        self._may_leave_until: float | None = None
        """In time.monotonic(); `None` while nobody has asked it to stop, and when it may take no more time."""
        self._progress_lines = 0
        self.condemned: Condemned | None = None
        # What an earlier daemon read is not read again, but why a worker is leaving must not be lost with that daemon.
        self.last_trouble = last_trouble(spec.directory / JOURNAL) if offset else None

    @classmethod
    def spawn(
        cls,
        spec: AttemptSpec,
        lock: int,
        *,
        command: Sequence[str],
        watch: WatchConfig,
        inbox: Inbox,
        now: float,
        standby: Standby | None = None,
    ) -> Worker:
        """Write the spec, start the process or let the standby become it, and have its exit told to the inbox.

        The caller's copy of the lock is closed in any case. Raises OSError where the disk refuses.
        """
        path = spec.directory / SPEC
        try:
            spec.directory.mkdir(parents=True, exist_ok=True)
            write_text(path, spec.model_dump_json(indent=1) + "\n")
        except BaseException:  # from here on whoever starts a process closes it, or gives it away
            os.close(lock)
            raise
        child = standby.hand_over("worker", path, spec.directory / LOG, lock) if standby is not None else None
        if child is None:
            child = process.spawn_worker(command, path, spec.directory / LOG, lock)
        identity = process.Identity.of(child.pid)
        assert identity is not None, "a child that nobody has waited for has an entry in the process table"
        process.reap(child, lambda code: inbox.put(WorkerExited(spec.attempt, code)))
        return cls(spec, identity, watch=watch, now=now)

    def tell_its_end(self, inbox: Inbox) -> None:
        """For a worker that an earlier daemon started: its exit code nobody can read, but that it is gone."""
        process.await_adopted(self.identity, lambda: inbox.put(WorkerExited(self.attempt, None)))

    @property
    def attempt(self) -> int:
        return self.spec.attempt

    @property
    def under_way(self) -> bool:
        """Whether it trains, and has done so for about a second."""
        return self._progress_lines >= 2

    @property
    def offset(self) -> int:
        """Up to where the journal was read."""
        return self._reader.offset

    def read(self, now: float) -> list[JournalLine]:
        lines = self._reader.read()
        for line in lines:
            self._liveness.observe(line, now)
            self._progress_lines += isinstance(line, Progress)
            if isinstance(line, Trouble):
                self.last_trouble = line
        return lines

    def overdue(self, now: float) -> str | None:
        return None if self.condemned else self._liveness.overdue(now)

    def condemn(self, why: Condemned, note: Callable[[str, str], None], *, stacks: bool = False) -> None:
        """End it because it stands still or its numbers are worthless; first `note` why, for a daemon after this one.

        Raises what `note` raises, and then ends nothing.
        """
        note_condemned(note, self.attempt, why)
        self.condemned = why
        process.stop(self.identity, grace_seconds=KILL_GRACE_SECONDS, stacks=stacks)

    def ask_to_stop(self) -> None:
        """Save at the next step boundary and leave; killed when that takes too long."""
        note_asked(self.spec.directory)
        self._may_leave_until = time.monotonic() + self._grace_seconds
        process.stop(self.identity, grace_seconds=self._grace_seconds)

    def kill(self) -> None:
        """At once, because a person does not want to wait for it."""
        note_asked(self.spec.directory, killed=True)
        self._may_leave_until = None
        self.identity.send(signal.SIGKILL)

    def struck_down(self, returncode: int | None) -> bool:
        """Whether a signal that the daemon did not send ended it while it still had time to save and leave."""
        if self._may_leave_until is None or time.monotonic() >= self._may_leave_until:
            return False
        if returncode is None:  # an earlier daemon's child, whose exit code nobody can read
            return not self.left_word
        return returncode < 0 and returncode != -signal.SIGTERM

    @property
    def asked_before(self) -> bool:
        """Whether somebody who is gone by now has asked it to leave: a daemon, or `segwatch stop` without one."""
        return was_asked(self.spec.directory)

    @property
    def killed_on_request(self) -> bool:
        """Whether who had asked it then killed it, because it took too long or a person did not want to wait."""
        return was_killed_on_request(self.spec.directory)

    @property
    def left_word(self) -> bool:
        """Whether it wrote itself how it ended: whoever is killed does not."""
        return _exit_record(self.spec.directory / EXIT) is not None

    def ended(self, returncode: int | None, *, asked: bool) -> AttemptEnded:
        """How it ended, told from its exit record, what the daemon did to it, and its exit code, in this order."""
        return ending_of(self.spec, returncode, asked=asked, condemned=self.condemned)


def ending_of(
    spec: AttemptSpec, returncode: int | None, *, asked: bool, condemned: Condemned | None = None
) -> AttemptEnded:
    """The end of an attempt whose process is gone. `asked` says that this daemon told it to stop."""
    record = _exit_record(spec.directory / EXIT)
    outcome, cause, message = _judge(record, returncode, asked=asked, condemned=condemned)
    step, epoch = _position(spec, record)
    return AttemptEnded(
        attempt=spec.attempt,
        outcome=outcome,
        cause=cause,
        message=message,
        step=step,
        epoch=epoch,
        stepped=record.stepped if record else step > 0,
    )


def _judge(
    record: ExitRecord | None, returncode: int | None, *, asked: bool, condemned: Condemned | None
) -> tuple[Outcome, Cause | None, str]:
    if record is not None and record.code is ExitCode.FINISHED:
        return Outcome.FINISHED, None, record.message
    if record is not None and record.code is ExitCode.UNSTABLE:
        # What the worker saw itself is nearer to the cause than scores that fell, or than how long it took to leave.
        return Outcome.UNSTABLE, record.cause or Cause.NAN_LOSS, record.message
    if condemned is not None and not (record is not None and record.code is ExitCode.OUT_OF_MEMORY):
        return condemned.outcome, condemned.cause, condemned.message
    own_fault = record is not None and record.code in {ExitCode.OUT_OF_MEMORY, ExitCode.CRASHED}
    if asked and condemned is None and not own_fault:  # one that broke while it was asked has an incident to tell
        return Outcome.STOPPED, None, "stopped on request" if record else "killed on request, without saving"
    if record is None:
        return Outcome.KILLED, Cause.WORKER_CRASHED, f"the worker was killed: {_death(returncode)}"
    match record.code:
        case ExitCode.FINISHED | ExitCode.UNSTABLE:
            raise AssertionError("handled above")
        case ExitCode.CRASHED:
            return Outcome.CRASHED, Cause.WORKER_CRASHED, f"the worker crashed: {record.message}"
        case ExitCode.OUT_OF_MEMORY:
            return Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY, record.message
        case ExitCode.STOPPED:
            return Outcome.KILLED, Cause.WORKER_CRASHED, "somebody else asked the worker to stop (SIGTERM)"
        case ExitCode.PERMANENT:
            return Outcome.PERMANENT, None, record.message
        case _:
            assert_never(record.code)


def _death(returncode: int | None) -> str:
    if returncode is None:
        return "it left no exit record"
    if returncode >= 0:
        return f"exit code {returncode} without an exit record"
    return f"signal {signal.Signals(-returncode).name}"


def _exit_record(path: Path) -> ExitRecord | None:
    """`None` means that the worker was killed before it could write one."""
    try:
        return ExitRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _position(spec: AttemptSpec, record: ExitRecord | None) -> tuple[int, int]:
    """The last step and the completed epochs, from the exit record or else from the end of the journal."""
    if record is not None:
        return record.step, record.epoch
    step = epoch = 0
    for line in tail(spec.directory / JOURNAL):
        match line.kind:
            case "started" | "checkpoint":
                step, epoch = line.step, line.epoch
            case "progress":
                step, epoch = line.step, line.epoch - 1
            case "drill":
                step = line.drill.step - 1  # written before the step that it spoils
    return step, epoch
