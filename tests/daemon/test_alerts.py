"""Pending, firing, resolved; and the block of an alert, which nothing inside it can break."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segwatch.daemon.alert import Alert
from segwatch.daemon.alerts import OVER, AlertLog, alert_lines, changes, duration, evidence_words, stamp
from segwatch.daemon.events import AlertChanged, AlertState, DaemonStopped, Severity

STALL = Alert(
    fingerprint="miou-stall",
    code="miou-stall",
    severity=Severity.WARNING,
    cause="no gain",
    evidence={"epoch": 12},
    action="None.",
    advice="Lower lr.",
)


class Memory:
    """What a history keeps of alerts: the newest change of each fingerprint."""

    def __init__(self) -> None:
        self.known: dict[str, AlertChanged] = {}

    def at(self, moment: float, *now: Alert) -> list[AlertChanged]:
        told = changes(self.known, now, moment)
        self.known.update({change.fingerprint: change for change in told})
        return told


def states(told: list[AlertChanged]) -> list[tuple[str, str, float]]:
    return [(change.code, change.state.value, change.since) for change in told]


# --- the states ----------------------------------------------------------------------------------------------------


def test_what_goes_on_holding_is_told_once():
    memory = Memory()
    assert states(memory.at(1.0, STALL)) == [("miou-stall", "firing", 1.0)]
    assert memory.at(2.0, STALL) == []
    assert memory.at(3.0, replace(STALL, evidence={"epoch": 13}, cause="no gain, 13 epochs")) == []


def test_what_is_seen_is_pending_first_and_keeps_its_beginning_when_it_fires():
    memory = Memory()
    assert states(memory.at(1.0, replace(STALL, pending=True))) == [("miou-stall", "pending", 1.0)]
    assert memory.at(2.0, replace(STALL, pending=True)) == []
    assert states(memory.at(3.0, STALL)) == [("miou-stall", "firing", 1.0)]


def test_what_fires_does_not_go_back_to_pending():
    memory = Memory()
    memory.at(1.0, STALL)
    assert memory.at(2.0, replace(STALL, pending=True)) == []
    assert memory.known["miou-stall"].state is AlertState.FIRING


def test_a_new_action_is_told_and_keeps_the_beginning():
    memory = Memory()
    memory.at(1.0, STALL)
    told = memory.at(2.0, replace(STALL, action="lr halved"))
    assert states(told) == [("miou-stall", "firing", 1.0)]
    assert told[0].action == "lr halved"


@pytest.mark.parametrize(("pending", "state"), [(True, "withdrawn"), (False, "resolved")])
def test_what_no_longer_holds_is_over_once_with_the_words_it_had(pending, state):
    memory = Memory()
    memory.at(1.0, replace(STALL, pending=pending))
    told = memory.at(2.0)
    assert states(told) == [("miou-stall", state, 1.0)]
    assert told[0].cause == STALL.cause
    assert memory.at(3.0) == []


@pytest.mark.parametrize("pending", [True, False])
def test_what_comes_back_begins_anew(pending):
    memory = Memory()
    memory.at(1.0, replace(STALL, pending=pending))
    memory.at(2.0)
    assert states(memory.at(7.0, STALL)) == [("miou-stall", "firing", 7.0)]


def test_alerts_of_one_code_are_told_apart_by_their_fingerprint():
    memory = Memory()
    first, second = (replace(STALL, fingerprint=f"incident:{number}") for number in (1, 2))
    assert len(memory.at(1.0, first, second)) == 2
    assert [change.fingerprint for change in memory.at(2.0, second)] == ["incident:1"]


sightings = st.lists(
    st.lists(
        st.builds(
            lambda name, pending, action: replace(STALL, fingerprint=name, pending=pending, action=action),
            st.sampled_from(["a", "b", "c"]),
            st.booleans(),
            st.sampled_from(["None.", "lr halved"]),
        ),
        max_size=3,
        unique_by=lambda alert: alert.fingerprint,
    ),
    max_size=8,
)


@settings(max_examples=50)
@given(sightings)
def test_after_any_sightings_just_what_holds_is_open_and_seeing_it_again_is_no_news(rounds):
    memory = Memory()
    for moment, now in enumerate(rounds):
        memory.at(float(moment), *now)
        still_open = {name for name, change in memory.known.items() if change.state not in OVER}
        assert still_open == {alert.fingerprint for alert in now}
        assert all(memory.known[alert.fingerprint].since <= moment for alert in now)
        assert memory.at(moment + 0.5, *now) == []


# --- the words -----------------------------------------------------------------------------------------------------


def changed(**what: object) -> AlertChanged:
    base = {
        "fingerprint": "incident:1",
        "code": "nan-loss",
        "severity": Severity.CRITICAL,
        "state": AlertState.FIRING,
        "since": 0.0,
        "cause": "the loss became NaN",
        "evidence": {"step": 32, "lr": 1e-3, "grad_norm": None},
        "action": "lr halved",
        "advice": "look at the batch",
    }
    return AlertChanged.model_validate({**base, **what})


def test_a_firing_alert_is_one_block_of_five_lines():
    assert alert_lines(changed(), 86400.0) == [
        "1970-01-02T00:00:00Z FIRING   CRITICAL nan-loss",
        "    cause:    the loss became NaN",
        "    evidence: step 32, lr 0.001, grad_norm unknown",
        "    action:   lr halved",
        "    advice:   look at the batch",
    ]


def test_a_resolved_alert_is_one_line_with_how_long_it_held():
    lines = alert_lines(changed(state="resolved", since=40.0), 100.0)
    assert lines == [
        "1970-01-01T00:01:40Z RESOLVED CRITICAL nan-loss: over after 1 min 00 s. It was: the loss became NaN"
    ]


def test_a_resolved_alert_is_a_whole_block_where_that_is_wanted():
    lines = alert_lines(changed(state="resolved", since=40.0), 100.0, whole=True)
    assert lines[0].endswith("nan-loss: over after 1 min 00 s")
    assert lines[1:] == alert_lines(changed(), 0.0)[1:]


def test_a_drill_is_marked_in_the_first_line_of_its_alert():
    for state in ("firing", "resolved"):
        assert "nan-loss [DRILL nan-loss@32]" in alert_lines(changed(state=state, drill="nan-loss@32"), 0.0)[0]


def test_evidence_that_is_not_there_is_none():
    assert evidence_words({}) == "none"


NASTY = "CUDA error:\n  device-side assert\r\n\x1b[31mred\x1b[0m\x00\u2028\u0085\x0b\x0c\x7f\u202eend"


@pytest.mark.parametrize("field", ["cause", "action", "advice", "drill"])
@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_a_line_break_or_control_character_in_a_message_does_not_break_the_block(field, state):
    lines = alert_lines(changed(state=state, **{field: NASTY}), 0.0)
    assert len(lines) == (1 if state == "resolved" else 5)
    assert all(line.isprintable() for line in lines)
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_the_words_of_a_message_of_many_lines_are_all_kept():
    cause = alert_lines(changed(cause=NASTY), 0.0)[1]
    assert all(word in cause for word in ("CUDA error:", "device-side assert", "red", "end"))


@settings(max_examples=50)
@given(st.text(max_size=40), st.text(max_size=20))
def test_whatever_a_message_or_a_piece_of_evidence_holds_the_block_has_its_five_lines(message, value):
    lines = alert_lines(changed(cause=message, evidence={"what": value, value: 1}), 0.0)
    assert len("\n".join(lines).splitlines()) == 5


def test_text_of_any_language_stays_as_it_is():
    assert "Straße 道路 é" in alert_lines(changed(cause="Straße 道路 é"), 0.0)[1]


def test_the_log_holds_every_change_that_is_news_and_nothing_else(tmp_path):
    log = AlertLog(tmp_path)
    for state in ("pending", "withdrawn", "firing", "resolved"):
        log.handle(60.0, changed(state=state, cause=NASTY))
    log.handle(60.0, DaemonStopped(reason="x"))
    log.close()
    lines = (tmp_path / "alerts.log").read_text().splitlines()
    assert len(lines) == 6
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == ["FIRING", "RESOLVED"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (18120, "5 h 02 min"),
        (86400, "1 d 0 h"),
        (183600, "2 d 3 h"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, words):
    assert duration(seconds) == words


def test_stamps_are_utc_to_the_second():
    assert stamp(1_700_000_000.9) == "2023-11-14T22:13:20Z"


# --- inhibition ----------------------------------------------------------------------------------------------------


def test_what_a_graver_one_explains_is_neither_told_nor_over():
    memory = Memory()
    memory.at(1.0, STALL)
    assert memory.at(2.0, replace(STALL, inhibited=True)) == []
    assert memory.at(3.0, STALL) == [], "it fired before the crash and still does"


def test_what_begins_while_a_graver_one_holds_is_told_only_afterwards():
    memory = Memory()
    assert memory.at(1.0, replace(STALL, inhibited=True)) == []
    assert states(memory.at(2.0, STALL)) == [("miou-stall", "firing", 2.0)]


# --- after a daemon died -------------------------------------------------------------------------------------------


def test_the_log_is_caught_up_without_repeating_what_it_holds(tmp_path):
    memory = Memory()
    (first,) = memory.at(1.0, STALL)
    (second,) = memory.at(2.0)
    log = AlertLog(tmp_path)
    log.handle(1.0, first)
    before = (tmp_path / "alerts.log").read_text()
    log.catch_up([(1.0, first), (2.0, second)])
    log.catch_up([(1.0, first), (2.0, second)])
    log.close()
    after = (tmp_path / "alerts.log").read_text()
    assert after.startswith(before)
    assert after.count("FIRING") == after.count("RESOLVED") == 1
