"""Sends a process on one errand and hears what comes of it: the daemon's end of `evaluator.errand`. No torch.

Knows nothing about what the errand is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from ..errors import SegwatchError
from ..evaluator.task import TASK_ANSWER, Cannot, ExportTask, PredictTask, TaskAnswer

PREDICT = (sys.executable, "-P", "-m", "segwatch.evaluator.predict")
EXPORT = (sys.executable, "-P", "-m", "segwatch.evaluator.export")
LAST_WORDS = 2000
"""Bytes of its log that are looked at when it died."""


def send(command: Sequence[str], task: PredictTask | ExportTask) -> Iterator[TaskAnswer]:
    """Its answers as they come. Raises SegwatchError where it cannot do the task, and where it died over it.

    Whatever ends this iterator ends the process: its input is closed, which it takes as a word to leave.
    """
    with tempfile.TemporaryDirectory(prefix="segwatch-") as place:
        spec, log = Path(place) / "task.json", Path(place) / "log"
        spec.write_text(task.model_dump_json())
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*command, str(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            yield from _heard(process)
            if process.wait() != 0:
                raise SegwatchError(f"the process at work died (exit code {process.returncode}): {_last(log)}")
        finally:
            process.kill()
            with process:
                pass


def _heard(process: subprocess.Popen[bytes]) -> Iterator[TaskAnswer]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            answer = TASK_ANSWER.validate_json(line)
        except ValidationError as error:
            raise SegwatchError(f"the process at work said what is no answer: {line[:200]!r}") from error
        if isinstance(answer, Cannot):
            failed = SegwatchError(answer.what, where=answer.where, remedy=answer.remedy)
            failed.exit_code = answer.exit_code
            raise failed
        yield answer


def _last(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LAST_WORDS))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
