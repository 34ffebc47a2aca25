"""What lies on the disk becomes facts: the worker's journal, committed epochs, moves. Decides nothing.

Every fact is taken once, also when a file is read again after a daemon died.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ..checkpoints.manifest import Role, read_manifest, scan_manifests
from ..errors import CorruptCheckpointError
from ..trainer.contract import Cause, DrillLine, JournalLine, Phase, Progress, Started, Trouble
from . import rollback
from .events import AttemptStarted, DiskSeen, DrillFired, EpochCommitted, EpochMoved, Evidence, Outcome
from .farewell import Condemned, noted_condemned
from .history import History
from .incidents import open_incident
from .recording import Recorder
from .rundir import RunDir
from .storage import free_bytes
from .worker import Worker

log = logging.getLogger(__name__)
JOURNAL_OFFSET = "journal"
NOTED_EACH_BYTES = 4 << 20
"""What the next daemon reads again at most, of a journal that only tells of progress."""


class Screen(Protocol):
    """Where a person looks on: told of what is too fleeting to be a fact."""

    def progress(self, line: JournalLine) -> None: ...

    def say(self, text: str) -> None: ...


class Observer:
    """Reads the run directory on behalf of the supervisor."""

    def __init__(self, run: RunDir, recorder: Recorder, screen: Screen) -> None:
        self._run = run
        self._recorder = recorder
        self._screen = screen
        self._checkpoints_changed: int | None = None
        self._noted = (0, 0)
        """The attempt whose journal was read, and up to where that is noted."""
        self._gap = False
        """A manifest was no manifest: what comes behind it does not follow on anything that is known."""

    @property
    def history(self) -> History:
        return self._recorder.history

    def noted_offset(self, attempt: int) -> int:
        """Up to where an earlier daemon read the journal of this attempt."""
        noted = (self._recorder.noted(JOURNAL_OFFSET) or "").split(":")
        self._noted = attempt, int(noted[1]) if noted[0] == str(attempt) else 0
        return self._noted[1]

    def read_journal(self, worker: Worker, now: float) -> None:
        """The lines since the last call, of a long journal only its next few megabytes."""
        recorded = self.history.last_at
        for line in worker.read(now):
            self._journal_line(worker, line)
        attempt, noted = self._noted
        unnoted = worker.offset - (noted if attempt == worker.attempt else 0)
        if self.history.last_at != recorded or unnoted >= NOTED_EACH_BYTES:
            self._recorder.note(JOURNAL_OFFSET, f"{worker.attempt}:{worker.offset}")
            self._noted = worker.attempt, worker.offset

    def read_journal_to_its_end(self, worker: Worker, now: float) -> None:
        """Of a worker that is gone: why it went stands in the last lines, however many are still unread."""
        before = -1
        while worker.offset != before:
            before = worker.offset
            self.read_journal(worker, now)

    def _journal_line(self, worker: Worker, line: JournalLine) -> None:
        """Facts are taken once, also when a journal is read again after the daemon died."""
        attempt = self.history.attempt(worker.attempt)
        match line:
            case Started() if attempt.started is None:
                self._recorder.record(
                    AttemptStarted(
                        attempt=line.attempt,
                        lr=line.lr,
                        amp=line.amp,
                        batch_size=line.batch_size,
                        device=line.device,
                        parameters=line.parameters,
                        steps_per_epoch=line.steps_per_epoch,
                    )
                )
                self.check_echo(worker, line)
            case DrillLine() if (worker.attempt, line.drill) not in self.history.drills_fired:
                self._recorder.record(DrillFired(attempt=worker.attempt, drill=line.drill))
            case Trouble() if not line.fatal:
                self._note_trouble(worker.attempt, line)
            case Progress() | Phase():
                self._screen.progress(line)

    def _note_trouble(self, attempt: int, line: Trouble) -> None:
        known = {(i.opened.attempt, i.opened.cause, i.opened.step) for i in self.history.incidents}
        if (attempt, line.cause, line.step) not in known:
            self._recorder.record(
                open_incident(
                    self._run.path,
                    self.history,
                    attempt=attempt,
                    cause=line.cause,
                    step=line.step,
                    epoch=line.epoch,
                    message=line.message,
                    evidence=line.evidence,
                    fatal=False,
                    directory=line.incident,
                )
            )

    def check_echo(self, worker: Worker, echo: Started | AttemptStarted) -> None:
        """A remedy that is not in force has failed: loading a state can bring the old learning rate back.

        Of what a daemon recorded it is asked again: that one may have died before it looked.
        """
        spec = worker.spec
        wanted: Evidence = {"lr": spec.lr, "amp": spec.amp.value, "batch_size": spec.batch_size}
        got: Evidence = {"lr": echo.lr, "amp": echo.amp.value, "batch_size": echo.batch_size}
        wrong = [name for name in wanted if got[name] is not None and wanted[name] != got[name]]
        if wrong:
            what = ", ".join(f"{name} {got[name]} instead of {wanted[name]}" for name in wrong)
            message = f"the worker runs with {what}: its settings failed"
            worker.condemn(Condemned(Outcome.REMEDY_FAILED, Cause.WORKER_CRASHED, message, got), self._recorder.note)

    def finds_condemned(self, worker: Worker) -> bool:
        """Whether it is ended for what an earlier daemon has found, or did not live to look at."""
        why = noted_condemned(self._recorder.noted, worker.attempt)
        started = self.history.attempt(worker.attempt).started
        if why is not None:
            worker.condemn(why, self._recorder.note, stacks=why.outcome is Outcome.HUNG)
        elif started is not None:
            self.check_echo(worker, started)
        return worker.condemned is not None

    def find_moved(self) -> None:
        """Moves that a daemon made and did not live to record, or recorded and did not live to make."""
        for epoch in self.history.quarantined:
            rollback.finish_quarantine(self._run.path, epoch)
        for epoch in self.history.lineage():
            name = epoch.manifest.rsplit("/", 1)[-1]
            moved = self._run.checkpoints / "superseded" / f"{epoch.attempt:03d}" / name
            if moved.exists() and not (self._run.path / epoch.manifest).exists():
                where = str(moved.relative_to(self._run.path))
                self._recorder.record(
                    EpochMoved(attempt=epoch.attempt, epoch=epoch.epoch, manifest=where, reason="superseded")
                )

    def find_epochs(self, *, anyway: bool = False) -> None:
        """New commits: looked for when the directory's time stamp changed. All of it is read now and then, `anyway`."""
        changed = self._changed()
        if changed == self._checkpoints_changed and not anyway:
            return
        every = anyway or self._checkpoints_changed is None or self._gap
        self._checkpoints_changed = changed
        found = []
        for path in scan_manifests(self._run.checkpoints, skip=self._is_no_news) if every else self._next_manifests():
            name = str(path.relative_to(self._run.path))
            try:
                manifest = read_manifest(path)
            except CorruptCheckpointError as error:
                log.warning("%s; moved to quarantine", error)
                rollback.quarantine(self._run.path, path, None)
                self._gap = True
                continue
            if manifest.role is Role.EPOCH and (manifest.attempt, manifest.epoch) not in self.history.epochs:
                found.append(
                    EpochCommitted(
                        attempt=manifest.attempt,
                        epoch=manifest.epoch,
                        step=manifest.step,
                        manifest=name,
                        sha256=manifest.weights.sha256,
                        finite=manifest.finite,
                    )
                )
        if found:  # hundreds, where no daemon watched for days: as one, or it would be minutes before it hears anybody
            self._recorder.record_all(found)

    def sees_checkpoints(self) -> bool:
        """Whether there is anything to go back to."""
        return next(scan_manifests(self._run.checkpoints), None) is not None

    def _changed(self) -> int:
        """When the directory changed last. One that somebody deleted costs the epochs in it, and not the watch."""
        directory = self._run.checkpoints
        try:
            return directory.stat().st_mtime_ns
        except FileNotFoundError:
            directory.mkdir()  # raises where the run directory is gone too: that is for the disk to mend
        self._screen.say(f"{directory} is gone: it is made anew, and what it held is lost unless you put it back")
        self._recorder.record(DiskSeen(state="gone", free_bytes=free_bytes(self._run.path), needed_bytes=0))
        return directory.stat().st_mtime_ns

    def _next_manifests(self) -> Iterator[Path]:
        """Of the epochs behind the last one of this attempt: a worker commits them one after the other, and to look for
        their names costs the same however many thousand files lie there.
        """
        attempt = self.history.current
        if attempt is None:
            return
        name = f"checkpoint_epoch{self.history.trained_until(attempt) + 1}.json"
        while not self._is_no_news(name) and (path := self._run.checkpoints / name).exists():
            yield path
            name = f"checkpoint_epoch{int(path.stem.removeprefix('checkpoint_epoch')) + 1}.json"

    def _is_no_news(self, name: str) -> bool:
        """Asked of each of thousands of names, most of them of epochs that were taken long ago."""
        return not name.startswith("checkpoint_epoch") or f"checkpoints/{name}" in self.history.standing
