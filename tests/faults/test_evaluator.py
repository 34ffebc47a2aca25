"""Faults of the evaluator: whatever becomes of it, training goes on, and each epoch has its score or its reason."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from segwatch.daemon.events import AlertState

from ..evaluator.conftest import make_network, tiny_cache, tiny_data, tiny_run  # noqa: F401 - fixtures
from .matrix import fault

QUICK_TIMEOUT = "[evaluator]\ntimeout_seconds = 4"


def asked(daemon) -> list[str]:
    path = daemon.run_dir / "asked.txt"
    return path.read_text().split() if path.exists() else []


def verdicts(daemon, split: str = "test") -> list[tuple[str, str]]:
    return [(row["epoch"], row["verdict"]) for row in daemon.rows() if row["split"] == split]


ALL_OK = [("1", "ok"), ("2", "ok"), ("3", "ok")]


@fault(
    "evaluator-crash",
    area="Evaluator",
    fault="the evaluator dies while it scores",
    promise="P1 P7",
    provoked="SIGKILL over epoch 1; exit 9 over epoch 2 each time it is asked",
)
def test_a_dead_evaluator_costs_one_more_try(daemon, provoked, nothing_else_broke):
    daemon.scenario(score_seconds=1.0)
    running = daemon.start()
    daemon.until(lambda _: asked(daemon) == ["1:1"])
    [evaluator] = [c for c in psutil.Process(running.pid).children() if "fake_evaluator" in " ".join(c.cmdline())]
    os.kill(evaluator.pid, signal.SIGKILL)
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert asked(daemon) == ["1:1", "1:1", "1:2", "1:3"]
    assert verdicts(daemon) == ALL_OK
    assert daemon.alerts_log() == ""
    nothing_else_broke(daemon)


@fault(
    "evaluator-crash",
    area="Evaluator",
    fault="the evaluator dies while it scores",
    promise="P1 P7",
    provoked="SIGKILL over epoch 1; exit 9 over epoch 2 each time it is asked",
)
def test_an_epoch_that_no_evaluator_survives_gets_its_reason(daemon, provoked, nothing_else_broke):
    daemon.scenario(die=["1:2"])
    code, output = daemon.run()
    provoked(asked(daemon).count("1:2"))
    assert code == 0, output
    assert asked(daemon).count("1:2") == 2
    assert verdicts(daemon) == [("1", "ok"), ("2", "failed"), ("3", "ok")]
    assert len(daemon.history.attempts) == 1
    nothing_else_broke(daemon)


@pytest.mark.parametrize("scenario", [{"hang": ["1:2"]}, {"hang_at_start": True}], ids=["over-an-epoch", "at-start"])
@fault(
    "evaluator-hang",
    area="Evaluator",
    fault="the evaluator stands still, over an epoch or before it is ready",
    promise="P1 P7",
    provoked="it sleeps for ten minutes under `timeout_seconds = 4`",
)
def test_an_evaluator_that_says_nothing_is_replaced(daemon, scenario, provoked, nothing_else_broke):
    daemon.configure(extra=QUICK_TIMEOUT)
    daemon.scenario(**scenario)
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert verdicts(daemon) == verdicts(daemon, "val") == ALL_OK
    assert "the evaluator said nothing for" in (daemon.run_dir / "daemon.log").read_text()
    assert len(daemon.history.attempts) == 1
    nothing_else_broke(daemon)


@fault(
    "evaluator-out-of-memory",
    area="Evaluator",
    fault="the evaluator runs out of memory",
    promise="P1 P7",
    provoked="`torch.OutOfMemoryError` on the GPU at every batch size, in the real evaluator; not even one image fits",
)
def test_out_of_memory_means_smaller_batches_then_the_cpu(tiny_run, make_network, monkeypatch, provoked):  # noqa: F811
    """No GPU is needed: what is asked of "cuda" is refused, and the network stays where it is."""
    torch = pytest.importorskip("torch")
    from segwatch.evaluator import evaluate

    count, build, tried = evaluate.tally, evaluate.Evaluator._network, []

    def full_gpu(*arguments, device, batch_size, **options):
        tried.append((device.type, batch_size))
        if device.type == "cuda":
            provoked()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return (yield from count(*arguments, device=device, batch_size=batch_size, **options))

    evaluator = evaluate.Evaluator(tiny_run.spec(batch_size=4))
    evaluator.device = torch.device("cuda")
    monkeypatch.setattr(evaluate, "tally", full_gpu)
    cpu = torch.device("cpu")
    monkeypatch.setattr(evaluate.Evaluator, "_network", lambda self, checkpoint, _: build(self, checkpoint, cpu))
    answers = list(evaluator.evaluate(tiny_run.save(make_network())))
    assert tried == [("cuda", 4), ("cuda", 2), ("cuda", 1), ("cpu", 1), ("cpu", 1)]
    assert [answer.split for answer in answers if answer.kind == "scored"] == ["val", "test"]


@fault(
    "evaluator-out-of-memory",
    area="Evaluator",
    fault="the evaluator runs out of memory",
    promise="P1 P7",
    provoked="`torch.OutOfMemoryError` on the GPU at every batch size, in the real evaluator; not even one image fits",
)
def test_where_not_even_one_image_fits_the_epoch_has_its_reason(daemon, provoked, nothing_else_broke):
    daemon.scenario(out_of_memory=["1:2"])
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert verdicts(daemon) == [("1", "ok"), ("2", "failed"), ("3", "ok")]
    assert "not even one image of val fits into memory" in daemon.alerts_log()
    nothing_else_broke(daemon)


@fault(
    "evaluator-slow",
    area="Evaluator",
    fault="evaluation is slower than training",
    promise="P1 P7",
    provoked="0.25 s a score against 0.05 s an epoch, 14 epochs",
)
def test_a_slow_evaluator_is_told_once_and_scores_all_in_the_end(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=14)
    daemon.scenario(score_seconds=0.25)
    code, output = daemon.run()
    provoked()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, epoch) for epoch in range(1, 15)], "in order, none left out"
    assert len(asked(daemon)) == 14, "one at a time: the queue is on the disk, not in a pipe"
    log = daemon.alerts_log()
    assert (log.count("FIRING   WARNING  evaluation-lag"), log.count("RESOLVED WARNING  evaluation-lag")) == (1, 1)
    assert daemon.history.alerts["evaluation-lag"].state is AlertState.RESOLVED
    nothing_else_broke(daemon)
