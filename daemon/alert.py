"""What an alert is. When one holds is `rules`' to say, what is told of it `alerts`'."""

from __future__ import annotations

from dataclasses import dataclass

from .events import Evidence, Severity


@dataclass(frozen=True)
class Alert:
    """Something that holds now. The fingerprint tells whether it is the one that held before."""

    fingerprint: str
    code: str
    severity: Severity
    cause: str
    evidence: Evidence
    action: str
    advice: str
    drill: str | None = None
    pending: bool = False
    """Seen, but not yet for long enough to wake somebody."""
    inhibited: bool = False
    """Explained by a graver one: not told now, and not over either."""
