from __future__ import annotations

import math

import pytest
from pydantic import ValidationError
from segwatch.durable import read_lines
from segwatch.trainer.contract import (
    JOURNAL_LINE,
    AttemptSpec,
    Cause,
    Drill,
    DrillKind,
    DrillLine,
    ExitCode,
    Finished,
    Phase,
    Progress,
    Trouble,
)
from segwatch.trainer.journal import Journal

PROGRESS = Progress(
    time=1.0,
    step=3,
    epoch=1,
    step_in_epoch=3,
    loss=0.5,
    grad_norm=None,
    lr=1e-4,
    images_per_second=8.0,
    p99_step_seconds=0.2,
    nonfinite=("grad_norm",),
)
TROUBLE = Trouble(
    time=1.0, cause=Cause.NAN_LOSS, step=3, epoch=1, message="NaN", evidence={"loss": "nan", "norm": 1.5}, fatal=True
)
LINES = [
    PROGRESS,
    TROUBLE,
    Phase(time=1.0, phase="loading", done=3, total=9),
    DrillLine(time=2.0, drill=Drill.parse("kill@7")),
    Finished(time=3.0, outcome="stopped", epoch=0, step=3),
]


def test_a_journal_is_read_back_as_it_was_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for line in LINES:
        journal.write(line)
    journal.close()
    raw, _ = read_lines(tmp_path / "journal.jsonl")
    assert [JOURNAL_LINE.validate_json(line) for line in raw] == LINES


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_has_a_last_line(tmp_path, code):
    journal = Journal(tmp_path / "journal.jsonl", clock=lambda: 5.0)
    journal.finished(code)
    journal.close()
    (line,), _ = read_lines(tmp_path / "journal.jsonl")
    assert JOURNAL_LINE.validate_json(line).time == 5.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_line_refuses_numbers_that_json_does_not_have(value):
    with pytest.raises(ValidationError):
        Progress.model_validate(PROGRESS.model_dump() | {"loss": value})
    with pytest.raises(ValidationError):
        Trouble.model_validate(TROUBLE.model_dump() | {"evidence": {"loss": value}})


def test_a_spec_survives_its_file(make_spec):
    spec = make_spec(drills=(Drill.parse("nan-loss@30"),), resume_from="checkpoints/checkpoint_epoch2.json")
    assert AttemptSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("text", ["nan-loss", "nan-loss@0", "nan-loss@x", "flood@3", "@3", ""])
def test_a_drill_that_cannot_be_is_refused_with_the_kinds_that_can(text):
    with pytest.raises(ValueError, match="poison-batchnorm"):
        Drill.parse(text)
    assert str(Drill.parse("hang@12")) == "hang@12"
    assert Drill.parse("hang@12").kind is DrillKind.HANG
