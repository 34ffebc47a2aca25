"""`segwatch replay`: repeats the diagnosis of an incident in the foreground, by the process that the daemon would use.

The run stays as it is: the replay works in `incidents/NNN/replays/TIME/`, on links to what the worker left. It holds
the worker's lock, so that nothing else uses the device meanwhile; on the CPU it may run beside a worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ..checkpoints.manifest import read_manifest
from ..durable import read_text, write_json
from ..errors import CorruptCheckpointError, RunHeldError, SegwatchError, UsageError
from ..plain import one_line
from ..trainer.contract import Cause
from ..trainer.diagnosis import DIAGNOSIS, DIAGNOSIS_LOG, DIAGNOSIS_SPEC, STATE, Diagnosis, DiagnosisSpec
from .diagnosing import BATCH, DIAGNOSIS_COMMAND, fallen_epoch, good_states
from .freezing import frozen_config
from .history import History
from .ledger_page import read_diagnosis
from .members import Incident
from .postmortem import REPLAY_COLUMNS, first_words, incident_dir, replay_rows
from .process import WorkerLock
from .rundir import RunDir
from .store import read_events
from .why import find_incident

REPLAYS = "replays"
LEFT = (BATCH, "worker.json", STATE)
SPEC_LIMIT_BYTES = 1 << 20
GRACE_SECONDS = 60.0
"""Beyond its own limit, for loading torch and for the replay that is under way."""
NICENESS = 10


@dataclass(frozen=True)
class Replayed:
    incident: Incident
    directory: Path
    diagnosis: Diagnosis | None
    """`None` where the process left no answer."""
    before: Diagnosis | None
    """What the daemon's own replay found, where there was one."""


def replay(
    run: RunDir,
    number: int,
    *,
    cpu: bool,
    seconds: float | None,
    console: Console,
    command: Sequence[str] = DIAGNOSIS_COMMAND,
) -> Replayed:
    """Raises UsageError where there is nothing to repeat, RunHeldError while a worker has the device."""
    history = History.of(read_events(run.path))
    incident = find_incident(history, number, run)
    source = incident_dir(run.path, number)
    fallen = fallen_epoch(run.path, history, incident)
    if fallen is None and not (source / BATCH).exists():
        raise _nothing_to_repeat(incident, source)
    limit = frozen_config(run).recovery.diagnosis_seconds if seconds is None else seconds
    with _device(run, free=not cpu) as lock:
        place = _prepared(source)
        good = tuple(_good(run.path, history, incident, console))
        spec = DiagnosisSpec(
            run_dir=run.path,
            incident=number,
            attempt=incident.opened.attempt if fallen is None else fallen.attempt,
            directory=str(place.relative_to(run.path)),
            good=good,
            fallen=None if fallen is None else fallen.manifest,
            seconds=limit,
            device="cpu" if cpu else None,
        )
        write_json(place / DIAGNOSIS_SPEC, spec.model_dump(mode="json"))
        _carry_out([*command, str(place / DIAGNOSIS_SPEC)], place, lock, limit, console)
    return Replayed(incident, place, read_diagnosis(place), read_diagnosis(source))


def _nothing_to_repeat(incident: Incident, source: Path) -> UsageError:
    if incident.opened.cause is Cause.MIOU_COLLAPSE:
        return UsageError(
            f"the epoch of incident {incident.number} whose scores fell is gone",
            where=source,
            remedy="old epochs go in time (checkpoints.keep_epochs); `segwatch why` says what was found then",
        )
    return UsageError(
        f"incident {incident.number} left no batch to repeat",
        where=source,
        remedy="only a worker that leaves by itself leaves one: not one that was killed or stood still",
    )


def say(replayed: Replayed, console: Console) -> None:
    """What it showed, beside what was found when it happened."""
    found, number = replayed.diagnosis, replayed.incident.number

    def line(words: str) -> None:
        console.print(words, soft_wrap=True, highlight=False, markup=False)

    if found is None:
        line(f"incident {number:03d}: the replay left no answer; its words: {replayed.directory / DIAGNOSIS_LOG}")
        return
    line(f"\nincident {number:03d}, replayed on {one_line(found.device)} in {found.seconds:.1f} s: {found.finding}")
    line(one_line(found.because))
    if found.replays:
        table = Table(box=None, pad_edge=False, padding=(1, 2, 0, 0), header_style="bold")
        for column in REPLAY_COLUMNS:
            table.add_column(column, overflow="fold")
        for row in replay_rows(found.replays):
            table.add_row(*(one_line(cell) for cell in row))
        console.print(table)
        line("")
    if found.first_nonfinite is not None:
        line(first_words(found.first_nonfinite).replace("`", ""))
    for file in found.files:
        picture = "" if file.picture is None else f" (picture: {replayed.directory / Path(file.picture).name})"
        line(f"bad file: {one_line(file.image)}: {one_line(file.what)}{picture}")
    if replayed.before is not None:
        same = "the same" if replayed.before.finding is found.finding else "another verdict"
        line(f"when it happened, the replay said: {replayed.before.finding} ({same})")
    line(f"written: {replayed.directory / DIAGNOSIS}; nothing of the run was changed")


def as_json(replayed: Replayed) -> dict[str, Any]:
    return {
        "incident": replayed.incident.number,
        "directory": str(replayed.directory),
        "diagnosis": replayed.diagnosis and replayed.diagnosis.model_dump(mode="json"),
        "before": replayed.before and replayed.before.finding.value,
    }


# --- one replay ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _device(run: RunDir, *, free: bool) -> Iterator[int | None]:
    """The worker's lock, where the device has to be `free`; it is let go once nothing of the replay runs any more."""
    if not free:
        yield None
        return
    lock = WorkerLock(run.path).acquire()
    if lock is None:
        raise RunHeldError(
            "a worker of this run, or a replay, has the device",
            where=run.path,
            remedy="wait until it is over, end it with `segwatch stop`, or replay on the CPU with --cpu",
        )
    try:
        yield lock
    finally:
        os.close(lock)


def _prepared(source: Path) -> Path:
    """A directory of its own, in which what the worker left can be read."""
    base = source / REPLAYS
    base.mkdir(exist_ok=True)
    begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (begun if number == 1 else f"{begun}-{number}" for number in range(1, 100))
    place = next(base / name for name in names if not (base / name).exists())
    place.mkdir()
    for name in LEFT:
        if (source / name).exists():
            (place / name).symlink_to(Path("..") / ".." / name)
    return place


def _good(run_dir: Path, history: History, incident: Incident, console: Console) -> Iterator[str]:
    """The good checkpoints that the first replay began from, wherever they are now; those that are gone are told of."""
    opened = incident.opened
    asked = _asked_before(incident_dir(run_dir, incident.number))
    wanted = good_states(run_dir, history, opened) if asked is None else list(asked.good)
    for manifest in wanted:
        found = _where_it_is(run_dir, PurePosixPath(manifest).name, opened.attempt)
        if found is None:
            words = f"{manifest} of that time is gone, or its training state is: replayed without it"
            console.print(words, soft_wrap=True, highlight=False, markup=False)
        else:
            yield str(found.relative_to(run_dir))


def _asked_before(source: Path) -> DiagnosisSpec | None:
    try:
        return DiagnosisSpec.model_validate_json(read_text(source / DIAGNOSIS_SPEC, limit=SPEC_LIMIT_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SegwatchError(
            "not the spec of a diagnosis", where=source / DIAGNOSIS_SPEC, remedy="move it away; a new one is made"
        ) from error


def _where_it_is(run_dir: Path, name: str, attempt: int) -> Path | None:
    """A roll-back moves checkpoints, and a later attempt may have one of the same name."""
    directory = run_dir / "checkpoints"
    moved = (directory / "superseded" / f"{number:03d}" for number in range(attempt, 0, -1))
    for path in (directory / name, *(place / name for place in moved)):
        with contextlib.suppress(CorruptCheckpointError, FileNotFoundError):
            manifest = read_manifest(path)
            state = manifest.state
            if manifest.attempt <= attempt and state is not None and (path.parent / state.name).exists():
                return path
    return None


def _carry_out(command: Sequence[str], place: Path, lock: int | None, limit: float, console: Console) -> None:
    """Show its words as they come, and keep them. Whatever ends this ends the process."""
    with (place / DIAGNOSIS_LOG).open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        late = threading.Timer(limit + GRACE_SECONDS, _end, (child,))
        late.start()
        try:
            if lock is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(child.pid).nice(NICENESS)  # what trains goes first
            assert child.stdout is not None
            for words in child.stdout:
                log.write(words)
                told = one_line(words.decode(errors="replace"))
                console.print(told, soft_wrap=True, highlight=False, markup=False)
        finally:
            late.cancel()
            if child.poll() is None:
                _end(child)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
