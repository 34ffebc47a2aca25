"""Faults between what a worker was told of its end and that end: whoever told it is gone, or somebody else ends it."""

from __future__ import annotations

import itertools
import signal
from types import SimpleNamespace

import pytest
from segwatch.daemon import process, stopping
from segwatch.daemon.events import AttemptStarted, Outcome
from segwatch.daemon.inbox import Interrupted
from segwatch.daemon.looking import look_at
from segwatch.daemon.observing import Observer
from segwatch.daemon.process import Identity
from segwatch.daemon.stopping import PATIENCE_SECONDS
from segwatch.evaluator.report import Verdict
from segwatch.trainer.contract import Cause

from .in_process import Killed
from .matrix import fault


def deaf(*_: object, **__: object) -> None:
    """In place of `process.stop`: the worker has not heard it yet."""


def leaves_now(night) -> None:
    """As it was asked to, a while ago."""
    night.world.stop(Identity(night.world.worker_pid, 0.0), grace_seconds=0.0)


@pytest.mark.parametrize("adopted", [True, False])
@fault(
    "daemon-killed-after-condemning",
    area="Daemon",
    fault="the daemon is killed after it condemned its worker, or before it looked at the echo that it has recorded",
    promise="P3 P5",
    provoked="NaN in a score, a wrong learning rate; the worker leaves before or after the next daemon has adopted it",
)
def test_a_worker_that_was_condemned_stays_so_for_the_next_daemon(night, monkeypatch, adopted, provoked):
    night.trains(1)
    night.saves_an_epoch()
    with monkeypatch.context() as patch:
        patch.setattr(process, "stop", deaf)
        night.scores(0.5, Verdict.NOT_FINITE)
        night.lose_daemon()
    provoked()
    if not adopted:
        leaves_now(night)
    night.begin_daemon()
    night.until(lambda: len(night.world.spawned) == 2)
    (incident,) = night.history.incidents
    assert (incident.opened.cause, incident.opened.evidence["scored_epoch"]) == (Cause.NAN_WEIGHTS, 2)
    assert (night.plan.remedy, night.plan.resume_epoch) == ("amp-off", 1)


@pytest.mark.parametrize("adopted", [True, False])
@fault(
    "daemon-killed-after-condemning",
    area="Daemon",
    fault="the daemon is killed after it condemned its worker, or before it looked at the echo that it has recorded",
    promise="P3 P5",
    provoked="NaN in a score, a wrong learning rate; the worker leaves before or after the next daemon has adopted it",
)
def test_settings_that_are_not_in_force_are_found_by_the_next_daemon(night, monkeypatch, adopted, provoked):
    night.world.worker.scenario["echo_lr"] = {"1": 7.0}
    night.world.worker.begin()
    with monkeypatch.context() as patch:
        patch.setattr(Observer, "check_echo", killed)
        with pytest.raises(Killed):
            night.tick()
        night.lose_daemon()
    assert [echo.lr for echo in night.tell(AttemptStarted)] == [7.0]
    provoked()
    if not adopted:
        leaves_now(night)
    night.begin_daemon()
    night.until(lambda: len(night.world.spawned) == 2)
    assert night.history.attempt(1).ended.outcome is Outcome.REMEDY_FAILED
    assert "lr 7.0 instead of 0.001" in night.history.incidents[0].opened.message


def killed(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.parametrize("how", ["it leaves", "somebody kills it"])
@fault(
    "daemon-killed-while-stopping",
    area="Daemon",
    fault="the daemon is killed while its worker leaves on Ctrl-C; somebody kills the worker too, or not",
    promise="P3 P4",
    provoked="SIGKILL after the worker was asked, which leaves before or after the next daemon has adopted it",
)
def test_only_a_worker_that_did_not_leave_as_it_was_asked_is_an_incident(night, monkeypatch, how, adopted, provoked):
    night.trains(1)
    with monkeypatch.context() as patch:
        patch.setattr(process, "stop", deaf)
        night.world.daemon.inbox.put(Interrupted(signal.SIGINT))
        night.tick()
        night.lose_daemon()
        provoked()
        if adopted:
            night.begin_daemon()
            night.tick()
    if how == "it leaves":
        leaves_now(night)
    else:
        night.world.worker_dies(-signal.SIGKILL)
    if not adopted:
        night.begin_daemon()
    night.until(lambda: len(night.world.spawned) == 2)
    wanted = [] if how == "it leaves" else ["worker-crashed"]
    assert [incident.opened.cause for incident in night.history.incidents] == wanted


@pytest.mark.parametrize(("leaves", "after_seconds"), [(True, 0.0), (False, PATIENCE_SECONDS), (False, 1.0)])
@fault(
    "worker-stopped-without-daemon",
    area="Daemon",
    fault="the daemon is dead, and `segwatch stop` ends the worker",
    promise="P3 P4",
    provoked="it saves and leaves; it has to be killed; somebody else kills it after a second",
)
def test_a_worker_that_segwatch_stop_ended_is_no_incident(night, monkeypatch, leaves, after_seconds, provoked):
    night.trains(1)
    night.lose_daemon()
    clock = itertools.count(0.0, after_seconds)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def ended(worker: Identity, *, grace_seconds: float) -> SimpleNamespace:
        night.world.worker.hung = not leaves
        night.world.stop(worker, grace_seconds=grace_seconds)
        return SimpleNamespace(join=lambda: None)

    monkeypatch.setattr(stopping, "stop", ended)
    assert stopping.stop_worker(night.world.run, lambda _: None)
    assert look_at(night.world.run).stopped_by_hand_at is not None
    provoked()
    night.begin_daemon()
    night.until(lambda: len(night.world.spawned) == 2)
    struck = not leaves and after_seconds < PATIENCE_SECONDS
    assert [i.opened.cause for i in night.history.incidents] == (["worker-crashed"] if struck else [])


@fault(
    "worker-crash-while-stopping",
    area="Worker",
    fault="the worker crashes after Ctrl-C, before it could save; a second Ctrl-C ends it",
    promise="P3",
    provoked="SIGSEGV within its grace; SIGINT twice",
)
def test_a_crash_while_the_run_stops_is_an_incident_and_a_second_ctrl_c_is_none(night, monkeypatch, provoked):
    night.trains(1)
    monkeypatch.setattr(process, "stop", deaf)
    for _ in range(2):
        night.world.daemon.inbox.put(Interrupted(signal.SIGINT))
        night.tick()
    assert night.world.daemon.exit_code == 130
    assert night.history.incidents == []
    provoked()
    night.lose_daemon()
    night.begin_daemon()
    night.until(lambda: night.world.worker is not None)
    night.world.daemon.inbox.put(Interrupted(signal.SIGINT))
    night.tick()
    night.world.worker_dies(-signal.SIGSEGV)
    night.tick()
    provoked()
    assert night.world.daemon.exit_code == 130
    (incident,) = night.history.incidents
    assert incident.opened.message == "the worker was killed: signal SIGSEGV"
