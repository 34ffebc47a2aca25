"""A daemon that takes up a worker in mid-training reads little again, and knows at once what the worker is doing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from segwatch.daemon.observing import NOTED_EACH_BYTES
from segwatch.trainer.contract import Phase

from ..faults.in_turns import Night


@pytest.fixture
def night(tmp_path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.close()


def adopts(night: Night) -> None:
    night.lose_daemon()
    night.begin_daemon()
    night.tick()


def test_how_far_a_journal_was_read_is_noted_also_while_it_only_tells_of_progress(night):
    night.trains(1)
    worker = night.world.worker
    facts = len(night.world.recorded)
    worker.flood(2 * NOTED_EACH_BYTES)
    for _ in range(4):
        night.tick()
    assert len(night.world.recorded) == facts
    read = night.world.daemon.supervisor._worker.offset
    adopts(night)
    assert 0 <= read - night.world.daemon.supervisor._observer.noted_offset(1) <= NOTED_EACH_BYTES


def test_an_adopted_worker_that_trains_has_the_time_of_a_step_and_not_that_of_loading(night):
    night.trains(1)
    adopts(night)
    adopted = night.world.daemon.supervisor._worker
    config, now = night.world.config.watch, night.world.now
    assert adopted.overdue(now + config.hang_floor_seconds - 0.5) is None
    assert "in phase 'training'" in adopted.overdue(now + config.hang_floor_seconds + 0.5)


def test_an_adopted_worker_that_saves_has_the_time_of_a_save(night):
    night.trains(1)
    night.world.worker.write(Phase(time=0.0, phase="saving"))
    night.tick()
    adopts(night)
    adopted = night.world.daemon.supervisor._worker
    config, now = night.world.config.watch, night.world.now
    assert adopted.overdue(now + config.saving_seconds - 0.5) is None
    assert adopted.overdue(now + config.saving_seconds + 0.5)
