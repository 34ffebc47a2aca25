"""Curves cost points when the disk refuses, never training; they go on when it takes files again."""

from __future__ import annotations

import shutil

import pytest
from segwatch.trainer import curves
from segwatch.trainer.curves import AGAIN_SECONDS, Curves
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(directory) -> list[int]:
    events = [
        Event.FromString(record)
        for path in sorted(directory.iterdir())
        for record in RawEventFileLoader(str(path)).Load()
    ]
    return [event.step for event in events if event.HasField("summary")]


@pytest.fixture
def shown(tmp_path):
    """(curves, their directory, clock)"""
    clock = Clock()
    drawn = Curves(tmp_path / "train", from_step=0, clock=clock)
    yield drawn, tmp_path / "train", clock
    drawn.close()


def test_a_directory_that_is_deleted_is_written_to_again(shown):
    drawn, directory, _ = shown
    drawn.write(1, {"loss": 1.0})
    shutil.rmtree(directory)
    drawn.write(2, {"loss": 0.5})
    assert steps(directory) == [2]


def test_after_a_full_disk_a_new_file_goes_on_where_there_is_room(shown, monkeypatch, caplog):
    drawn, directory, clock = shown
    drawn.write(1, {"loss": 1.0})

    def refuse(_self, _event) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(curves.EventFile, "add_event", refuse)
        for step in (2, 3, 4):
            drawn.write(step, {"loss": 0.5})
    assert caplog.text.count("No space left") == 1, "told once, not once a second"
    drawn.write(5, {"loss": 0.5})
    clock.now += AGAIN_SECONDS
    drawn.write(6, {"loss": 0.4})
    assert steps(directory) == [1, 6]
