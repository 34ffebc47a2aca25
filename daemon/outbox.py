"""Notifications: each alert that fires or is over, and the end of a run, kept on disk until each channel has taken it.

The loop never waits here, not even for the disk: what it recorded is durable already, and `resume` makes a letter anew
that was not written. A thread per channel writes letters, `outbox/CHANNEL/waiting/` and `sent/`, and starts a courier
when something is due; the endpoint is the courier's business.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ..durable import write_text
from ..plain import one_line
from .alerts import TOLD, alert_lines
from .channels import Channel
from .courier import BUSY, LONGEST_RETRY_AFTER_SECONDS, SENT, WAITING, Letter, State, courier_at_work
from .events import AlertChanged, AlertState, Event, RunFinished, Severity, SilenceEnded
from .history import History
from .holding_back import DIGESTED, HELD, HeldBack
from .quiet import QuietHours
from .recording import Fact
from .store import Store
from .words import sentence

log = logging.getLogger(__name__)
COURIER_COMMAND = (sys.executable, "-P", "-m", "segwatch.daemon.courier")
COURIER_SECONDS = 600.0
"""It limits each letter by itself; this is for one that was stopped (SIGSTOP)."""
LEAVE_SECONDS = 2.0
"""For a courier that is under way when the daemon leaves."""
BUSY_SECONDS = 0.5
POLL_SECONDS = 0.1
CLOCK_SECONDS = 60.0
"""How often the clock is looked at while something waits for a time of day."""
TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}


class Outbox:
    """A sink of facts: `resume` once, before any; `drain` at the end, `close` in any case."""

    def __init__(
        self,
        run_dir: Path,
        channels: Sequence[Channel],
        *,
        base: Path,
        retry_seconds: float,
        environment: Mapping[str, str],
        quiet_hours: str = "",
        command: Sequence[str] = COURIER_COMMAND,
    ) -> None:
        self._run_dir = run_dir
        self._history = History()
        self._boxes = [
            _Box(
                run_dir / "outbox" / _directory_name(channel),
                channel,
                command=command,
                base=base,
                retry_seconds=retry_seconds,
                environment=environment,
                quiet_hours=quiet_hours if channel.quiet_hours is None else channel.quiet_hours,
            )
            for channel in {channel.url: channel for channel in channels}.values()
        ]

    def resume(self, store: Store, history: History) -> None:
        """Write what an earlier daemon recorded and the disk, or its death, kept out of the outbox.

        A channel that is new is told of what fires now, and of nothing older.
        """
        self._history = history
        for box in self._boxes:
            joined = store.noted(box.note)
            if joined is None:
                store.note(box.note, str(store.sequence))
            else:
                for moment, event in store.events(after=int(joined)):
                    self._put(box, moment, event)
            for alert in history.firing():
                self._put(box, time.time(), alert)

    def handle(self, moment: float, event: Event) -> None:
        for box in self._boxes:
            self._put(box, moment, event)
            if isinstance(event, SilenceEnded):  # what began under the silence and still fires is news by now
                for alert in self._history.firing():
                    self._put(box, moment, alert)

    def catch_up(self, facts: Sequence[Fact]) -> None:
        """`resume` has done so, and knows better: what lies in the outbox tells what was written."""

    def _put(self, box: _Box, moment: float, event: Event) -> None:
        if isinstance(event, AlertChanged) and self._history.attention.mutes(moment, event):
            return
        written = _letter(self._run_dir, moment, event)
        over = isinstance(event, AlertChanged) and event.state is AlertState.RESOLVED
        if written is not None and box.channel.hears(written[0]) and (box.channel.resolved or not over):
            box.put(moment, *written)

    def tell_digest(self, moment: float, fact: str, words: str, lines: Sequence[str]) -> None:
        """What a day came to, once for each `fact`, to the channels that want it."""
        letter = _sealed(self._run_dir, words, lines, "info", f"{_clock(moment)} {words}")
        for box in self._boxes:
            if box.channel.hears_digest:
                box.put(moment, Severity.INFO, fact, letter)

    def end_quiet(self) -> None:
        """The run is over: what is held for the end of the quiet hours is told now, as nobody will be there then."""
        for box in self._boxes:
            box.end_quiet()

    def drain(self, seconds: float, *, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything is delivered, `enough` says so, or nothing more can go in the time that is left."""
        deadline = time.monotonic() + seconds
        while not enough() and (left := deadline - time.monotonic()) > 0:
            if not any(box.may_deliver_within(left) for box in self._boxes):
                return
            threading.Event().wait(POLL_SECONDS)

    def undelivered(self) -> list[str]:
        """In words, one line for each channel that has not taken everything."""
        return [words for box in self._boxes if (words := box.undelivered())]

    def close(self) -> None:
        for box in self._boxes:
            box.close()


@contextmanager
def set_apart(channels: Sequence[Channel]) -> Iterator[dict[str, str]]:
    """The environment for couriers. Meanwhile no other child inherits the addresses, or can be made to print them."""
    secrets = {name: os.environ[name] for channel in channels if (name := channel.variable) and name in os.environ}
    environment = dict(os.environ)
    for name in secrets:
        del os.environ[name]
    try:
        yield environment
    finally:
        os.environ.update(secrets)


class _Box:
    """One channel: its letters and the thread that sends couriers. No channel waits for another."""

    def __init__(
        self,
        place: Path,
        channel: Channel,
        *,
        command: Sequence[str],
        base: Path,
        retry_seconds: float,
        environment: Mapping[str, str],
        quiet_hours: str,
    ) -> None:
        self.channel = channel
        self._place = place
        self._command = [*command, str(place), channel.url, str(base), str(retry_seconds)]
        self._retry_seconds = retry_seconds
        self._environment = environment
        self._held = HeldBack(place, QuietHours.parse(quiet_hours))
        boxes = (WAITING, SENT, HELD, DIGESTED)
        self._known = {_id_in(path) for name in boxes for path in (self._place / name).glob("*.json")}
        self._unwritten: deque[tuple[Path, Letter]] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._said = ""
        self._thread = threading.Thread(target=self._serve, name=f"outbox-{self._place.name}", daemon=True)
        self._thread.start()

    # --- the loop's side -------------------------------------------------------------------------------------------

    @property
    def note(self) -> str:
        """Under which the store keeps the number of the last fact before this channel was there."""
        return f"outbox {self._place.name}"

    def put(self, moment: float, severity: Severity, fact: str, letter: Letter) -> None:
        """Take it up, unless it was: also by an earlier daemon, and also when it was sent since."""
        identity = hashlib.sha256(f"{self._place.name}\n{fact}".encode()).hexdigest()[:16]
        if identity in self._known:
            return
        self._known.add(identity)
        box = HELD if self._held.keeps(severity) else WAITING
        path = self._place / box / f"{moment:017.6f}-{identity}.json"
        self._unwritten.append(
            (path, letter.model_copy(update={"id": identity, "body": f"{letter.body}\nid: {identity}"}))
        )
        self._wake.set()

    def may_deliver_within(self, seconds: float) -> bool:
        return bool(self._unwritten or self._waiting() or self._held.due) and (
            self._child is not None or self._pause() <= seconds
        )

    def undelivered(self) -> str | None:
        waiting = len(self._waiting()) + len(self._unwritten) + len(self._held.letters())
        why = State.of(self._place).why
        return f"{self.channel.url}: {waiting} not delivered{f' ({why})' if why else ''}" if waiting else None

    def end_quiet(self) -> None:
        self._held.end()
        self._wake.set()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(LEAVE_SECONDS)
        while self._thread.is_alive():
            child = self._child
            if child is not None:
                child.kill()
            self._thread.join(POLL_SECONDS)

    # --- the thread's side -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                pause = self._round()
            except Exception:  # boundary: no fault in telling ends the telling (promise P7)
                log.exception("notifications to %s", self.channel.url)
                pause = self._retry_seconds
            self._wake.wait(pause)
            self._wake.clear()

    def _round(self) -> float | None:
        """Send a courier if one is due; returns how long nothing will be, `None` for until something is put."""
        self._write_down()
        quiet = self._held.release()
        if not self._waiting():
            return _sooner(quiet, None)
        if (pause := self._pause()) > 0:
            return _sooner(quiet, pause)
        if courier_at_work(self._place):  # of a daemon that died: it finishes its letter
            return BUSY_SECONDS
        code = self._send()
        if self._closing.is_set() or code == BUSY:
            return BUSY_SECONDS
        if code != 0:
            state = State.of(self._place)
            why = "no end of an answer" if code < 0 else f"the courier ended with {code}"
            state.failed(why, retry_seconds=self._retry_seconds).write(self._place)
        self._tell()
        return _sooner(quiet, self._pause() if self._waiting() else None)

    def _write_down(self) -> None:
        while self._unwritten:
            path, letter = self._unwritten[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, letter.model_dump_json(indent=1) + "\n")
            self._unwritten.popleft()

    def _send(self) -> int:
        self._child = child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # its end tells the courier that the daemon is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )
        try:
            return child.wait(COURIER_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
        finally:
            assert child.stdin is not None
            child.stdin.close()
            self._child = None

    def _waiting(self) -> list[Path]:
        try:
            return list((self._place / WAITING).glob("*.json"))
        except OSError:  # it shows again when the next letter is written
            return []

    def _pause(self) -> float:
        """Seconds until the next try; a clock that was set back does not make it longer than any pause is."""
        left = State.of(self._place).next_try - time.time()
        return max(0.0, min(left, LONGEST_RETRY_AFTER_SECONDS))

    def _tell(self) -> None:
        """Each new reason once, in daemon.log."""
        why = State.of(self._place).why
        if why != self._said:
            log.warning("notifications to %s: %s", self.channel.url, why or "delivered again")
            self._said = why


def _letter(run_dir: Path, moment: float, event: Event) -> tuple[Severity, str, Letter] | None:
    """How grave, which fact, and its letter; `None` for what nobody is written to about."""
    match event:
        case AlertChanged() if event.state in TOLD:
            return event.severity, _fact(event), _alert_letter(run_dir, moment, event)
        case RunFinished():
            words = sentence(event) or ""
            summary = f"{_clock(moment)} {words}"
            return Severity.INFO, f"finished {moment!r}", _sealed(run_dir, words, [words], "success", summary)
        case _:
            return None


def _alert_letter(run_dir: Path, moment: float, alert: AlertChanged) -> Letter:
    over = alert.state is AlertState.RESOLVED
    words = f"{'RESOLVED' if over else alert.severity.upper()} {alert.code}" + (" [DRILL]" if alert.drill else "")
    summary = f"{_clock(moment)} {words}: {one_line(alert.cause)}"
    kind = "success" if over else TYPES[alert.severity]
    return _sealed(run_dir, words, alert_lines(alert, moment, whole=True), kind, summary)


def _sealed(run_dir: Path, words: str, lines: Sequence[str], kind: str, summary: str) -> Letter:
    where = f"run: {one_line(str(run_dir))} on {socket.gethostname()}"
    title = f"segwatch {one_line(run_dir.name)}: {words}"
    body = "\n".join([*lines, where])
    return Letter.model_validate({"id": "", "title": title, "body": body, "type": kind, "summary": summary})


def _clock(moment: float) -> str:
    """As the clock on the wall shows it: for people who look back on a night."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%a %H:%M")


def _sooner(quiet: float | None, pause: float | None) -> float | None:
    """The shorter of two waits, `None` being for ever; a wall clock that is set anew must not make it long."""
    if quiet is None:
        return pause
    return min(quiet, CLOCK_SECONDS) if pause is None else min(quiet, CLOCK_SECONDS, pause)


def _fact(alert: AlertChanged) -> str:
    """What stays the same however often an alert in this state is recorded: a new action is no new alert."""
    return f"{alert.fingerprint} {alert.state} {alert.since!r}"


def _id_in(path: Path) -> str:
    return path.stem.rsplit("-", 1)[-1]


def _directory_name(channel: Channel) -> str:
    """Readable, and its own for each reference; a channel whose least severity is edited stays the same one."""
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", channel.url).strip("-.")[:60]
    return f"{readable}-{hashlib.sha256(channel.url.encode()).hexdigest()[:6]}"
