"""A process on one errand: its answers, its refusals, its death."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest
from segwatch.daemon.errands import send
from segwatch.errors import SegwatchError
from segwatch.evaluator.report import Request
from segwatch.evaluator.task import Cannot, PredictTask, Source, Spoiled

REQUEST = Request(manifest="m.json", attempt=1, epoch=1, sha256="0", splits=())
TASK = PredictTask(source=Source(run_dir=Path("/run"), checkpoint=REQUEST), targets=())
SPOILED = Spoiled(image="a.png", reason="cut short")


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def saying(*answers: str, then: str = "") -> tuple[str, ...]:
    return child(f"import sys, time\nfor line in {answers!r}: print(line, flush=True)\n{then}")


def test_the_task_arrives_and_the_answers_come_back():
    command = child(
        "import json, sys\n"
        "task = json.load(open(sys.argv[1]))\n"
        "print(json.dumps({'kind': 'spoiled', 'image': task['source']['run_dir'], 'reason': 'as asked'}))"
    )
    assert list(send(command, TASK)) == [Spoiled(image="/run", reason="as asked")]


def test_what_it_cannot_do_is_the_error_of_the_command_with_its_exit_code():
    cannot = Cannot(what="no device", where="evaluator.device", remedy="take cpu", exit_code=78)
    with pytest.raises(SegwatchError) as caught:
        list(send(saying(SPOILED.model_dump_json(), cannot.model_dump_json()), TASK))
    assert str(caught.value) == "evaluator.device: no device\n  -> take cpu"
    assert caught.value.exit_code == 78


def test_its_death_is_told_with_its_last_words():
    command = saying(
        then="print('first'); sys.stderr.write('Traceback\\nValueError: nobody knows\\n\\n'); sys.exit(70)"
    )
    with pytest.raises(SegwatchError, match=r"said what is no answer"):
        list(send(command, TASK))
    with pytest.raises(SegwatchError, match=r"died \(exit code 70\): ValueError: nobody knows"):
        list(send(saying(then="sys.stderr.write('ValueError: nobody knows\\n\\n'); sys.exit(70)"), TASK))
    with pytest.raises(SegwatchError, match="without a word"):
        list(send(saying(then="sys.exit(1)"), TASK))


def test_whoever_stops_listening_ends_it_and_nothing_of_it_is_left():
    answers = send(saying(SPOILED.model_dump_json(), then="time.sleep(600)"), TASK)
    assert next(answers) == SPOILED
    (process,) = (child for child in psutil.Process().children() if "sleep(600)" in " ".join(child.cmdline()))
    place = Path(process.cmdline()[-1]).parent
    assert place.is_dir()
    answers.close()
    deadline = time.monotonic() + 20
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not place.exists()
