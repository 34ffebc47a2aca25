"""The process of one task: reads it, does it, tells what came of it, leaves. Knows nothing about what the task is.

Answers are JSON lines on standard output and nothing else; the end of the input means that nobody waits any more.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from ..errors import SegwatchError
from ..section import Record
from .__main__ import BACKGROUND_NICENESS, Teller, read_requests, take_standard_output
from .task import Cannot, TaskAnswer

EX_SOFTWARE = 70
Task = TypeVar("Task", bound=Record)

log = logging.getLogger(__name__)


def run(arguments: list[str], kind: type[Task], work: Callable[[Task], Iterable[TaskAnswer]]) -> int:
    """Do the task in the file that `arguments` name; returns the exit code of the process."""
    if len(arguments) != 1:
        sys.stderr.write(f"one argument: the file of a {kind.__name__}\n")
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; who asked says when to leave
    os.nice(BACKGROUND_NICENESS)
    tell = Teller(take_standard_output())
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    threading.Thread(target=read_requests, args=(SimpleQueue(),), name="input", daemon=True).start()
    try:
        task = kind.model_validate_json(Path(arguments[0]).read_bytes())
        for answer in answers(work(task)):
            tell(answer)
    except Exception:
        # Boundary: whoever asked shows the end of this log.
        log.exception("the task ended in a way that nobody foresaw")
        return EX_SOFTWARE
    return 0


def answers(work: Iterable[TaskAnswer]) -> Iterable[TaskAnswer]:
    """Those of `work`, and where it cannot go on, why."""
    try:
        yield from work
    except SegwatchError as error:
        yield Cannot(what=error.what, where=error.where, remedy=error.remedy, exit_code=error.exit_code)


def set_threads(threads: int) -> None:
    """Of torch; 0 takes half the cores, so that a training that runs keeps the other half."""
    import torch

    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // 2))
