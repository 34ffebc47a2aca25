"""What a person asks of a run from another process: `segwatch ack` and `silence`. A file in requests/ is one wish.

events.jsonl has one writer, so a wish lies in the run directory until the daemon makes facts of it: at its next look,
or when it starts again. Until then `status` and `alerts` reckon with it. Quick to import; notifies nobody.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..durable import read_text, write_json

REQUESTS = "requests"
LIMIT_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One request. `what` is the code of an alert, or for `ack` the fingerprint of one."""

    kind: Literal["ack", "silence"]
    what: str
    asked: float
    """Seconds since the epoch."""
    by: str
    until: float | None = None
    """For `silence`: seconds since the epoch; what lies not behind `asked` ends a silence."""
    since: dict[str, float] | None = None
    """For `ack`: by fingerprint, when the alerts began that the person saw."""

    @classmethod
    def of(cls, written: Any) -> Wish:
        """Raises ValueError for what nobody can carry out."""
        if not isinstance(written, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 - a bad value of a file, not a wrong type in the program
        kind, until, since = written.get("kind"), written.get("until"), written.get("since")
        sound = isinstance(written.get("what"), str) and isinstance(written.get("by"), str)
        if not sound or not _is_number(written.get("asked")):
            raise ValueError("what, asked or by is missing")
        fits = {
            "ack": isinstance(since, dict) and all(isinstance(key, str) and _is_number(since[key]) for key in since),
            "silence": _is_number(until),
        }
        if kind not in fits or not fits[kind]:
            raise ValueError(f"no request of the kind {kind!r} that can be carried out")
        return cls(kind=kind, what=written["what"], asked=written["asked"], by=written["by"], until=until, since=since)


def place(run_dir: Path, wish: Wish) -> Path:
    """Lay a wish into the run, whole or not at all; returns its file. Raises OSError where the disk refuses."""
    directory = run_dir / REQUESTS
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / f"{wish.asked:017.6f}-{secrets.token_hex(3)}.json"
    write_json(path, asdict(wish))
    return path


def waiting(run_dir: Path) -> Iterator[tuple[Path, Wish | ValueError]]:
    """The wishes that no daemon has taken yet, oldest first, or why a file is none."""
    try:
        paths = sorted((run_dir / REQUESTS).glob("*.json"))
    except OSError:  # deleted under our eyes: then nothing waits
        return
    for path in paths:
        try:
            yield path, Wish.of(json.loads(read_text(path, limit=LIMIT_BYTES)))
        except FileNotFoundError:
            continue  # the daemon has taken it just now
        except ValueError as error:
            yield path, error


def asker() -> str:
    """The person who asks, as the system knows them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without a name for its user
        return f"uid {os.getuid()}"


def now() -> float:
    """To the microsecond, as its file is named."""
    return round(time.time(), 6)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
