"""Notifications that wait for the end of the quiet hours of one channel, and the one message that they become.

They lie in `outbox/CHANNEL/held/` and move to `outbox/CHANNEL/digested/` once the message that holds them all is
written. Knows nothing about couriers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from ..durable import write_text
from ..plain import one_line
from .courier import SENT, WAITING, Letter
from .events import Severity
from .quiet import QuietHours

HELD, DIGESTED = "held", "digested"
LINES = 30
"""Messengers cut what is longer than some 4000 characters."""


class HeldBack:
    """Of one channel."""

    def __init__(self, place: Path, hours: QuietHours | None) -> None:
        self._place = place
        self._hours = hours
        self._over = False

    def keeps(self, severity: Severity) -> bool:
        """Whether a letter of this gravity waits now. Who was woken by a critical alert also hears that it is over."""
        return severity is not Severity.CRITICAL and not self._over and self.ends() is not None

    def ends(self) -> float | None:
        """When the quiet of now ends, in seconds since the epoch; `None` when it is not quiet."""
        return None if self._hours is None else self._hours.end_of(time.time())

    def end(self) -> None:
        """The daemon leaves for good: nobody will be there later to tell what is held."""
        self._over = True

    def letters(self) -> list[Path]:
        """Those that are held, oldest first."""
        try:
            return sorted((self._place / HELD).glob("*.json"))
        except OSError:  # it shows again when the next letter is written
            return []

    @property
    def due(self) -> bool:
        return bool(self.letters()) and (self._over or self.ends() is None)

    def release(self) -> float | None:
        """Make one letter of all, if their time has come; otherwise the seconds until then, `None` where none is held.

        A daemon may die at any point of it: a letter that stands in a digest already gets into no other.
        """
        held = self.letters()
        if not held:
            return None
        ends = self.ends()
        if ends is not None and not self._over:
            return max(0.0, ends - time.time())
        told = self._digested_since(held[0].name)
        letters = [Letter.model_validate_json(path.read_bytes()) for path in held]
        new = [letter for letter in letters if letter.id not in told]
        if new:
            self._write(new)
        (self._place / DIGESTED).mkdir(exist_ok=True)
        for path in held:
            path.replace(self._place / DIGESTED / path.name)
        return None

    def _write(self, letters: Sequence[Letter]) -> None:
        letter = digest_of(letters, self._place.parent.parent.name)
        path = self._place / WAITING / f"{time.time():017.6f}-{letter.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, letter.model_dump_json(indent=1) + "\n")

    def _digested_since(self, name: str) -> set[str]:
        """The ids in the digests that were written since a letter of this name."""
        written = [path for box in (WAITING, SENT) for path in (self._place / box).glob("*.json") if path.name >= name]
        return {each for path in written for each in Letter.model_validate_json(path.read_bytes()).holds}


def digest_of(letters: Sequence[Letter], run: str) -> Letter:
    """One letter for several; a single one stays as it is, under an id of its own."""
    identity = hashlib.sha256("\n".join(letter.id for letter in letters).encode()).hexdigest()[:16]
    holds = tuple(letter.id for letter in letters)
    if len(letters) == 1:
        body = letters[0].body.replace(f"id: {letters[0].id}", f"id: {identity}")
        return letters[0].model_copy(update={"id": identity, "body": body, "holds": holds})
    lines = [letter.summary or letter.title for letter in letters[-LINES:]]
    if len(letters) > LINES:
        lines.insert(0, f"({len(letters) - LINES} earlier ones: segwatch alerts)")
    gravest = next((kind for kind in ("failure", "warning") if any(letter.type == kind for letter in letters)), "info")
    return Letter.model_validate(
        {
            "id": identity,
            "title": f"segwatch {one_line(run)}: {len(letters)} messages from the quiet hours",
            "body": "\n".join([*lines, "more: segwatch alerts, segwatch status", f"id: {identity}"]),
            "type": gravest,
            "holds": holds,
        }
    )
