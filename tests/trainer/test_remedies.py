"""What a remedy changes in an attempt, and what an incident leaves behind for it: whole attempts in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segwatch.checkpoints.files import load_state, load_weights
from segwatch.checkpoints.manifest import Manifest, read_manifest
from segwatch.durable import read_lines
from segwatch.trainer import loop
from segwatch.trainer.__main__ import run
from segwatch.trainer.contract import JOURNAL_LINE, AttemptSpec, Drill, ExitCode, ExitRecord, JournalLine

STEPS_PER_EPOCH = 4


def run_spec(spec: AttemptSpec, stop: Callable[[], bool] = lambda: False) -> ExitCode:
    return run(spec.directory / "spec.json", stop)


def lines(spec: AttemptSpec, kind: str) -> list[JournalLine]:
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    return [line for line in map(JOURNAL_LINE.validate_json, raw) if line.kind == kind]


def checkpoint(spec: AttemptSpec, stem: str) -> tuple[Path, Manifest]:
    directory = spec.run_dir / "checkpoints"
    return directory, read_manifest(directory / f"{stem}.json")


def assert_bit_identical(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


class Steps:
    """Every step that is taken: its rate and its images. Says stop after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int = 1000) -> None:
        self.rates: list[float] = []
        self.names: list[str] = []
        self._stop_after = stop_after
        take = loop.Stepper.take

        def watched(stepper, step, batches, **kwargs):
            self.rates.append(stepper._optimizer.param_groups[0]["lr"])
            seen = list(batches)
            self.names += [name for batch in seen for name in batch.names]
            return take(stepper, step, seen, **kwargs)

        monkeypatch.setattr(loop.Stepper, "take", watched)

    def stop(self) -> bool:
        return len(self.rates) >= self._stop_after


def rates(spec: AttemptSpec, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    with monkeypatch.context() as patched:
        steps = Steps(patched)
        run_spec(spec)
    return steps.rates


def test_the_rate_warms_up_from_the_resume_point_and_a_resume_on_the_way_goes_on(make_spec, monkeypatch):
    first = make_spec(epochs=1)
    run_spec(first)
    warming = make_spec(
        attempt=2, epochs=3, warm_up_steps=8, resume_from="checkpoints/checkpoint_epoch1.json", recovery_seconds=300.0
    )
    assert rates(warming, monkeypatch) == pytest.approx([0.01 * share / 8 for share in range(1, 9)])
    for warm_up_steps in (0, 8):  # whether it is said again or not
        resumed = make_spec(
            attempt=3, epochs=3, warm_up_steps=warm_up_steps, resume_from="checkpoints/checkpoint_epoch2.json"
        )
        assert rates(resumed, monkeypatch) == pytest.approx([0.01 * share / 8 for share in range(5, 9)])
    lowered = make_spec(
        attempt=4, epochs=3, warm_up_steps=8, lr=0.005, resume_from="checkpoints/checkpoint_epoch2.json"
    )
    assert rates(lowered, monkeypatch) == pytest.approx([0.005 * share / 8 for share in range(1, 5)])


def test_left_out_images_are_stood_in_for_and_a_resumed_epoch_has_the_same_stand_ins(make_spec, monkeypatch):
    values = {"epochs": 1, "left_out": ("image2.png", "image5.png")}
    whole, stopped = make_spec(run="whole", **values), make_spec(run="stopped", **values)
    with monkeypatch.context() as patched:
        steps = Steps(patched)
        assert run_spec(whole) == ExitCode.FINISHED
    assert len(steps.names) == 7
    assert not {"image2.png", "image5.png"} & set(steps.names)
    assert len(lines(whole, "checkpoint")) == 2
    assert lines(whole, "started")[0].steps_per_epoch == STEPS_PER_EPOCH

    with monkeypatch.context() as patched:
        run_spec(stopped, Steps(patched, stop_after=2).stop)
    resumed = make_spec(run="stopped", attempt=2, resume_from="checkpoints/recovery_step2.json", **values)
    assert run_spec(resumed) == ExitCode.FINISHED
    ends = [load_weights(*checkpoint(spec, "checkpoint_epoch1")) for spec in (whole, resumed)]
    assert_bit_identical(*ends)


def test_an_image_that_the_split_does_not_have_cannot_be_left_out(make_spec):
    spec = make_spec(left_out=("elsewhere.png",))
    assert run_spec(spec) == ExitCode.PERMANENT
    record = ExitRecord.model_validate_json((spec.directory / "exit.json").read_text())
    assert "elsewhere.png" in record.message


def test_an_incident_leaves_weights_and_moments_as_they_entered_the_step(make_spec, monkeypatch):
    broken = make_spec(run="broken", drills=(Drill.parse("nan-loss@6"),))
    assert run_spec(broken) == ExitCode.UNSTABLE
    left = torch.load(broken.run_dir / lines(broken, "trouble")[0].incident / "state.pt", weights_only=True)
    stopped = make_spec(run="stopped")
    with monkeypatch.context() as patched:
        run_spec(stopped, Steps(patched, stop_after=5).stop)
    parameters = [name for name in left["weights"] if "running" not in name and "num_batches" not in name]
    there = load_weights(*checkpoint(stopped, "recovery_step5"))
    assert_bit_identical(
        {name: there[name] for name in parameters}, {name: left["weights"][name] for name in parameters}
    )
    assert_bit_identical(load_state(*checkpoint(stopped, "recovery_step5"))["optimizer"], left["state"]["optimizer"])


def test_the_bundle_is_left_once_the_last_step_is_taken_and_never_on_the_way(make_spec, monkeypatch):
    seen: list[str] = []
    take, leave = loop.Stepper.take, loop.incident.leave
    monkeypatch.setattr(loop.Stepper, "take", lambda *args, **named: seen.append("step") or take(*args, **named))
    monkeypatch.setattr(loop.incident, "leave", lambda *args, **named: seen.append("left") or leave(*args, **named))
    drills = (Drill.parse("inf-gradients@4"), Drill.parse("nan-loss@6"))  # the first is told of, and no incident
    assert run_spec(make_spec(drills=drills)) == ExitCode.UNSTABLE
    assert seen == ["step"] * 6 + ["left"]


def test_an_incident_whose_state_finds_no_room_is_told_with_the_rest(make_spec, monkeypatch, caplog):
    write = loop.incident.write_atomic

    def full(path, fill):
        if path.name == "state.pt":
            raise OSError(28, "No space left on device")
        write(path, fill)

    monkeypatch.setattr(loop.incident, "write_atomic", full)
    spec = make_spec(drills=(Drill.parse("nan-loss@6"),))
    assert run_spec(spec) == ExitCode.UNSTABLE
    (trouble,) = lines(spec, "trouble")
    assert {path.name for path in (spec.run_dir / trouble.incident).iterdir()} == {"batch.pt", "worker.json"}
    assert "No space left" in caplog.text
