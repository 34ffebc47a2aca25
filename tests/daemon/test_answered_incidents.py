"""What an incident leaves behind is as large as a checkpoint: it stays as long as it is of use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from segwatch.daemon import looking, upkeep, verdict
from segwatch.daemon.events import Outcome
from segwatch.daemon.worker import Condemned, ending_of
from segwatch.trainer.contract import EXIT, Cause, ExitCode, ExitRecord
from segwatch.trainer.diagnosis import STATE

from ..faults.in_turns import Night


@pytest.fixture
def night(tmp_path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.close()


def state_of(night: Night, number: int) -> Path:
    return night.world.run.path / "incidents" / f"{number:03d}" / STATE


def breaks(night: Night, number: int) -> None:
    night.trains(3)
    night.meets_a_nan()
    night.replay()
    state_of(night, number).write_bytes(b"weights and moments")
    night.is_found("transient")


def test_the_state_at_an_incident_goes_when_it_is_answered_and_a_newer_one_is_there(night):
    tidy = lambda: upkeep.remove_surplus(night.world.run.path, night.history, night.world.config.checkpoints, set())  # noqa: E731
    breaks(night, 1)
    night.trains(3)
    assert night.history.open_incidents() == []
    tidy()
    assert state_of(night, 1).exists(), "the newest stays, for whoever looks in the morning"
    breaks(night, 2)
    tidy()
    assert [incident.number for incident in night.history.open_incidents()] == [2]
    assert [state_of(night, number).exists() for number in (1, 2)] == [False, True]


def test_a_run_whose_incident_is_repeated_says_so(night):
    night.trains(1)
    night.meets_a_nan()
    night.replay()
    seen = replace(looking.look_at(night.world.run), daemon_alive=True)
    assert verdict.status(seen)["state"] == "diagnosing"
    night.world.diagnosis_finds(finding="transient")


@pytest.mark.parametrize(
    ("code", "outcome", "cause"),
    [
        (ExitCode.UNSTABLE, Outcome.UNSTABLE, Cause.NAN_LOSS),
        (ExitCode.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY),
        (ExitCode.STOPPED, Outcome.HUNG, Cause.WORKER_HUNG),
        (ExitCode.CRASHED, Outcome.HUNG, Cause.WORKER_HUNG),
    ],
)
def test_a_worker_that_had_said_why_it_leaves_is_not_taken_for_a_hung_one(night, code, outcome, cause):
    spec = night.world.worker.spec
    record = ExitRecord(code=code, cause=cause, message="as it says", step=3, epoch=0, stepped=True)
    spec.directory.mkdir(parents=True, exist_ok=True)
    (spec.directory / EXIT).write_text(record.model_dump_json())
    hung = Condemned(Outcome.HUNG, Cause.WORKER_HUNG, "no progress", {})
    ended = ending_of(spec, None, asked=False, condemned=hung)
    assert (ended.outcome, ended.cause) == (outcome, cause)
