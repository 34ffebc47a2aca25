"""Faults of the worker: it dies, stands still, lies or forgets; the daemon goes on from the last good state."""

from __future__ import annotations

import os
import signal

from .matrix import fault


def settings(daemon) -> list[tuple]:
    return [(a.plan.lr, a.plan.amp.value, a.plan.batch_size) for a in daemon.history.attempts]


@fault(
    "worker-sigkill",
    area="Worker",
    fault="SIGKILL in training",
    promise="P4",
    provoked="`os.kill(pid, SIGKILL)` after epoch 1",
)
def test_a_killed_worker_is_resumed_once_with_nothing_changed(daemon, provoked, nothing_else_broke):
    daemon.scenario(step_seconds=0.1)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    os.kill(daemon.worker_identity().pid, signal.SIGKILL)
    provoked()
    code, output = daemon.finish(running)
    assert code == 0, output
    assert settings(daemon) == [(1e-3, "off", 4)] * 2
    assert [epoch for _, epoch in daemon.scored_epochs()] == [1, 2, 3]
    assert "signal SIGKILL" in daemon.alerts_log()
    nothing_else_broke(daemon)
