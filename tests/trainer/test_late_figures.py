"""A step's figures come late, as they do from a GPU that is behind: what is found is of that step all the same.

The GPU is played by figures that never say by themselves that they have arrived.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from segwatch.checkpoints.manifest import read_manifest
from segwatch.trainer import loop
from segwatch.trainer.__main__ import run
from segwatch.trainer.contract import Drill, ExitCode
from segwatch.trainer.health import Readback, _Pending

from .test_diagnosing import diagnose
from .test_loop import assert_bit_identical, checkpoint, exit_record, lines, never, weights

AT_MOST = 20
"""Steps until something that is not finite is noticed on a GPU."""
STEPS_PER_EPOCH = 7
"""With one image a step."""
DEPTH = 3


class Behind:
    """The event of a copy that is not done."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        """Whoever waits gets it."""


class Late(Readback[Any]):
    def put(self, figures: torch.Tensor, context: Any) -> None:
        self._pending.append(_Pending(context, figures.clone(), Behind()))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Readback", lambda device: Late(device, depth=DEPTH))


def test_however_far_the_device_is_behind_no_figure_is_read_later_than_that():
    readback, read = Late(torch.device("cuda")), []
    for step in range(100):
        readback.put(torch.tensor([float(step)]), step)
        for context, (figure,) in readback.take():
            assert figure == context
            assert step - context <= AT_MOST
            read.append(context)
    read.extend(context for context, _ in readback.take(wait=True))
    assert read == list(range(100))


@pytest.mark.parametrize(
    ("kind", "amp", "cause"),
    [
        ("nan-loss", "off", "nan-loss"),
        ("nan-loss", "fp16", "nan-loss"),
        ("nan-weights", "off", "nan-weights"),
        ("poison-batchnorm", "off", "nan-weights"),
    ],
)
def test_poison_that_is_noticed_late_is_of_its_step_and_never_committed(make_spec, late, kind, amp, cause):
    spec = make_spec(drills=(Drill.parse(f"{kind}@9"),), epochs=3, amp=amp, batch_size=1, recovery_seconds=0.0)
    assert run(spec.directory / "spec.json", never) == ExitCode.UNSTABLE
    (trouble,) = [line for line in lines(spec, "trouble") if line.fatal]
    assert (trouble.cause, trouble.step) == (cause, 9)
    assert exit_record(spec).cause == cause
    for path in (spec.run_dir / "checkpoints").glob("*.json"):
        manifest = read_manifest(path)
        assert manifest.step < 9
        assert manifest.finite
        assert all(torch.isfinite(tensor).all() for tensor in weights(spec, manifest.stem).values())
    facts = json.loads((spec.run_dir / trouble.incident / "worker.json").read_text())
    assert facts["recent"][-1]["step"] == 9


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_the_weights_and_moments_that_are_left_are_those_with_which_the_step_failed(make_spec, monkeypatch, amp):
    held = []
    for depth in (0, DEPTH):
        spec = make_spec(run=f"behind-{depth}", drills=(Drill.parse("nan-loss@9"),), epochs=3, batch_size=1, amp=amp)
        if depth:
            monkeypatch.setattr(loop, "Readback", lambda device: Late(device, depth=DEPTH))
        assert run(spec.directory / "spec.json", never) == ExitCode.UNSTABLE
        (trouble,) = lines(spec, "trouble")
        held.append(torch.load(spec.run_dir / trouble.incident / "state.pt", weights_only=True))
    prompt, behind = held
    assert behind["state"]["position"]["step"] == prompt["state"]["position"]["step"] + DEPTH == 9 + DEPTH
    assert_bit_identical(behind["state"]["optimizer"]["state"], prompt["state"]["optimizer"]["state"])
    for name, tensor in prompt["weights"].items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # the images went through
            assert torch.equal(behind["weights"][name], tensor)


def test_what_is_late_changes_nothing_of_an_undisturbed_run(make_spec, monkeypatch):
    prompt = make_spec(run="prompt", batch_size=1)
    assert run(prompt.directory / "spec.json", never) == ExitCode.FINISHED
    monkeypatch.setattr(loop, "Readback", lambda device: Late(device, depth=DEPTH))
    behind = make_spec(run="behind", batch_size=1)
    assert run(behind.directory / "spec.json", never) == ExitCode.FINISHED
    for name, tensor in weights(prompt, "checkpoint_epoch2").items():
        assert torch.equal(tensor, weights(behind, "checkpoint_epoch2")[name])
    losses = [[line.train_loss for line in lines(spec, "checkpoint")] for spec in (prompt, behind)]
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0][-1])
    assert checkpoint(behind, "checkpoint_epoch2")[1].step == 2 * STEPS_PER_EPOCH


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize(
    ("drill", "amp", "finding"),
    [
        ("nan-loss@10", "off", "transient"),
        ("overflow@10", "fp16", "precision"),
        ("lr-spike@30", "off", "learning-rate"),
        ("poison-batchnorm@10", "off", "transient"),
    ],
)
def test_a_diagnosis_of_what_was_noticed_late_says_why(make_spec, late, drill, amp, finding):
    spec = make_spec(drills=(Drill.parse(drill),), amp=amp, epochs=20, batch_size=1)
    assert run(spec.directory / "spec.json", never) == ExitCode.UNSTABLE
    assert diagnose(spec).finding == finding
