"""The numbers behind an alert, in one line. Quick to import; knows nothing about what they are of."""

from __future__ import annotations

from collections.abc import Mapping


def evidence_words(evidence: Mapping[str, float | int | str | None]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in evidence.items()) or "none"


def _figure(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
