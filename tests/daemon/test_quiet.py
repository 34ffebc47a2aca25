"""Quiet hours, what is held in them, and the digest of a day: with the clock that a test sets."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.daemon import holding_back
from segwatch.daemon import outbox as outbox_module
from segwatch.daemon.channels import Channel
from segwatch.daemon.config import load_config
from segwatch.daemon.courier import Letter
from segwatch.daemon.daily import DAY_SECONDS, DailyDigest, day_in_words
from segwatch.daemon.events import AlertChanged, AlertState, RunFinished, Severity
from segwatch.daemon.history import History
from segwatch.daemon.outbox import Outbox
from segwatch.daemon.quiet import QuietHours, last_time
from segwatch.daemon.store import Store
from segwatch.errors import ConfigError
from segwatch.trainer.contract import Cause

from .conftest import CONFIG

NIGHT = "22:00-07:00"
CHANNEL = Channel(url="env:A")
WARNING = AlertChanged(
    fingerprint="miou-stall",
    code="miou-stall",
    severity=Severity.WARNING,
    state=AlertState.FIRING,
    since=5.0,
    cause="no epoch was better",
    evidence={},
    action="nothing",
    advice="look",
)
OVER = WARNING.model_copy(update={"state": AlertState.RESOLVED})
CRITICAL = WARNING.model_copy(update={"fingerprint": "i", "code": "nan-loss", "severity": Severity.CRITICAL})


def at(hour: int, minute: int = 0, day: int = 10) -> float:
    return datetime(2026, 6, day, hour, minute).timestamp()  # noqa: DTZ001 - of the machine's own zone


# --- hours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "now", "ends"),
    [
        (NIGHT, at(21, 59), None),
        (NIGHT, at(22), at(7, day=11)),
        (NIGHT, at(3), at(7)),
        (NIGHT, at(7), None),
        ("13:00-14:30", at(14, 29), at(14, 30)),
        ("13:00-14:30", at(12, 59), None),
    ],
)
def test_quiet_hours_end_at_their_end_also_over_midnight(hours, now, ends):
    assert QuietHours.parse(hours).end_of(now) == ends


@given(st.integers(0, 10**9).map(float), st.times(), st.times())
def test_the_end_of_the_quiet_lies_ahead_and_within_a_day_and_an_hour(moment, start, end):
    ends = QuietHours(start, end).end_of(moment)
    assert ends is None or 0 < ends - moment <= 90000


@pytest.mark.parametrize("written", ["22-7", "22:00", "24:00-07:00", "22:00-22:00", "22:00 - 07:00"])
def test_hours_that_are_none_are_answered_with_how_they_are_written(tmp_path, written):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(epochs=1, amp="off", extra=f'[alerts]\nquiet_hours = "{written}"'))
    with pytest.raises(ConfigError, match=r"alerts\.quiet_hours: (two times of day|quiet hours that begin)"):
        load_config(path)


def test_a_time_of_day_that_is_none_is_answered_with_how_it_is_written(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(epochs=1, amp="off", extra='[alerts]\ndaily_digest = "8 am"'))
    with pytest.raises(ConfigError, match=r'alerts\.daily_digest: a time of day, such as "08:00"'):
        load_config(path)


# --- what is held --------------------------------------------------------------------------------------------------


class Night:
    """An outbox whose couriers deliver nothing, under a clock that a test sets."""

    def __init__(self, path, monkeypatch) -> None:
        self.path, self.now, self.boxes = path, at(23), []
        path.mkdir()
        self.store = Store(path)
        monkeypatch.setattr(outbox_module, "LEAVE_SECONDS", 0.0)
        monkeypatch.setattr(holding_back.time, "time", lambda: self.now)

    def outbox(self, channel: Channel = CHANNEL) -> Outbox:
        options = {"base": self.path, "retry_seconds": 60, "environment": os.environ, "command": ("false",)}
        box = Outbox(self.path, [channel], quiet_hours=NIGHT, **options)
        box.resume(self.store, History())
        self.boxes.append(box)
        return box

    def lies_in(self, name: str, count: int, channel: Channel = CHANNEL) -> list[dict]:
        """The letters in one of a channel's boxes, oldest first, once there are so many."""
        place = self.path / "outbox" / outbox_module._directory_name(channel) / name
        deadline = time.monotonic() + 20
        while len(paths := sorted(place.glob("*.json"))) != count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(paths) == count, f"{name}: {[path.read_text() for path in paths]}"
        return [json.loads(path.read_text()) for path in paths]

    def morning(self, box: Outbox) -> None:
        self.now = at(7, 1, day=11)
        for each in box._boxes:
            each._wake.set()


@pytest.fixture
def night(tmp_path, monkeypatch):
    night = Night(tmp_path / "aerial", monkeypatch)
    yield night
    for box in night.boxes:
        box.close()
    night.store.close()


def test_in_quiet_hours_only_what_is_critical_goes_and_that_it_is_over(night):
    box = night.outbox()
    critical_over = CRITICAL.model_copy(update={"state": AlertState.RESOLVED})
    for minute, event in enumerate((WARNING, CRITICAL, critical_over, OVER)):
        box.handle(at(23, minute), event)
    titles = [letter["title"] for letter in night.lies_in("waiting", 2)]
    assert titles == ["segwatch aerial: CRITICAL nan-loss", "segwatch aerial: RESOLVED nan-loss"]
    night.lies_in("held", 2)


def test_when_the_quiet_ends_one_message_says_what_was_held(night):
    box = night.outbox()
    box.handle(at(23, 5), WARNING)
    box.handle(at(23, 50), OVER)
    night.lies_in("held", 2)
    night.morning(box)
    (letter,) = night.lies_in("waiting", 1)
    assert letter["title"] == "segwatch aerial: 2 messages from the quiet hours"
    assert letter["type"] == "warning"
    first, second = letter["body"].splitlines()[:2]
    assert first.endswith("23:05 WARNING miou-stall: no epoch was better")
    assert second.endswith("23:50 RESOLVED miou-stall: no epoch was better")
    night.lies_in("held", 0)
    box.handle(night.now, WARNING.model_copy(update={"since": 9.0}))
    night.lies_in("waiting", 2)  # by day it goes at once


def test_a_single_message_stays_what_it_is(night):
    box = night.outbox()
    box.handle(night.now, WARNING)
    night.lies_in("held", 1)
    night.morning(box)
    (letter,) = night.lies_in("waiting", 1)
    assert letter["title"] == "segwatch aerial: WARNING miou-stall"
    assert letter["body"].count("id: ") == 1
    assert f"id: {letter['id']}" in letter["body"]


def test_what_is_held_outlives_the_daemon_and_is_told_once(night):
    night.store.append(RunFinished(trained=0, unscored=0))
    box = night.outbox()
    for event in (WARNING, OVER):
        box.handle(night.store.append(event), event)
    night.lies_in("held", 2)
    box.close()
    second = night.outbox()  # which reads the same facts again
    night.lies_in("held", 2)
    night.morning(second)
    night.lies_in("waiting", 1)
    second.close()
    night.outbox()
    night.lies_in("waiting", 1)
    night.lies_in("digested", 2)


def test_a_daemon_that_dies_between_digest_and_mark_tells_nothing_twice(night):
    box = night.outbox()
    for event in (WARNING, OVER):
        box.handle(night.now, event)
    night.lies_in("held", 2)
    box.close()
    night.now = at(7, 1, day=11)
    place = night.path / "outbox" / outbox_module._directory_name(CHANNEL)
    held = holding_back.HeldBack(place, QuietHours.parse(NIGHT))
    held._write([Letter.model_validate_json(path.read_bytes()) for path in held.letters()])  # and then it dies
    assert held.release() is None
    night.lies_in("waiting", 1)
    night.lies_in("digested", 2)


def test_at_the_end_of_a_run_what_is_held_goes_at_once(night):
    box = night.outbox()
    for event in (WARNING, RunFinished(trained=3, unscored=0)):
        box.handle(night.now, event)
    night.lies_in("held", 2)
    box.end_quiet()
    (letter,) = night.lies_in("waiting", 1)
    assert "finished" in letter["body"]


def test_a_channel_has_hours_of_its_own(night):
    channel = Channel(url="env:A", quiet_hours="")
    box = night.outbox(channel)
    box.handle(night.now, WARNING)
    night.lies_in("waiting", 1, channel)


def test_a_channel_may_do_without_what_is_over(night):
    night.now = at(12)
    box = night.outbox(Channel(url="env:A", resolved=False))
    for minute, event in enumerate((WARNING, OVER, CRITICAL)):
        box.handle(at(12, minute), event)
    titles = [letter["title"].split()[-2] for letter in night.lies_in("waiting", 2)]
    assert titles == ["WARNING", "CRITICAL"]


# --- the digest of a day -------------------------------------------------------------------------------------------


class Told:
    def __init__(self) -> None:
        self.days: list[tuple[str, str, list[str]]] = []

    def tell_digest(self, moment, fact, words, lines) -> None:
        self.days.append((fact, words, list(lines)))


class Facts:
    def __init__(self, told) -> None:
        self.told = told

    def since(self, moment):
        return ((when, event) for when, event in self.told if when >= moment)


@pytest.fixture
def day(a_run):
    """A run that begins at noon, with one epoch then and two on the next day."""
    run = a_run()
    run.begins(epochs=10)
    run.trains(1, 0.40)
    yesterday = len(run.told)
    run.trains(2, 0.50)
    run.suffers(Cause.NAN_LOSS)
    run.plans(incident=1, because="nan-loss in epoch 2: learning rate 0.001 -> 0.0005")
    run.tell(WARNING)
    run.trains(3, 0.55)
    noon = at(12)
    told = [(noon + (number >= yesterday) * 4 * 3600, event) for number, (_, event) in enumerate(run.told)]
    return History.of(told), told


def test_a_day_is_told_once_at_its_time_and_never_for_a_time_before_the_run(day):
    history, facts = day
    told, now = Told(), [at(15)]
    digest = DailyDigest("14:00", Facts(facts), history, told, clock=lambda: now[0])
    for hour in (13, 14, 15, 15):
        now[0] = at(hour)
        digest.look()
    assert [fact for fact, _, _ in told.days] == ["day 2026-06-10"]
    now[0] = at(13, day=11)
    digest.look()
    assert len(told.days) == 1
    DailyDigest("11:00", Facts(facts), history, told, clock=lambda: at(12, 30)).look()
    assert len(told.days) == 1


def test_without_a_time_no_day_is_told(day):
    history, facts = day
    told = Told()
    DailyDigest("", Facts(facts), history, told, clock=lambda: at(8, day=20)).look()
    assert told.days == []


def test_a_day_says_what_came_of_it(day):
    history, facts = day
    words, lines = day_in_words([event for when, event in facts if when > at(13)], history)
    assert words == "daily digest: epoch 3 of 10, best test mIoU 55.00 %"
    text = "\n".join(lines)
    assert "trained: 2 epochs in the last day; 7 to go, 3 d 12 h at this pace" in text
    assert "+15.00 points in a day" in text
    assert "incident 001: nan-loss in epoch 2 -> nan-loss in epoch 2: learning rate 0.001 -> 0.0005" in text
    assert "alerts that fired: miou-stall" in text
    assert "firing now: WARNING miou-stall" in text


def test_a_day_on_which_nothing_happened_says_so(day):
    history, _ = day
    _, lines = day_in_words([], history)
    assert lines[0] == "trained: 0 epochs in the last day; 7 to go"


def test_the_store_hands_out_a_day(tmp_path):
    clock = [0.0]
    store = Store(tmp_path, clock=lambda: clock[0])
    store.append(WARNING)
    clock[0] = DAY_SECONDS
    store.append(OVER)
    assert [event.state for _, event in store.since(1.0)] == [AlertState.RESOLVED]
    store.close()


def test_a_time_of_day_was_last_today_or_yesterday():
    assert last_time("08:00", at(8)) == at(8)
    assert last_time("08:00", at(7, 59)) == at(8, day=9)
    assert timedelta(seconds=at(8) - last_time("08:00", at(7, 59))) == timedelta(days=1)
