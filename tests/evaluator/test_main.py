"""The evaluator as a process of its own; its protocol in this process, without torch."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from segwatch.evaluator.__main__ import Teller, main
from segwatch.evaluator.report import ANSWER, Answer, Done, Ready, Refused, Scored, Working
from segwatch.trainer.unet import UNet

DEADLINE_SECONDS = 60


@contextmanager
def evaluator(spec: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "segwatch.evaluator", str(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def answers_until(process: subprocess.Popen[bytes], kind: type[Any]) -> list[Answer]:
    """Every line of standard output must be an answer: anything else fails here."""
    answers: list[Answer] = []
    assert process.stdout is not None
    while not answers or not isinstance(answers[-1], kind):
        line = process.stdout.readline()
        assert line, process.communicate()[1].decode()
        answers.append(ANSWER.validate_json(line))
    return answers


def test_a_process_serves_two_requests_and_leaves_in_mid_work_when_the_daemon_is_gone(
    tiny_run: Any, make_network: Callable[..., UNet]
) -> None:
    spec = tiny_run.directory / "spec.json"
    spec.write_text(tiny_run.spec().model_dump_json())
    good = tiny_run.save(make_network())
    gone = good.model_copy(update={"manifest": "checkpoints/checkpoint_epoch9.json"})
    endless = good.model_copy(update={"splits": ("test",) * 100_000})
    with evaluator(spec) as process:
        assert process.stdin is not None
        loading = answers_until(process, Ready)
        assert loading[0] == Working(what="loading", done=0, total=0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)

        process.stdin.write(f"{gone.model_dump_json()}\n{good.model_dump_json()}\n".encode())
        process.stdin.flush()
        assert [type(answer) for answer in answers_until(process, Done)] == [Refused, Done]
        scored = [answer for answer in answers_until(process, Done) if isinstance(answer, Scored)]
        assert [answer.split for answer in scored] == ["val", "test"]

        process.stdin.write(f"{endless.model_dump_json()}\n".encode())
        process.stdin.flush()
        answers_until(process, Scored)
        _, complaints = process.communicate(timeout=DEADLINE_SECONDS)  # closes the input
        assert process.returncode == 0
        assert b"Traceback" not in complaints


def test_a_device_that_is_not_there_ends_with_the_code_for_configuration(tiny_run: Any) -> None:
    spec = tiny_run.directory / "spec.json"
    spec.write_text(tiny_run.spec(device="cuda:64").model_dump_json())
    with evaluator(spec) as process:
        assert process.wait(DEADLINE_SECONDS) == 78
        assert process.stderr is not None
        complaint = process.stderr.read().decode()
    assert "evaluator.device: there is no device 'cuda:64'" in complaint
    assert "Traceback" not in complaint


def test_what_the_daemon_reads_of_the_evaluator_leaves_torch_out() -> None:
    modules = "evaluator.report", "evaluator.metrics", "evaluator.config", "evaluator.__main__", "checkpoints.retention"
    program = f"import sys, {', '.join(f'segwatch.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_anyone_else_prints_does_not_get_between_the_answers() -> None:
    program = (
        "import os; from segwatch.evaluator.__main__ import take_standard_output; answers = take_standard_output();"
        "print('python'); os.write(1, b'library'); answers.write('answer')"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout == "answer"
    assert "python" in ended.stderr
    assert "library" in ended.stderr


def test_a_call_without_a_spec_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m segwatch.evaluator SPEC" in capsys.readouterr().err


def test_working_lines_come_about_once_a_second_and_no_other_answer_is_held_back() -> None:
    now = 0.0
    written = io.StringIO()
    tell = Teller(written, clock=lambda: now)
    for now in (0.0, 0.3, 0.9, 1.1, 1.5, 2.2):
        tell(Working(what="test", done=round(10 * now), total=100))
    tell(Done(attempt=1, epoch=1))
    tell(Done(attempt=1, epoch=2))
    answers = [ANSWER.validate_json(line) for line in written.getvalue().splitlines()]
    assert [answer.done for answer in answers if isinstance(answer, Working)] == [0, 11, 22]
    assert [answer.epoch for answer in answers if isinstance(answer, Done)] == [1, 2]
