"""Notifications without a run: who hears of what, what is written once, how long a channel is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segwatch.daemon import outbox as outbox_module
from segwatch.daemon.channels import Channel, address, require_addresses
from segwatch.daemon.config import load_config
from segwatch.daemon.courier import State, pause_asked_for
from segwatch.daemon.events import (
    AlertAcknowledged,
    AlertChanged,
    AlertsSilenced,
    AlertState,
    RunFinished,
    Severity,
    SilenceEnded,
)
from segwatch.daemon.history import History
from segwatch.daemon.outbox import Outbox, set_apart
from segwatch.daemon.store import Store
from segwatch.errors import ConfigError

from ..faults.endpoints import Endpoint
from .conftest import CONFIG

SECRET = "https://hooks.example.org/s3cr3t"
ALERT = AlertChanged(
    fingerprint="incident:1",
    code="nan-loss",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    since=5.0,
    cause="the loss became NaN",
    evidence={"step": 6},
    action="lr halved",
    advice="look at the batch",
)
RESOLVED = ALERT.model_copy(update={"state": AlertState.RESOLVED})
WARNING = ALERT.model_copy(update={"fingerprint": "miou-stall", "code": "miou-stall", "severity": Severity.WARNING})


A = Channel(url="env:A")


class Site:
    """A run directory with its facts and an outbox whose couriers deliver nothing."""

    def __init__(self, path) -> None:
        self.path = path
        self.store = Store(path)
        self.boxes: list[Outbox] = []

    def outbox(self, *channels: Channel) -> Outbox:
        command = (sys.executable, "-c", "import time; time.sleep(60)")
        box = Outbox(self.path, channels, base=self.path, retry_seconds=60, environment=os.environ, command=command)
        box.resume(self.store, History.of(self.store.events()))
        self.boxes.append(box)
        return box

    def letters(self, box: Outbox, channel: Channel = A) -> list[str]:
        """The titles that wait, once the outbox says that it has written everything."""
        for _ in range(200):
            if not any(each._unwritten for each in box._boxes):
                break
            time.sleep(0.01)
        place = f"outbox/{outbox_module._directory_name(channel)}/waiting"
        return [json.loads(path.read_text())["title"] for path in sorted((self.path / place).glob("*.json"))]

    def close(self) -> None:
        for box in self.boxes:
            box.close()
        self.store.close()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "LEAVE_SECONDS", 0.0)
    path = tmp_path / "run"
    path.mkdir()
    site = Site(path)
    yield site
    site.close()


# --- what run.toml may say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        f'["{SECRET}"]',
        f'"{SECRET}"',
        f'[{{ url = "{SECRET}" }}]',
        f'{{ url = "{SECRET}" }}',
        f'[{{ urls = "{SECRET}" }}]',
        f'[{{ url = ["{SECRET}"] }}]',
        f'[["{SECRET}"]]',
        f'[{{ url = "env:A", severity = "{SECRET}" }}]',
        '["file:///home/s3cr3t"]',
        '["env:not a name s3cr3t"]',
        f'"{SECRET}',
    ],
)
def test_an_address_in_the_file_is_refused_and_not_repeated(tmp_path, written):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(epochs=1, amp="off", extra=f"[alerts]\nnotify = {written}"))
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    told = "".join(traceback.format_exception(refused.value))  # what --debug prints
    assert "s3cr3t" not in told
    assert "not TOML" in told or "alerts.notify" in told


def test_an_address_in_the_file_is_told_why_and_how_to_do_it(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(epochs=1, amp="off", extra=f'[alerts]\nnotify = ["{SECRET}"]'))
    with pytest.raises(ConfigError, match=r'holds a token.*"env:NAME".*"file:/path"'):
        load_config(path)


def test_a_text_and_a_table_are_channels(tmp_path):
    path = tmp_path / "run.toml"
    extra = '[alerts]\nnotify = ["env:A", { url = "file:secrets/b", severity = "critical" }]'
    path.write_text(CONFIG.format(epochs=1, amp="off", extra=extra))
    assert load_config(path).alerts.notify == (
        Channel(url="env:A"),
        Channel(url="file:secrets/b", severity=Severity.CRITICAL),
    )


def test_an_address_is_read_from_the_environment_or_from_the_first_line_of_a_file(tmp_path):
    (tmp_path / "b").write_text(f"\n  {SECRET}  \nmore\n")
    assert address("env:A", tmp_path, {"A": f" {SECRET}\n"}) == SECRET
    assert address("file:b", tmp_path, {}) == SECRET


@pytest.mark.parametrize("reference", ["env:SEGWATCH_NOWHERE", "file:empty", "file:nowhere", "file:binary"])
def test_an_address_that_is_not_there_is_named_before_anything_begins(tmp_path, reference):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=reference.split(":")[1]):
        require_addresses([Channel(url=reference)], tmp_path)


# --- what is told --------------------------------------------------------------------------------------------------


def test_an_alert_is_told_when_it_fires_and_when_it_is_over_and_no_more(site):
    box = site.outbox(A)
    again = ALERT.model_copy(update={"action": "another action"})
    pending = ALERT.model_copy(update={"state": AlertState.PENDING})
    for moment, event in enumerate([pending, ALERT, again, ALERT, RESOLVED, RESOLVED, RunFinished(trained=3)]):
        box.handle(float(moment), event)
    assert site.letters(box) == [
        "segwatch run: CRITICAL nan-loss",
        "segwatch run: RESOLVED nan-loss",
        "segwatch run: finished: 3 epochs trained, every one scored",
    ]


def test_a_channel_hears_only_what_is_grave_enough(site):
    grave = Channel(url="env:A", severity=Severity.CRITICAL)
    box = site.outbox(grave)
    for moment, event in enumerate([WARNING, ALERT, RunFinished(trained=3)]):
        box.handle(float(moment), event)
    assert site.letters(box, grave) == ["segwatch run: CRITICAL nan-loss"]


def test_an_alert_that_comes_back_is_told_again(site):
    box = site.outbox(A)
    for moment, event in enumerate([ALERT, RESOLVED, ALERT.model_copy(update={"since": 9.0})]):
        box.handle(float(moment), event)
    assert len(site.letters(box)) == 3


def test_a_daemon_that_follows_writes_what_the_first_one_only_recorded(site):
    site.outbox(A).close()
    for event in (ALERT, RESOLVED, RunFinished(trained=3)):
        site.store.append(event)
    assert len(site.letters(site.outbox(A))) == 3
    assert len(site.letters(site.outbox(A))) == 3, "nothing twice"


def test_a_new_channel_hears_of_what_fires_now_and_of_nothing_older(site):
    for event in (ALERT, RESOLVED, WARNING, RunFinished(trained=3)):
        site.store.append(event)
    assert site.letters(site.outbox(A)) == ["segwatch run: WARNING miou-stall"]


def test_the_processes_beside_it_do_not_inherit_an_address(monkeypatch):
    monkeypatch.setenv("A", SECRET)
    with set_apart([A, Channel(url="env:SEGWATCH_NOWHERE")]) as environment:
        assert "A" not in os.environ
        assert environment["A"] == SECRET
    assert os.environ["A"] == SECRET


def test_an_outbox_that_cannot_be_written_is_no_error_of_the_loop_and_is_written_later(site):
    (site.path / "outbox").write_text("in the way")
    box = site.outbox(A)
    box.handle(1.0, ALERT)
    assert "1 not delivered" in box.undelivered()[0]
    box.close()
    site.store.append(ALERT)
    (site.path / "outbox").unlink()
    assert site.letters(site.outbox(A)) == ["segwatch run: CRITICAL nan-loss"]


def test_the_daemon_loads_nothing_that_sends(tmp_path):
    code = "import sys, segwatch.daemon.job; print([n for n in ('apprise', 'requests') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- the courier ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.floats(0.1, 100), st.none() | st.floats(0, 1e6))
def test_a_pause_doubles_is_never_long_and_heeds_what_the_endpoint_asks_for(failures, retry, asked):
    state = State(failures=failures).failed("x", retry_seconds=retry, retry_after=asked)
    pause = state.next_try - time.time()
    assert state.failures == failures + 1
    assert pause <= max(300, min(asked or 0, 3600)) + 0.01
    assert pause >= min(retry, asked or retry, 300) - 5


def test_retry_after_is_read_in_both_its_forms():
    assert pause_asked_for({"Retry-After": "120"}) == 120
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert pause_asked_for({"Retry-After": later}) == pytest.approx(90, abs=5)
    for nonsense in ("soon", "", "-5", "1e9"):
        assert pause_asked_for({"Retry-After": nonsense}) is None


def channel(tmp_path, *names: str):
    place = tmp_path / "channel"
    (place / "waiting").mkdir(parents=True)
    for name in names:
        letter = {"id": "0123456789abcdef", "title": f"run: {name}", "body": "id: 0123456789abcdef", "type": "info"}
        (place / "waiting" / f"{name}.json").write_text(json.dumps(letter))
    return place


def courier(place, url: str, before: str = "") -> int:
    code = f"import sys\nfrom segwatch.daemon import courier\n{before}\nsys.exit(courier.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(place), "env:ADDRESS", str(place), "5"]
    with subprocess.Popen(command, env={**os.environ, "ADDRESS": url}, stdin=subprocess.PIPE) as child:
        return child.wait(60)


@pytest.fixture
def endpoint():
    endpoint = Endpoint("token")
    endpoint.start()
    yield endpoint
    endpoint.stop()


def test_a_letter_that_is_refused_lets_the_next_one_pass(tmp_path, endpoint):
    place = channel(tmp_path, "first", "second")
    endpoint.refuse = "first"
    assert courier(place, endpoint.url) == 0
    assert endpoint.titles() == ["second"]
    assert [path.name for path in (place / "waiting").iterdir()] == ["first.json"]
    assert State.of(place).why == "answered 400"


def test_an_endpoint_that_never_ends_its_answer_is_left_in_the_end(tmp_path, endpoint):
    endpoint.mood = "slow"
    assert courier(channel(tmp_path, "first"), endpoint.url, "courier.SEND_SECONDS = 1") == -signal.SIGALRM


@pytest.mark.parametrize("url", ["nonsense", "nosuchservice://x/y", "json://"])
def test_what_apprise_does_not_know_is_told_without_the_address(tmp_path, url):
    place = channel(tmp_path, "first")
    assert courier(place, url) == 0
    assert State.of(place).why == "apprise knows no such address"


# --- acknowledged and silenced ---------------------------------------------------------------------------------------


def test_an_acknowledged_alert_is_not_written_about_again_until_it_begins_anew(site, put):
    box = site.outbox(A)
    tell(site, box, ALERT, AlertAcknowledged(fingerprint=ALERT.fingerprint, since=ALERT.since, by="mia"), RESOLVED)
    assert put(box) == ["nan-loss"]
    tell(site, box, ALERT.model_copy(update={"since": 50.0}))
    assert put(box) == ["nan-loss", "nan-loss"]


def test_a_silenced_code_is_told_when_the_silence_is_over_and_it_still_fires(site, put):
    box = site.outbox(A)
    tell(site, box, AlertsSilenced(code="miou-stall", until=9e12, by="mia"), WARNING, ALERT)
    assert put(box) == ["nan-loss"]
    tell(site, box, SilenceEnded(code="miou-stall"))
    assert put(box) == ["nan-loss", "miou-stall"]


def test_a_daemon_that_comes_later_keeps_the_silence(site):
    tell(site, site.outbox(A), AlertsSilenced(code="miou-stall", until=9e12, by="mia"), WARNING, ALERT)
    assert site.letters(site.outbox(A)) == ["segwatch run: CRITICAL nan-loss"]


@pytest.fixture
def put(monkeypatch):
    """The codes of all letters that a box took up, in their order, written by now or not."""
    taken: dict[object, list[str]] = {}
    real = outbox_module._Box.put

    def note(box, moment, severity, fact, letter) -> None:
        before = len(box._known)
        real(box, moment, severity, fact, letter)
        if len(box._known) > before:
            taken.setdefault(box, []).append(letter.title.rsplit(" ", 1)[-1])

    monkeypatch.setattr(outbox_module._Box, "put", note)
    return lambda box: taken.get(box._boxes[0], [])


def tell(site, box, *events) -> None:
    """As the recorder does: durable, then into the history that the outbox knows, then to the outbox."""
    for event in events:
        moment = site.store.append(event)
        box._history.apply(moment, event)
        box.handle(moment, event)
