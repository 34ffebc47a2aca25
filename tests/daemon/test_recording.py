"""One path for every fact: a sink that fails misses nothing in the end, and stops nobody."""

from __future__ import annotations

import pytest
from segwatch.daemon.events import DaemonStopped, RunFinished
from segwatch.daemon.history import History
from segwatch.daemon.recording import AGAIN_SECONDS, DELIVERED, Recorder
from segwatch.daemon.store import Store


class Sink:
    def __init__(self) -> None:
        self.shown: list[str] = []
        self.refuses = False

    def handle(self, moment, event) -> None:
        if self.refuses:
            raise OSError(28, "No space left on device")
        self.shown.append(event.kind)

    def catch_up(self, facts) -> None:
        for moment, event in facts:
            self.handle(moment, event)

    def close(self) -> None:
        pass


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recorded(tmp_path):
    """(recorder, a sink that fails at will, one that never does, clock)"""
    failing, sound, clock = Sink(), Sink(), Clock()
    store = Store(tmp_path)
    recorder = Recorder(store, History(), [failing, sound], clock=clock)
    yield recorder, failing, sound, clock
    store.close()


def test_a_sink_that_fails_is_shown_later_what_it_missed_and_the_others_are_not_shown_twice(recorded):
    recorder, failing, sound, clock = recorded
    failing.refuses = True
    recorder.record(RunFinished())
    recorder.record(DaemonStopped(reason="finished"))
    recorder.delivered()
    assert failing.shown == []
    assert recorder.noted(DELIVERED) == "0"
    failing.refuses = False
    recorder.delivered()
    assert failing.shown == [], "tried again without a pause"
    clock.now += AGAIN_SECONDS
    recorder.delivered()
    assert failing.shown == sound.shown == ["run-finished", "daemon-stopped"]
    assert recorder.noted(DELIVERED) == "2"


def test_what_a_sink_missed_is_handed_out_again_by_the_next_daemon(tmp_path, recorded):
    recorder, failing, _, _ = recorded
    failing.refuses = True
    recorder.record(RunFinished())
    recorder.delivered()
    store, later = Store(tmp_path), Sink()
    Recorder(store, History(), [later]).catch_up()
    assert later.shown == ["run-finished"]
    assert store.noted(DELIVERED) == "1"
    store.close()


def test_a_sink_that_never_recovers_is_tried_ever_more_rarely(recorded):
    recorder, failing, _, clock = recorded
    failing.refuses = True
    tries = 0
    catch_up = failing.catch_up

    def counted(facts) -> None:
        nonlocal tries
        tries += 1
        catch_up(facts)

    failing.catch_up = counted
    recorder.record(RunFinished())
    for _ in range(3600):
        clock.now += 1.0
        recorder.delivered()
    assert 10 <= tries <= 25
