"""`python -m segwatch.trainer SPEC`: the worker process, from its first signal handler to its exit code.

Knows nothing about training. It never looks at its parent: the daemon may die, and training goes on.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from ..durable import write_text
from ..errors import ConfigError, SegwatchError
from .contract import EXIT, JOURNAL, LOG, WORKER_LOCK_FD, AttemptSpec, Cause, ExitCode, ExitRecord, Trouble
from .exhaustion import is_out_of_memory
from .journal import Journal
from .own_log import keep_short

log = logging.getLogger("segwatch.trainer")


class StopFlag:
    """Set by SIGTERM, read at step boundaries."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True


def main(arguments: list[str]) -> int:
    """Train what the spec says; the exit code is one of ExitCode."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    stop = StopFlag()
    signal.signal(signal.SIGTERM, stop.ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which then asks
    keep_lock_open()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if len(arguments) != 1:
        log.error("usage: python -m segwatch.trainer SPEC")
        return ExitCode.PERMANENT
    return run(Path(arguments[0]), stop)


def run(spec_path: Path, stop: Callable[[], bool]) -> ExitCode:
    """Train, and leave exit.json and the journal's last line beside the spec, whatever happens."""
    directory = spec_path.parent
    journal = Journal(directory / JOURNAL)
    short_enough = keep_short(directory / LOG)
    try:
        record = attempt(spec_path, journal, stop)
    except Exception as error:
        # Boundary: whatever it was, it becomes a record that the daemon can read, with its traceback in the log.
        log.exception("the worker leaves")
        record = explain(error, journal)
        if not journal.told_fatal:
            tell(record, journal)
    try:
        journal.finished(record.code)
        journal.close()
    finally:
        short_enough.set()
        write_text(directory / EXIT, record.model_dump_json(indent=1) + "\n")
    log.info("%s: %s", record.code.name.lower(), record.message)
    return record.code


def attempt(spec_path: Path, journal: Journal, stop: Callable[[], bool]) -> ExitRecord:
    """Read the spec and train. torch is imported here, so that signals and the log work while it loads."""
    spec = read_spec(spec_path)
    from .loop import train

    return train(spec, journal, stop=stop)


def read_spec(path: Path) -> AttemptSpec:
    try:
        return AttemptSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"not an attempt's spec: {error}", where=path, remedy="let segwatch write it") from error


def explain(error: Exception, journal: Journal) -> ExitRecord:
    """What an exception means to the daemon."""
    code, cause = classify(error)
    reached = journal.reached
    return ExitRecord(
        code=code,
        cause=cause,
        message=str(error) or type(error).__name__,
        step=reached.step,
        epoch=reached.epoch,
        stepped=reached.stepped,
        traceback="".join(traceback.format_exception(error)),
    )


def classify(error: Exception) -> tuple[ExitCode, Cause | None]:
    if isinstance(error, SegwatchError | ImportError):
        return ExitCode.PERMANENT, None
    if is_out_of_memory(error):
        return ExitCode.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY
    return ExitCode.CRASHED, Cause.WORKER_CRASHED


def tell(record: ExitRecord, journal: Journal) -> None:
    """The `trouble` line of an exception; a permanent mistake has none, its exit record says all."""
    if record.cause is None:
        return
    journal.write(
        Trouble(
            time=journal.now(),
            cause=record.cause,
            step=record.step + 1,
            epoch=record.epoch + 1,
            message=record.message,
            fatal=True,
        )
    )


def keep_lock_open() -> None:
    """The daemon opened and locked it; whatever this process starts shall hold it too, so that free means free."""
    if descriptor := os.environ.get(WORKER_LOCK_FD):
        os.set_inheritable(int(descriptor), True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
