"""The evaluator's process: `python -m segwatch.evaluator SPEC`, requests on standard input, answers on standard output.

Answers are JSON lines and nothing else; whatever else is printed, by whichever library, goes to standard error. The end
of the input means that the daemon is gone, and then this process leaves at once, whatever it is doing.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from ..errors import ConfigError, SegwatchError
from ..section import Record
from .report import EvaluatorSpec, Ready, Request, Unable, Working

BACKGROUND_NICENESS = 10
"""Training comes first."""
WORKING_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    """Serve requests until the input ends. Returns an exit code only where it cannot serve any."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m segwatch.evaluator SPEC\n")
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the daemon says when to leave
    os.nice(BACKGROUND_NICENESS)
    answers = take_standard_output()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("segwatch.evaluator").setLevel(logging.INFO)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), name="requests", daemon=True).start()
    tell = Teller(answers)
    try:
        serve(EvaluatorSpec.model_validate_json(Path(arguments[0]).read_bytes()), requests, tell)
    except SegwatchError as error:
        sys.stderr.write(f"{error}\n")
        if isinstance(error, ConfigError):
            tell(Unable(message=str(error)))
        return error.exit_code
    return 0


def serve(spec: EvaluatorSpec, requests: SimpleQueue[bytes], tell: Teller) -> None:
    """Load everything, say Ready, then answer request after request, for ever.

    Raises SegwatchError where the spec cannot be served, and ValueError for a line that is no request: a daemon that
    writes such a line would wait for its answer for ever.
    """
    started = time.monotonic()
    tell(Working(what="loading", done=0, total=0))
    import torch

    from .evaluate import Evaluator, describe

    torch.set_num_threads(spec.threads or max(1, len(os.sched_getaffinity(0)) // 2))
    evaluator = Evaluator(spec, progress=lambda done, total: tell(Working(what="loading", done=done, total=total)))
    tell(Ready(device=describe(evaluator.device), seconds=round(time.monotonic() - started, 3)))
    while True:
        for answer in evaluator.evaluate(Request.model_validate_json(requests.get())):
            tell(answer)
        if spec.release_gpu and requests.empty():
            evaluator.release()


class Teller:
    """Writes answers, and of the Working lines about one a second: they only say that it is alive."""

    def __init__(self, answers: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._answers = answers
        self._clock = clock
        self._last_working: float | None = None

    def __call__(self, answer: Record) -> None:
        if isinstance(answer, Working):
            now = self._clock()
            if self._last_working is not None and now - self._last_working < WORKING_SECONDS:
                return
            self._last_working = now
        try:
            self._answers.write(answer.model_dump_json() + "\n")
            self._answers.flush()
        except BrokenPipeError:
            leave()


def take_standard_output() -> IO[str]:
    """The standard output for answers alone: descriptor 1 itself becomes standard error, for C libraries too."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def read_requests(requests: SimpleQueue[bytes]) -> None:
    """Queue each line of standard input; leave at its end."""
    # Unbuffered: a thread that waits inside sys.stdin holds a lock that the interpreter needs in order to end.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            if line.endswith(b"\n"):
                requests.put(line)
    leave()


def leave() -> None:
    """The daemon is gone. No clean-up: reports appear whole or not at all, and a forward pass may take minutes."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
