"""The daemon's end of the evaluator: one request at a time, a time limit, a new process when one dies.

Knows how to ask and to be answered; what an answer means for the run is the supervisor's.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from ..durable import write_text
from ..errors import ConfigError, SegwatchError
from ..evaluator.config import EvaluatorConfig
from ..evaluator.report import ANSWER, EvaluatorSpec, Ready, Request, Unable
from ..rotating import rotate_if_long
from .inbox import EvaluatorExited, EvaluatorSaid, Inbox
from .rundir import LOCK

log = logging.getLogger(__name__)
RESTART_SECONDS = (0.0, 2.0, 10.0)
"""Waits before an evaluator that died without being ready is started again; after the last it counts as unable."""


def spec_for(
    run_dir: Path, cache_dir: Path, config: EvaluatorConfig, *, data_lock: str = LOCK, files: str | None = None
) -> EvaluatorSpec:
    """What an evaluator of the run (or of the output) at `run_dir` is started with."""
    return EvaluatorSpec(
        run_dir=run_dir,
        data_lock=data_lock,
        files=files,
        cache_dir=cache_dir,
        device=config.device,
        batch_size=None if config.batch_size == "auto" else config.batch_size,
        threads=config.threads,
        release_gpu=config.release_gpu,
        resolution=config.resolution,
        window=config.window,
        overlap=config.overlap,
    )


class Scorer:
    """Owns the evaluator process. All calls come from the supervisor's thread."""

    def __init__(
        self,
        spec: EvaluatorSpec,
        *,
        command: Sequence[str],
        inbox: Inbox,
        timeout_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._command = command
        self._inbox = inbox
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._generation = 0
        self._heard_at = 0.0
        self._not_before = 0.0
        self._ready = False
        self._early_deaths = 0
        self._closing = False
        self.in_flight: Request | None = None
        self.refusal: str | None = None
        """Why it says that it cannot score anything: configuration or data, so trying again cannot help."""

    @property
    def unable(self) -> str | None:
        """Why nothing can be scored until a person looks: it says so itself, or died several times before it began."""
        if self.refusal is not None:
            return self.refusal
        if self._early_deaths >= len(RESTART_SECONDS):
            return "the evaluator does not start; see evaluator.log"
        return None

    def require_able(self) -> None:
        """Raises ConfigError or SegwatchError where it can score nothing: the fault is then no epoch's."""
        if self.refusal is not None:
            raise ConfigError(f"the evaluator cannot score anything: {self.refusal}", where=self._spec.run_dir)
        if self.unable is not None:
            raise SegwatchError(self.unable, where=self._spec.run_dir)

    @property
    def idle(self) -> bool:
        return self._ready and self.in_flight is None

    def tend(self) -> None:
        """Start it when it should run and does not; kill it when it has not been heard of for too long."""
        now = self._clock()
        if self._process is None:
            if not self._closing and self.unable is None and now >= self._not_before:
                self._start(now)
        elif (self.in_flight is not None or not self._ready) and now - self._heard_at > self._timeout_seconds:
            log.warning("the evaluator said nothing for %.0f s: killed", now - self._heard_at)
            self._process.kill()
            self._heard_at = now

    def ask(self, request: Request) -> None:
        assert self.idle
        assert self._process is not None
        assert self._process.stdin is not None
        self.in_flight = request
        self._heard_at = self._clock()
        try:
            self._process.stdin.write((request.model_dump_json() + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            log.warning("the evaluator died while it was being asked")  # its exit is on its way to the inbox

    def heard(self, said: EvaluatorSaid) -> bool:
        """Whether the answer is of the process that runs now. Keeps the time limit and the queue going."""
        if said.generation != self._generation:
            return False
        self._heard_at = self._clock()
        if isinstance(said.answer, Ready):
            self._ready, self._early_deaths = True, 0
        elif isinstance(said.answer, Unable):
            self.refusal = said.answer.message
        return True

    def answered(self) -> None:
        self.in_flight = None

    def died(self, exited: EvaluatorExited) -> Request | None:
        """Note the end of the process; returns the request that it left unanswered."""
        if exited.generation != self._generation:
            return None
        if not self._ready:
            self._not_before = self._clock() + RESTART_SECONDS[min(self._early_deaths, len(RESTART_SECONDS) - 1)]
            self._early_deaths += 1
        unanswered, self.in_flight = self.in_flight, None
        self._forget()
        return unanswered

    def close(self) -> None:
        """End of the input tells it to leave; it dies with the daemon in any case."""
        self._closing = True
        process = self._process
        self._forget()
        if process is not None:
            process.kill()
            process.wait()

    def _start(self, now: float) -> None:
        run_dir = self._spec.run_dir
        spec = run_dir / "evaluator.json"
        write_text(spec, self._spec.model_dump_json(indent=1) + "\n")
        rotate_if_long(run_dir / "evaluator.log")
        with (run_dir / "evaluator.log").open("ab") as errors:
            self._process = subprocess.Popen(
                [*self._command, str(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._generation += 1
        self._heard_at, self._ready = now, False
        assert self._process.stdout is not None
        threading.Thread(
            target=_listen,
            args=(self._process, self._process.stdout, self._generation, self._inbox),
            name=f"evaluator-{self._generation}",
            daemon=True,
        ).start()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                log.debug("the evaluator was gone before its input was closed")
        self._process, self._ready = None, False


def _listen(process: subprocess.Popen[bytes], output: IO[bytes], generation: int, inbox: Inbox) -> None:
    with output:
        for line in output:
            try:
                inbox.put(EvaluatorSaid(generation, ANSWER.validate_json(line)))
            except ValidationError:
                log.warning("the evaluator said something that is no answer: %r", line[:200])
    inbox.put(EvaluatorExited(generation, process.wait()))
