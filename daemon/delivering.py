"""The two ends of a run's notifications: can everyone be told, and was everything delivered. Knows no channel."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

from rich.console import Console

from ..errors import ConfigError
from .channels import require_addresses
from .config import RunConfig
from .observing import Screen
from .outbox import Outbox
from .places import Places
from .screen import nobody_may_look


def check_channels(source: Path, config: RunConfig, console: Console, *, begins: bool) -> None:
    """Raises ConfigError at the beginning of a run; one that goes on does so, and its notifications wait."""
    try:
        require_addresses(config.alerts.notify, source.resolve().parent)
    except ConfigError as error:
        if begins:
            raise Places(source).in_error(error) from error
        with nobody_may_look():
            console.print(f"notifications wait: {error.what}", soft_wrap=True, highlight=False, markup=False)


def send_the_rest(outbox: Outbox, seconds: float, screen: Screen) -> None:
    """The last alerts matter most: give them time, unless a person has none. Quiet hours end with the run."""
    asked = threading.Event()

    def enough(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, enough) for number in (signal.SIGINT, signal.SIGTERM)}
    outbox.end_quiet()
    try:
        outbox.drain(seconds, enough=asked.is_set)
        for words in outbox.undelivered():
            screen.say(f"notifications to {words}: the next `segwatch run` sends them")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
