"""A checkpoint that is set aside, by a daemon that dies over it: the next one comes to the same results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from segwatch.checkpoints.manifest import Role
from segwatch.daemon import scoring
from segwatch.daemon.inbox import EvaluatorSaid
from segwatch.evaluator.report import Refused

from ..faults.in_process import Killed
from ..faults.in_turns import Night

WHERE = "checkpoints/quarantine/001/checkpoint_epoch2.json"


def results(place: Path, disturb: Callable[[Night], None]) -> bytes:
    """results.csv of a run of two epochs, the second of which the evaluator finds changed."""
    night = Night(place, epochs=3)
    try:
        night.trains(1)
        worker = night.world.worker
        worker.take_step()
        worker.take_step()
        worker.epoch, worker.step_in_epoch = 2, 0
        worker.commit(Role.EPOCH)
        refuse(night)
        disturb(night)
        try:
            night.tick()
        except Killed:
            night.lose_daemon()
            night.begin_daemon()
            night.tick()
            if night.history.unscored:
                refuse(night)
                night.tick()
        assert [(e.key, e.moved) for e in night.history.quarantined] == [((1, 2), "quarantined")]
        assert night.history.quarantined[0].manifest == WHERE
        assert (night.world.run.path / WHERE).with_suffix(".pth").exists()
        assert list(night.world.run.checkpoints.glob("checkpoint_epoch2.*")) == []
        return (night.world.run.path / "results.csv").read_bytes()
    finally:
        night.close()


def refuse(night: Night) -> None:
    scorer = night.world.daemon.scorer
    night.until(lambda: scorer.in_flight is not None)
    refused = Refused(attempt=1, epoch=2, reason="corrupt", message="its sha256 differs")
    night.world.daemon.inbox.put(EvaluatorSaid(scorer._generation, refused))


def dies_at_point(number: int, night: Night) -> None:
    night.world.kill_in = number


@pytest.fixture
def dies_after_the_move(monkeypatch):
    def disturb(_: Night) -> None:
        def move_and_die(*arguments):
            monkeypatch.undo()
            move(*arguments)
            raise Killed

        monkeypatch.setattr(scoring, "move_aside", move_and_die)

    move = scoring.move_aside
    return disturb


def test_killed_around_a_quarantine_the_run_has_the_rows_of_one_that_was_not(tmp_path, dies_after_the_move):
    undisturbed = results(tmp_path / "undisturbed", lambda _: None)
    assert undisturbed.count(b"corrupt") == 2
    kills = {f"point-{number}": partial(dies_at_point, number) for number in (1, 2, 4)}
    for name, disturb in (kills | {"moved": dies_after_the_move}).items():
        assert results(tmp_path / name, disturb) == undisturbed, name
        shutil.rmtree(tmp_path / name)
