"""What is read of journals: the right moments, at a cost that does not grow with the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from segwatch.daemon import measuring
from segwatch.daemon.events import AttemptEnded, AttemptSpawned, Outcome, ProbationEnded
from segwatch.daemon.measuring import measure, moment_of_step
from segwatch.trainer.contract import Cause, Trouble


def progress(step: int, time: float, pace: float = 10.0) -> str:
    line = {"kind": "progress", "time": time, "step": step, "epoch": 1, "step_in_epoch": step, "loss": 1.0}
    return json.dumps(
        {**line, "grad_norm": 1.0, "lr": 1e-3, "images_per_second": pace, "p99_step_seconds": 0.1, "skipped_steps": 0}
    )


def journal(run_dir: Path, attempt: int, *lines: str) -> Path:
    place = run_dir / "attempts" / f"{attempt:03d}"
    place.mkdir(parents=True)
    (place / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return place / "journal.jsonl"


@pytest.mark.parametrize(
    ("step", "moment"), [(1, 100.0), (5, 100.0), (6, 101.0), (10, 101.0), (11, 102.0), (15, 102.0)]
)
def test_the_moment_of_a_step_is_that_of_the_first_line_with_so_many_behind_it(tmp_path, step, moment):
    phase = '{"kind":"phase","time":1.0,"phase":"loading"}'
    path = journal(tmp_path, 1, phase, progress(5, 100.0), phase, '{"torn', progress(10, 101.0), progress(15, 102.0))
    assert moment_of_step(path, step) == moment


def test_a_step_that_was_not_done_has_no_moment(tmp_path):
    assert moment_of_step(journal(tmp_path, 1, progress(5, 100.0)), 6) is None
    assert moment_of_step(tmp_path / "no journal", 1) is None


def test_a_long_journal_is_looked_into_a_few_times(tmp_path, monkeypatch):
    path = journal(tmp_path, 1, *(progress(step, 1000.0 + step) for step in range(1, 20_001)))
    looks = []
    found = measuring._stepped
    monkeypatch.setattr(measuring, "_stepped", lambda file, offset: looks.append(offset) or found(file, offset))
    assert moment_of_step(path, 12_345) == 13_345.0
    assert len(looks) < 40


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def dies(run, step: int) -> None:
    ended = AttemptEnded(
        attempt=run.attempt,
        outcome=Outcome.KILLED,
        cause=Cause.WORKER_CRASHED,
        message="m",
        step=step,
        epoch=0,
        stepped=True,
    )
    run.tell(ended)
    number = run.suffers(Cause.WORKER_CRASHED, step=step).number
    run.plans(incident=number, remedy="resume", resume_step=step - 2, resume_epoch=0)


def test_an_incident_is_measured_from_its_fault_to_where_the_run_is_as_far_as_before(run, tmp_path):
    dies(run, 6)
    journal(tmp_path, 1, progress(3, 10.0, pace=4.0), progress(6, 11.0, pace=5.0))
    journal(tmp_path, 2, progress(5, 20.0, pace=7.0), progress(6, 21.0, pace=7.0), progress(7, 22.0, pace=9.0))
    found = measure(tmp_path, run.history, run.history.incidents[0], onset_step=3)
    assert (found.fault_at, found.trains_at, found.caught_up_at) == (11.0, 20.0, 21.0)
    assert (found.pace_before, found.pace_after, found.onset_at) == (4.5, 7.0, 10.0)


def test_the_pace_after_is_that_of_the_beginning_and_stays_what_it_is(run, tmp_path):
    dies(run, 6)
    journal(tmp_path, 1, progress(6, 11.0))
    lines = [progress(5 + step, 20.0 + step, pace=7.0) for step in range(29)]
    path = journal(tmp_path, 2, *lines)
    measured = lambda: measure(tmp_path, run.history, run.history.incidents[0])  # noqa: E731
    assert not measured().pace_is_settled
    with path.open("a") as file:
        file.writelines(f"{progress(50 + step, 60.0 + step, pace=7.0 if step == 0 else 9.0)}\n" for step in range(99))
    assert (measured().pace_after, measured().pace_is_settled) == (7.0, True)


def test_what_taking_a_remedy_back_took_runs_from_its_start_to_where_the_run_was_as_far(run, tmp_path):
    dies(run, 6)
    for more in ({"undoes": "resume", "resume_step": 6}, {"puts_back": "resume", "remedy": "resume", "resume_step": 6}):
        stopped = {"outcome": "stopped", "cause": None, "message": "m", "epoch": 0, "stepped": True}
        run.tell(AttemptEnded.model_validate({"attempt": run.attempt, "step": 4 + run.attempt * 2, **stopped}))
        run.plans(**more)
        run.tell(AttemptSpawned(attempt=run.attempt, pid=1, create_time=1.0))
        if "undoes" in more:
            run.tell(ProbationEnded(attempt=run.attempt, incident=None, passed=False, because="low"))
    began = [run.history.attempt(number).spawned_at for number in (3, 4)]
    journal(tmp_path, 3, progress(8, began[0] + 2.0), progress(10, began[0] + 3.0))
    measured = lambda: measure(tmp_path, run.history, run.history.incidents[0])  # noqa: E731
    assert measured().undoing_seconds is None
    journal(tmp_path, 4, progress(7, began[1] + 2.0), progress(10, began[1] + 7.0))
    assert measured().undoing_seconds == 2.0 + 7.0


def test_what_a_fatal_trouble_says_is_the_moment_of_the_fault(run, tmp_path):
    dies(run, 6)
    said = Trouble(time=12.5, cause=Cause.NAN_LOSS, step=7, epoch=1, message="m", fatal=True)
    journal(tmp_path, 1, progress(6, 11.0), said.model_dump_json(), '{"kind":"phase","time":13.0,"phase":"saving"}')
    assert measure(tmp_path, run.history, run.history.incidents[0]).fault_at == 12.5


def test_an_attempt_that_dies_sooner_hands_the_catching_up_on_to_the_next_incident(run, tmp_path):
    """The second attempt never gets back to step 6; the third does, for the second incident."""
    dies(run, 6)
    dies(run, 5)
    journal(tmp_path, 1, progress(6, 11.0))
    journal(tmp_path, 2, progress(5, 20.0))
    journal(tmp_path, 3, progress(6, 30.0))
    first, second = (measure(tmp_path, run.history, incident) for incident in run.history.incidents)
    assert first.caught_up_at is None
    assert second.caught_up_at == 30.0


def test_journals_that_are_gone_leave_everything_unknown(run, tmp_path):
    dies(run, 6)
    assert measure(tmp_path, run.history, run.history.incidents[0]) == measuring.Measured(pace_is_settled=False)
