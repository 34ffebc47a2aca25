"""The process of one task, without torch: answers alone on standard output, an end for every end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from segwatch.evaluator.report import Request
from segwatch.evaluator.task import TASK_ANSWER, Cannot, PredictTask, Source, Spoiled, TaskAnswer

WORK = """\
import sys, time
from segwatch.errors import ConfigError
from segwatch.evaluator.errand import run
from segwatch.evaluator.task import PredictTask, Spoiled

def work(task):
    print("a library talks")
    yield Spoiled(image=str(task.source.run_dir), reason="as asked")
    {then}

sys.exit(run(sys.argv[1:], PredictTask, work))
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    request = Request(manifest="m.json", attempt=1, epoch=1, sha256="0", splits=())
    path = tmp_path / "task.json"
    path.write_text(PredictTask(source=Source(run_dir=Path("/run"), checkpoint=request), targets=()).model_dump_json())
    return path


def start(task: Path, then: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORK.format(then=then), str(task)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(child: subprocess.Popen[bytes]) -> tuple[int, list[TaskAnswer], str]:
    """Its exit code, its answers and its log; its input stays open until it is gone."""
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        lines, log = child.stdout.read().splitlines(), child.stderr.read().decode()
        return child.wait(timeout=60), [TASK_ANSWER.validate_json(line) for line in lines], log


FIRST = Spoiled(image="/run", reason="as asked")


def test_what_libraries_print_is_no_answer(task: Path) -> None:
    code, answers, log = end(start(task, "return"))
    assert (code, answers) == (0, [FIRST])
    assert "a library talks" in log


def test_a_mistake_of_a_person_is_an_answer_and_a_mistake_of_ours_a_traceback_and_70(task: Path) -> None:
    code, answers, _ = end(start(task, "raise ConfigError('no device', where='here', remedy='take cpu')"))
    assert (code, answers) == (0, [FIRST, Cannot(what="no device", where="here", remedy="take cpu", exit_code=78)])
    code, answers, log = end(start(task, "raise KeyError('nobody knows')"))
    assert (code, answers) == (70, [FIRST])
    assert "\nKeyError: 'nobody knows'\n" in log


def test_at_the_end_of_its_input_it_leaves_in_the_middle_of_its_work(task: Path) -> None:
    child = start(task, "time.sleep(600)")
    assert child.stdin is not None
    assert child.stdout is not None
    assert TASK_ANSWER.validate_json(child.stdout.readline()) == FIRST
    child.stdin.close()
    assert end(child)[0] == 0
