"""Faults of telling: no endpoint stops or slows the watch, nothing is lost or told twice, and no secret is told."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from ..daemon.conftest import Daemon, write_data
from .endpoints import Endpoint
from .matrix import fault
from .promises import assert_nothing_else_broke

pytestmark = pytest.mark.alone

HERE = Path(__file__).parent
CANARY = "c4n4ry-0b5f"
MOODS = ("down", "black-hole", "429", "slow", "well")
TOLD = ["CRITICAL nan-loss", "RESOLVED nan-loss", "finished: 3 epochs trained, every one scored"]
EXTRA = """\
[alerts]
notify = ["env:DOWN", "env:BLACK_HOLE", "file:429.url", {{ url = "env:SLOW", severity = "info" }}, "env:WELL"]
notify_retry_seconds = 0.5
notify_wait_seconds = {wait}
"""


class Probed(Daemon):
    """The daemon that also tells how long its rounds took."""

    def start(self, *arguments: str):
        return self.spawn([os.sys.executable, str(HERE / "run_with_probe.py"), "run.toml", *arguments])

    def seconds(self, name: str) -> list[float]:
        """What the probe noted, shortest first."""
        return sorted(float(line) for line in (self.place / name).read_text().splitlines())


class CommandLines:
    """Everything that /proc showed of command lines while it was watched."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._enough.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue

    def stop(self) -> set[bytes]:
        self._enough.set()
        self._thread.join()
        return self.seen


class Storm:
    """One run with five channels, four of which misbehave until the run is over: killed once, then gone on with."""

    def __init__(self, place: Path) -> None:
        write_data(place)
        self.daemon = Probed(place)
        self.endpoints = {mood: Endpoint(f"{CANARY}-{mood}", mood) for mood in MOODS}
        for mood, endpoint in self.endpoints.items():
            if mood != "down":
                endpoint.start()
        (place / "429.url").write_text(self.endpoints["429"].url + "\n")

    def blow(self) -> None:
        self.commands = CommandLines()
        daemon, well = self.daemon, self.endpoints["well"]
        daemon.configure(extra=EXTRA.format(wait=3))
        daemon.scenario(faults={"1:6": "nan"}, step_seconds=0.2)
        first = daemon.start()
        daemon.until(lambda _: well.taken)
        self.megabytes = psutil.Process(first.pid).memory_info().rss / 1e6
        first.send_signal(signal.SIGKILL)
        outputs = [daemon.finish(first)[1]]
        self.code, output = daemon.run()
        outputs.append(output)
        self.titles_in_the_storm = well.titles()
        self.taken_in_the_storm = {mood: len(endpoint.taken) for mood, endpoint in self.endpoints.items()}
        for endpoint in self.endpoints.values():
            endpoint.recover()
        daemon.configure(extra=EXTRA.format(wait=20))
        self.code_afterwards, output = daemon.run()
        self.output = "\n".join([*outputs, output])
        self.seen = self.commands.stop()

    def clean(self) -> None:
        self.commands.stop()
        for endpoint in self.endpoints.values():
            endpoint.stop()
        self.daemon.clean()


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    storm = Storm(tmp_path_factory.mktemp("storm"))
    with pytest.MonkeyPatch.context() as environment:
        for mood, endpoint in storm.endpoints.items():
            environment.setenv(mood.upper().replace("-", "_"), endpoint.url)
        try:
            storm.blow()
            yield storm
        finally:
            storm.clean()


def assert_told_once_when_it_is_well_again(storm: Storm, mood: str) -> None:
    """Nothing got through in the storm, all of it afterwards, in order; training and the channel beside saw nothing."""
    assert storm.code == storm.code_afterwards == 0, storm.output
    assert storm.taken_in_the_storm[mood] == 0
    assert storm.endpoints[mood].titles() == TOLD
    assert set(storm.endpoints[mood].ids().values()) == {1}
    assert storm.titles_in_the_storm == TOLD, "another channel waited for it"
    assert_nothing_else_broke(storm.daemon)


@fault(
    "notify-down",
    area="Telling",
    fault="endpoint down",
    promise="P3 P7",
    provoked="nothing listens on the port until the run is over",
)
def test_what_an_endpoint_that_is_down_misses_it_is_told_later(storm, provoked):
    provoked()
    assert "env:DOWN: 3 not delivered (no answer (ConnectionError))" in storm.output
    assert_told_once_when_it_is_well_again(storm, "down")


@fault(
    "notify-black-hole",
    area="Telling",
    fault="endpoint takes the connection and never answers",
    promise="P3 P7",
    provoked="an HTTP server that reads and is silent",
)
def test_a_black_hole_holds_up_nothing(storm, provoked):
    provoked(storm.endpoints["black-hole"].refused)
    assert_told_once_when_it_is_well_again(storm, "black-hole")


@fault(
    "notify-429",
    area="Telling",
    fault="endpoint asks for fewer messages",
    promise="P3 P7",
    provoked="status 429 with Retry-After: 1",
)
def test_an_endpoint_that_is_flooded_is_left_alone_for_as_long_as_it_asks(storm, provoked):
    provoked(storm.endpoints["429"].refused)
    assert "file:429.url: 3 not delivered (answered 429)" in storm.output
    assert_told_once_when_it_is_well_again(storm, "429")


@fault(
    "notify-slow",
    area="Telling",
    fault="endpoint answers a byte at a time",
    promise="P3 P7",
    provoked="a byte every 0.3 s, so that no read ever times out",
)
def test_an_endpoint_that_drips_holds_up_nothing(storm, provoked):
    provoked(storm.endpoints["slow"].refused)
    assert_told_once_when_it_is_well_again(storm, "slow")


@fault(
    "notify-daemon-killed",
    area="Telling",
    fault="daemon killed while notifications wait",
    promise="P3",
    provoked="SIGKILL after the first delivery of the channel that is well",
)
def test_a_daemon_that_follows_sends_what_waits_and_repeats_nothing(storm, provoked):
    provoked()
    assert storm.endpoints["well"].titles() == TOLD
    assert all(set(endpoint.ids().values()) == {1} for endpoint in storm.endpoints.values())
    ids = [identity for endpoint in storm.endpoints.values() for identity in endpoint.ids()]
    assert len(set(ids)) == len(ids) == 15, "each fact and channel has an id of its own"


@fault(
    "notify-latency",
    area="Telling",
    fault="four endpoints misbehave at once",
    promise="P7",
    provoked="down, black hole, 429 and slow together: 95 % of rounds and each fact under 100 ms, disk and cores apart",
)
def test_the_loop_goes_round_as_if_no_endpoint_were_there(storm, provoked):
    provoked(4)
    rounds, told = storm.daemon.seconds("loop.txt"), storm.daemon.seconds("told.txt")
    assert len(rounds) > 30
    assert len(told) > 20
    assert told[-1] < 0.1
    assert rounds[int(0.95 * len(rounds))] < 0.1  # not the last ones: a round may begin TensorBoard's files
    assert storm.megabytes < 120


@fault(
    "notify-secret",
    area="Telling",
    fault="address with a token that must not be seen",
    promise="P7",
    provoked="a canary in all five addresses, looked for in files, output and command lines",
)
def test_no_secret_is_in_a_file_an_output_or_a_command_line(storm, provoked):
    provoked(len(MOODS))
    canary = CANARY.encode()
    files = [path for path in storm.daemon.place.rglob("*") if path.is_file() and path.name != "429.url"]
    assert any("outbox" in path.parts for path in files)
    assert [str(path) for path in files if canary in path.read_bytes()] == []
    assert CANARY not in storm.output
    assert any(b"segwatch.daemon.courier" in line for line in storm.seen), "nobody watched"
    assert [line for line in storm.seen if canary in line] == []


@fault(
    "notify-gave-up",
    area="Telling",
    fault="run gives up while nobody looks, and its supervisor starts it again and again",
    promise="P3",
    provoked="a crash loop; a worker that cannot import, tried anew by each call: one message each",
)
@pytest.mark.parametrize(
    ("scenario", "ends"),
    [
        pytest.param({"faults": {f"{n}:6": "crash" for n in range(1, 9)}}, (1, ["CRITICAL"]), id="crash-loop"),
        pytest.param({"import_error": True}, (78, ["CRITICAL", "RESOLVED", "CRITICAL"]), id="import"),
    ],
)
def test_giving_up_is_told_once_before_the_daemon_leaves(daemon, provoked, monkeypatch, scenario, ends):
    code, told = ends
    endpoint = Endpoint(CANARY)
    endpoint.start()
    monkeypatch.setenv("WELL", endpoint.url)
    daemon.configure(extra='[alerts]\nnotify = [{ url = "env:WELL", severity = "critical" }]')
    daemon.scenario(**scenario)
    try:
        codes = [daemon.run()[0] for _ in range(2)]
    finally:
        endpoint.stop()
    provoked(2)
    assert codes == [code, code], "what is told changes no exit code"
    assert [title.split()[0] for title in endpoint.titles() if title.endswith("gave-up")] == told
    assert set(endpoint.ids().values()) == {1}


@fault(
    "notify-directory",
    area="Telling",
    fault="outbox cannot be written",
    promise="P3 P7",
    provoked="a file stands where the directory of the outbox should be, until the run is over",
)
def test_an_outbox_in_nobodys_reach_stops_nothing_and_is_made_up_for(daemon, provoked, nothing_else_broke, monkeypatch):
    endpoint = Endpoint(CANARY)
    endpoint.start()
    monkeypatch.setenv("WELL", endpoint.url)
    daemon.configure(extra='[alerts]\nnotify = ["env:WELL"]\nnotify_wait_seconds = 0.1')
    daemon.scenario(faults={"1:6": "nan"}, step_seconds=0.05)
    running = daemon.start()
    daemon.until(lambda _: True)
    (daemon.run_dir / "outbox").write_text("in the way")
    provoked()
    try:
        code, output = daemon.finish(running)
        assert code == 0, output
        assert "notifications to env:WELL: 3 not delivered" in output
        assert endpoint.taken == []
        (daemon.run_dir / "outbox").unlink()
        daemon.configure(extra='[alerts]\nnotify = ["env:WELL"]\nnotify_wait_seconds = 20')
        assert daemon.run()[0] == 0
    finally:
        endpoint.stop()
    assert endpoint.titles() == TOLD
    nothing_else_broke(daemon)
