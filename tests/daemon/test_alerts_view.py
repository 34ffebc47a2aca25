"""`segwatch alerts`, `ack` and `silence`: what a person reads at 3 a.m., and what becomes of what they ask for."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from segwatch.daemon import alerts_view, going_on, taking_note, wishes
from segwatch.daemon.alert_book import AlertBook
from segwatch.daemon.alerts_view import Wanted
from segwatch.daemon.attention import Attention
from segwatch.daemon.codes import ALERT_CODES
from segwatch.daemon.desk import Desk
from segwatch.daemon.events import (
    AlertAcknowledged,
    AlertChanged,
    AlertsSilenced,
    AlertState,
    Event,
    RunFinished,
    Severity,
    SilenceEnded,
)
from segwatch.daemon.history import History
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.spans import parse_since, parse_span
from segwatch.daemon.store import Store
from segwatch.durable import dumps
from segwatch.errors import UsageError
from segwatch.trainer.contract import Cause

from ..conftest import REPOSITORY
from .sights import NASTY

NAN = AlertChanged(
    fingerprint="incident:1",
    code="nan-loss",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    since=1000.0,
    cause=NASTY,
    evidence={"step": 80, "lr": 1e-3, "norm": None},
    action="lr 0.002 -> 0.001",
    advice="Look at the batch.",
    drill="nan-loss@80",
)
STALL = NAN.model_copy(
    update={"fingerprint": "miou-stall", "code": "miou-stall", "severity": Severity.WARNING, "drill": None}
)


def over(alert: AlertChanged) -> AlertChanged:
    return alert.model_copy(update={"state": AlertState.RESOLVED})


class Site:
    """A run directory whose facts are recorded at times that the test gives."""

    def __init__(self, path) -> None:
        self.run = RunDir(path)
        self.now = 1000.0
        self.store = Store(path, clock=lambda: self.now)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.store.append(event)

    @property
    def history(self) -> History:
        return History.of(self.store.events())

    def take_up(self) -> list[Event]:
        """A look of the daemon at what waits in requests/."""
        told = []
        for event in Desk(self.run.path).facts(self.history, self.now):
            self.tell(event)
            told.append(event)
        return told

    def printed(self, wanted: Wanted = Wanted(), *, width: int = 80) -> str:  # noqa: B008 - it is frozen
        console = Console(file=io.StringIO(), width=width)
        alerts_view.show(self.run, wanted, console, self.now)
        return console.file.getvalue()

    def codes(self, wanted: Wanted) -> list[str]:
        return [alert["code"] for alert in alerts_view.as_json(AlertBook(self.run.path), wanted)]


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    site = Site(path)
    site.tell(RunFinished())
    yield site
    site.store.close()


# --- what is printed -------------------------------------------------------------------------------------------------


def test_an_alert_answers_what_a_person_asks_in_the_order_in_which_they_ask_it(site):
    assert site.printed() == "no alerts: nothing has gone wrong so far\n"
    site.tell(NAN)
    site.now = 1090.0
    head, *answers, closing, heading, then = filter(None, site.printed().splitlines())
    assert head == "FIRING critical nan-loss [DRILL nan-loss@80]  since 1970-01-01T00:16:40Z (1 min 30 s)"
    assert [line.split(maxsplit=1)[0] for line in answers] == ["what", "evidence", "done", "to", "noted"]
    assert "[red]markup[/red]" in answers[0]
    assert "\x1b" not in "".join(answers)
    assert answers[1].split(maxsplit=1)[1] == "step 80, lr 0.001, norm unknown"
    assert "segwatch ack " in answers[4]
    assert answers[4].endswith("incident:1`")
    assert closing == "1 firing (1 critical), 0 over"
    assert (heading, then) == ("Next:", f"  segwatch why {site.run.path} 1")


def test_what_fires_stands_last_and_what_is_over_says_how_long_it_held(site):
    site.tell(NAN, STALL)
    site.now = 1065.0
    site.tell(over(STALL))
    text = site.printed()
    assert text.index("RESOLVED warning miou-stall") < text.index("FIRING critical nan-loss")
    assert "over after 1 min 05 s" in text
    assert "\n1 firing (1 critical), 1 over\n" in text
    assert text.splitlines()[-1].endswith(" 1"), "the story of the incident, though another alert changed after it"


def test_what_has_no_story_leads_back_to_the_status(site):
    site.tell(STALL)
    assert site.printed().endswith(f"\nNext:\n  segwatch status {site.run.path}\n")


def test_of_many_that_are_over_the_newest_stand_there_and_how_to_see_the_others(site):
    for number in range(25):
        alert = STALL.model_copy(update={"fingerprint": f"evaluator-failed:1:{number}", "since": 1000.0 + number})
        site.tell(alert, over(alert))
    text = site.printed()
    assert text.count("RESOLVED") == 20
    assert text.startswith("5 older ones are over: --since 1970-01-01 shows all")
    assert site.printed(Wanted(since=0.0)).count("RESOLVED") == 25


def test_an_alert_that_fired_stays_told_when_it_begins_again_and_goes_before_it_fires(site):
    site.tell(STALL, over(STALL), STALL.model_copy(update={"state": AlertState.PENDING}))
    site.tell(STALL.model_copy(update={"state": AlertState.WITHDRAWN, "cause": "of the second time"}))
    assert "of the second time" not in site.printed()
    assert "RESOLVED" in site.printed()


def test_programs_get_every_key_in_strict_json(site):
    site.tell(NAN, STALL.model_copy(update={"state": AlertState.PENDING}))
    [told] = json.loads(dumps(alerts_view.as_json(AlertBook(site.run.path), Wanted())))
    assert set(told) == {*alerts_view.KEYS, "changed", "acknowledged_by", "silenced_until"}
    assert (told["since"], told["cause"], told["drill"]) == ("1970-01-01T00:16:40Z", NASTY, "nan-loss@80")


def test_since_and_severity_leave_out_and_say_so(site):
    site.tell(NAN)
    site.now = 2000.0
    site.tell(STALL)
    assert site.codes(Wanted(severity="warning")) == ["nan-loss", "miou-stall"]
    assert site.codes(Wanted(severity="critical")) == ["nan-loss"]
    assert site.codes(Wanted(since=1500.0)) == ["miou-stall"]
    assert "1 not asked for, 1 of them firing" in site.printed(Wanted(since=1500.0))


def test_following_tells_what_there_is_then_each_change_once_and_no_pending_one(site):
    console = Console(file=io.StringIO(), width=200)
    looks = [lambda: site.tell(STALL.model_copy(update={"state": AlertState.PENDING}), over(NAN)), lambda: None]

    def enough() -> bool:
        if not looks:
            return True
        looks.pop(0)()
        return False

    site.tell(NAN)
    alerts_view.follow(site.run, Wanted(), console, json=True, enough=enough)
    assert [json.loads(line)["state"] for line in console.file.getvalue().splitlines()] == ["firing", "resolved"]


def test_a_torn_line_is_no_alert_and_a_file_that_was_written_anew_tells_nothing_twice(site):
    book = AlertBook(site.run.path)
    site.tell(NAN)
    log = site.run.path / "events.jsonl"
    assert [alert["code"] for _, alert in book.read_on()] == ["nan-loss"]
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[1:]))  # shorter than what was read
    assert book.read_on() == []
    with log.open("a") as file:
        file.write('{"seq": 9, "time": 1.0, "kind": "alert", "finger\n')
    assert book.read_on() == []
    assert len(book.alerts()) == 1


# --- spans and moments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("8h", 28800),
        ("2d", 172800),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("0", 0),
    ],
)
def test_a_span_is_read_as_people_write_it(text, seconds):
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "-2h", "8 hours", "2x", "1h-", "nan"])
def test_what_is_no_span_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="1h30m"):
        parse_span(text)


def test_a_moment_is_a_span_ago_or_a_date_in_utc_unless_it_says_otherwise():
    assert parse_since("2h", 10_000.0) == 2800.0
    assert parse_since("1970-01-02", 0.0) == 86400.0
    assert parse_since("1970-01-02T01:00", 0.0) == 90000.0
    assert parse_since("1970-01-02T01:00+01:00", 0.0) == 86400.0
    with pytest.raises(ValueError, match="2026-11-22"):
        parse_since("yesterday", 0.0)


# --- ack and silence -------------------------------------------------------------------------------------------------


def test_an_acknowledged_alert_is_marked_at_once_and_is_a_fact_when_a_daemon_looks(site):
    site.tell(NAN, STALL)
    words = taking_note.acknowledge(site.run, "nan-loss")
    assert f"`{going_on.command(site.run)}` takes it up" in words
    assert f"acknowledged by {wishes.asker()}" in site.printed(width=200)
    assert site.take_up() == [AlertAcknowledged(fingerprint="incident:1", since=1000.0, by=wishes.asker())]
    assert list(wishes.waiting(site.run.path)) == []
    assert f"acknowledged by {wishes.asker()}" in site.printed(width=200)
    assert site.take_up() == []


def test_a_code_acknowledges_all_that_fire_under_it_and_a_fingerprint_one(site):
    site.tell(NAN, NAN.model_copy(update={"fingerprint": "incident:2"}), STALL)
    taking_note.acknowledge(site.run, "incident:2")
    assert [fact.fingerprint for fact in site.take_up()] == ["incident:2"]
    taking_note.acknowledge(site.run, "nan-loss")
    assert [fact.fingerprint for fact in site.take_up()] == ["incident:1"]


def test_what_does_not_fire_cannot_be_acknowledged_and_the_error_names_what_does(site):
    site.tell(NAN, over(STALL))
    with pytest.raises(UsageError) as caught:
        taking_note.acknowledge(site.run, "miou-stall")
    assert caught.value.remedy == "firing here: incident:1"
    assert list(wishes.waiting(site.run.path)) == []


def test_an_alert_that_was_over_before_a_daemon_heard_of_it_is_not_acknowledged(site):
    site.tell(NAN)
    taking_note.acknowledge(site.run, "nan-loss")
    site.tell(over(NAN), NAN.model_copy(update={"since": 2000.0}))
    assert site.take_up() == []


def test_a_silence_holds_until_its_time_and_ends_by_itself_or_by_zero(site, monkeypatch):
    monkeypatch.setattr(wishes, "now", lambda: site.now)
    taking_note.silence(site.run, "miou-stall", 100.0)
    assert site.take_up() == [AlertsSilenced(code="miou-stall", until=1100.0, by=wishes.asker())]
    site.now = 1099.0
    assert site.take_up() == []
    site.now = 1100.0
    assert site.take_up() == [SilenceEnded(code="miou-stall")]
    taking_note.silence(site.run, "miou-stall", 100.0)
    site.take_up()
    taking_note.silence(site.run, "miou-stall", 0.0)
    assert site.take_up() == [SilenceEnded(code="miou-stall")]
    taking_note.silence(site.run, "miou-stall", 0.0)
    assert site.take_up() == []


def test_a_daemon_that_dies_before_it_removed_the_wish_says_nothing_twice(site, monkeypatch):
    monkeypatch.setattr(wishes, "now", lambda: site.now)
    site.tell(NAN)
    taking_note.acknowledge(site.run, "nan-loss")
    site.now = 1001.0
    taking_note.silence(site.run, "miou-stall", 100.0)
    facts = Desk(site.run.path).facts(site.history, site.now)
    site.tell(next(facts))  # and no further: the file lies there still
    assert len(list(wishes.waiting(site.run.path))) == 2
    assert [fact.kind for fact in site.take_up()] == ["alerts-silenced"]


def test_a_code_that_does_not_exist_is_answered_with_the_nearest(site):
    with pytest.raises(UsageError, match="no code") as caught:
        taking_note.silence(site.run, "miou-stal", 60.0)
    assert "did you mean 'miou-stall'" in caught.value.remedy
    with pytest.raises(UsageError, match="no time"):
        taking_note.silence(site.run, "miou-stall", 1e9)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"kind": "ack"}', '{"kind": "stop", "what": "x", "asked": 1, "by": "x"}', "x" * (17 << 10), "\xff"]
    + [
        dumps({"kind": "silence", "what": "miou-stall", "asked": 1, "by": "x", "until": until}) for until in ("9", None)
    ],
)
def test_a_request_that_nobody_can_carry_out_is_set_aside_and_the_others_are_taken(site, content):
    site.tell(NAN)
    directory = site.run.path / "requests"
    directory.mkdir()
    (directory / "0.json").write_text(content, encoding="latin-1")
    taking_note.acknowledge(site.run, "nan-loss")
    assert [fact.kind for fact in site.take_up()] == ["alert-acknowledged"]
    assert [path.name for path in directory.iterdir()] == ["0.refused"]


def test_only_the_owner_reads_what_was_asked_for(site):
    taking_note.silence(site.run, "miou-stall", 60.0)
    assert (site.run.path / "requests").stat().st_mode & 0o077 == 0


def test_every_code_of_the_page_and_of_the_contract_can_be_silenced():
    page = (REPOSITORY / "docs" / "alerts.md").read_text().splitlines()
    documented = {line.split("`")[1] for line in page if line.startswith("| `")}
    assert documented | {cause.value for cause in Cause} <= set(ALERT_CODES)


# --- who is notified -------------------------------------------------------------------------------------------------


def test_what_was_seen_or_is_silenced_notifies_nobody():
    attention = Attention()
    assert not attention.mutes(5.0, NAN)
    attention.apply(2.0, AlertAcknowledged(fingerprint="incident:1", since=NAN.since, by="mia"))
    assert attention.mutes(5.0, NAN)
    assert attention.mutes(5.0, over(NAN))
    assert not attention.mutes(5.0, NAN.model_copy(update={"since": NAN.since + 1})), "it began anew"
    attention.apply(2.0, AlertsSilenced(code="miou-stall", until=9.0, by="mia"))
    assert [attention.mutes(moment, STALL) for moment in (1.0, 2.0, 8.9, 9.0)] == [False, True, True, False]
    attention.apply(3.0, SilenceEnded(code="miou-stall"))
    assert not attention.mutes(5.0, STALL)
