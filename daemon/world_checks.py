"""What a run needs of the world around it: TensorBoard's port, each notification channel, a clock that is right.

No message holds the address of a channel, or a piece of one: it is a secret.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..durable import write_text
from ..errors import ConfigError
from .board_server import HOST, why_not
from .channels import Channel, address
from .check import Check, fail, ok, warn
from .courier import SENT, WAITING, Letter, State
from .outbox import COURIER_COMMAND
from .place_checks import nearest
from .reporting import BOARD_PORT

NEIGHBOURS = 20
"""Ports above the one that is taken, among which a free one is looked for."""
SEND_SECONDS = 60.0
SKEW_SECONDS = 5.0
AHEAD_SECONDS = 60.0
CLOCK_SECONDS = 5.0


def check_port(port: int = BOARD_PORT) -> Check:
    """The one that `segwatch run --tensorboard` takes; another one is `--tensorboard-port`'s to name."""
    taken = why_not(port)
    if taken is None:
        return ok("tensorboard", f"port {port} of {HOST} is free for `segwatch run {_asked(port)}`")
    free = next((other for other in range(port + 1, port + NEIGHBOURS) if why_not(other) is None), None)
    remedy = "end what has it" if free is None else f"give `segwatch run` another: --tensorboard-port {free}"
    return warn(
        "tensorboard",
        f"port {port} of {HOST} {taken}, maybe by the TensorBoard of another run: this one would train without",
        remedy,
    )


def _asked(port: int) -> str:
    return "--tensorboard" if port == BOARD_PORT else f"--tensorboard-port {port}"


# --- notifications


def check_channels(channels: Iterable[Channel], base: Path, *, send: bool) -> Iterator[Check]:
    """A line for each channel: whether its address is there and well-formed, and with `send` whether it was taken."""
    told = False
    for channel in {channel.url: channel for channel in channels}.values():
        told = True
        yield _check_channel(channel, base, send=send)
    if not told:
        yield ok("notifications", "none asked for: alerts go to alerts.log and the terminal")


def _check_channel(channel: Channel, base: Path, *, send: bool) -> Check:
    name = f"notify {channel.url}"
    try:
        secret = address(channel.url, base, os.environ)
    except ConfigError as error:
        return fail(name, error.what, error.remedy or "set it")
    if not _well_formed(secret):
        remedy = "apprise knows no such address: see https://github.com/caronc/apprise/wiki for how yours is written"
        return fail(name, "what stands there is no address of a service", remedy)
    if not send:
        return ok(name, "its address is there and well-formed (--send really sends)")
    refused = _send(channel, base)
    if refused:
        return fail(
            name, f"a test was not taken: {refused}", "check the address, the service, and the network from here"
        )
    return ok(name, "a test was sent and taken")


def _well_formed(secret: str) -> bool:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # apprise would tell the address
    try:
        with warnings.catch_warnings(action="ignore"):  # of modules that its plugins still import
            import apprise

            return apprise.Apprise.instantiate(secret, suppress_exceptions=True) is not None
    finally:
        logging.disable(before)


def _send(channel: Channel, base: Path) -> str | None:
    """Let a courier take one letter, as in a run; in words why it could not."""
    words = f"a test of segwatch on {socket.gethostname()}: alerts of a run will arrive here"
    letter = Letter(id=f"test-{time.time_ns()}", title="segwatch: a test", body=words, type="info")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / WAITING).mkdir()
        write_text(place / WAITING / f"{letter.id}.json", letter.model_dump_json())
        command = [*COURIER_COMMAND, str(place), channel.url, str(base), "5"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as courier:
            try:
                code = courier.wait(SEND_SECONDS)
            except subprocess.TimeoutExpired:
                courier.kill()
                return "no end of an answer"
        if list((place / SENT).glob("*.json")):
            return None
        return State.of(place).why or f"the courier ended with {code}"


# --- the clock


def check_clock(
    runs_dir: Path, files: Iterable[Path], *, clock: Callable[[], float] = time.time, synchronised: bool | None = None
) -> Check:
    """Against the newest of `files`, the file system's own clock, and what the system says of NTP.

    `synchronised` is that answer; `None` where nobody knows.
    """
    now = clock()
    said = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    ahead = [(path.stat().st_mtime - now, path) for path in files if path.exists()]
    most, newest = max(ahead, default=(0.0, Path()))
    if most > AHEAD_SECONDS:
        return fail("clock", f"{said}, but {newest} was written later", "set the clock: timedatectl set-ntp true")
    try:
        with tempfile.TemporaryFile(dir=nearest(runs_dir)) as file:
            skew = os.fstat(file.fileno()).st_mtime - clock()
    except OSError:  # what refuses to be written to is another check's
        skew = 0.0
    if abs(skew) > SKEW_SECONDS:
        remedy = "set both clocks by NTP: times of files and of alerts disagree"
        return warn("clock", f"{said}; the file system's clock is {skew:+.0f} s from it", remedy)
    if synchronised is False:
        return warn("clock", f"{said}, set by no time server", "timedatectl set-ntp true")
    return ok("clock", said + (", set by a time server" if synchronised else ""))


def set_by_a_server() -> bool | None:
    """What systemd says of NTP; `None` where it is not asked, as in a container."""
    command = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CLOCK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())
