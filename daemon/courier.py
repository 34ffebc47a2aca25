"""Takes what waits in one channel's outbox to its endpoint, by apprise. A process of its own: whatever an endpoint does
happens here, and not in the daemon.

`python -m segwatch.daemon.courier CHANNEL_DIR REFERENCE BASE RETRY_SECONDS`. A letter is delivered once it lies in
`sent/`; that is one rename, made here at once, so that neither this process nor the daemon can die between a delivery
and a note of it for long. One courier at a time per channel. Says nothing: its words are `state.json`, and none of
them comes from apprise or from the endpoint, which may repeat an address.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import ValidationError

from ..durable import sync_directory, write_text
from ..errors import ConfigError
from ..section import Record
from .channels import address

WAITING, SENT, STATE, LOCK = "waiting", "sent", "state.json", "courier.lock"
SEND_SECONDS = 15
"""For one letter, whatever the endpoint does: it may also answer a byte at a time, for ever."""
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
BUSY = 75
OF_THE_LETTER = frozenset({400, 413, 414, 422})
"""Answers that speak of one letter, not of the channel: the next one may well be taken."""


class Letter(Record):
    """What to tell, and a stable id: the same fact on the same channel has the same one, however often it is sent."""

    id: str
    title: str
    body: str
    type: Literal["info", "success", "warning", "failure"]
    summary: str = ""
    """In one line, for a digest."""
    holds: tuple[str, ...] = ()
    """The ids of the letters that it stands for, where it is a digest."""


class State(Record):
    """How a channel does: state.json, kept over restarts so that the pauses are."""

    failures: int = 0
    next_try: float = 0.0
    """Seconds since the epoch."""
    why: str = ""

    @classmethod
    def of(cls, place: Path) -> State:
        try:
            return cls.model_validate_json((place / STATE).read_bytes())
        except (OSError, ValidationError):  # of no account: then it is tried at once
            return cls()

    def failed(self, why: str, *, retry_seconds: float, retry_after: float | None = None) -> State:
        """With the pause doubled; an endpoint that says how long is heeded."""
        pause = min(retry_seconds * 2.0 ** min(self.failures, 20), LONGEST_PAUSE_SECONDS)
        if retry_after is not None:
            pause = max(pause, min(retry_after, LONGEST_RETRY_AFTER_SECONDS))
        return State(failures=self.failures + 1, next_try=time.time() + pause, why=why)

    def write(self, place: Path) -> None:
        write_text(place / STATE, self.model_dump_json() + "\n")


class Answer:
    """What the endpoint said last, in our own words: apprise tells only whether it was taken."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after: float | None = None
        self.error: str | None = None

    def watch_requests(self) -> None:
        """Wrap the one method that every HTTP plugin of apprise ends in."""
        import requests

        send = requests.Session.send

        def watched(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            try:
                response = send(session, request, **options)
            except requests.RequestException as error:
                self.error = type(error).__name__
                raise
            self.status, self.retry_after = response.status_code, pause_asked_for(response.headers)
            return response

        requests.Session.send = watched  # type: ignore[method-assign, assignment]

    def forget(self) -> None:
        self.status = self.retry_after = self.error = None

    def words(self) -> str:
        if self.error is not None:
            return f"no answer ({self.error})"
        return "not taken" if self.status is None else f"answered {self.status}"


def main(arguments: list[str]) -> int:
    place, reference, base, retry_seconds = Path(arguments[0]), arguments[1], Path(arguments[2]), float(arguments[3])
    logging.disable(logging.CRITICAL)  # apprise and urllib3 would tell addresses
    with (place / LOCK).open("ab") as lock:
        if not _taken(lock):
            return BUSY
        state = State.of(place)
        try:
            state = deliver_all(place, address(reference, base, os.environ), state, retry_seconds)
        except ConfigError as error:
            state = state.failed(error.what, retry_seconds=retry_seconds)
        except Exception as error:  # noqa: BLE001  boundary: a plugin may raise anything, and its words may be secret
            state = state.failed(f"{type(error).__name__} in apprise", retry_seconds=retry_seconds)
        state.write(place)
    return 0


def courier_at_work(place: Path) -> bool:
    """Whether the channel at `place` has a courier, whoever sent it."""
    with (place / LOCK).open("ab") as lock:
        return not _taken(lock)


def _taken(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def deliver_all(place: Path, url: str, state: State, retry_seconds: float) -> State:
    """Oldest first. A channel that does not answer ends the round; a letter that is refused lets the next one pass."""
    import apprise

    answer, failed = Answer(), None
    answer.watch_requests()
    asset = apprise.AppriseAsset(async_mode=False, app_id="segwatch", app_desc="segwatch")
    plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if plugin is None:
        raise ConfigError("apprise knows no such address")
    notifier = apprise.Apprise(asset=asset)
    notifier.add(plugin)
    alone = _orphaned()
    for path in sorted((place / WAITING).glob("*.json")):
        if alone.is_set():
            break
        letter = Letter.model_validate_json(path.read_bytes())
        answer.forget()
        signal.alarm(SEND_SECONDS)
        taken = notifier.notify(
            body=letter.body,
            title=letter.title,
            notify_type=apprise.NotifyType(letter.type),
            body_format=apprise.NotifyFormat.TEXT,
        )
        signal.alarm(0)
        if taken:
            _mark_sent(path, place / SENT)
            continue
        failed = state.failed(answer.words(), retry_seconds=retry_seconds, retry_after=answer.retry_after)
        if answer.status not in OF_THE_LETTER:
            return failed
    return failed or State()


def _mark_sent(path: Path, sent: Path) -> None:
    """A disk that refuses the mark must not make a letter go out again and again: then it is removed instead."""
    try:
        sent.mkdir(exist_ok=True)
        path.replace(sent / path.name)
        sync_directory(sent)
    except OSError:
        path.unlink(missing_ok=True)


def pause_asked_for(headers: Mapping[str, str]) -> float | None:
    """Retry-After (RFC 9110, 10.2.3) in seconds, from either of its forms; `None` where there is none."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    with contextlib.suppress(ValueError, TypeError):
        until = parsedate_to_datetime(value)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return None


def _orphaned() -> threading.Event:
    """Set when the input ends: the daemon is gone, and the one that follows sends the rest."""
    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: Python aborts at its end when a thread stands in a buffered read
            pass
        alone.set()

    threading.Thread(target=watch, name="input", daemon=True).start()
    return alone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
