"""PURE: what the findings of replays say beyond their remedies: of the device, of files. No clock, no file."""

from __future__ import annotations

from collections.abc import Iterator

from ..trainer.diagnosis import Finding
from .alert import Alert
from .events import Severity
from .history import History
from .members import Incident

SAME_PLACE_STEPS = 20
"""As far as two incidents may lie apart and still be in one place: a GPU is read back up to so many steps late."""


def advice_of_finding(history: History, incident: Incident) -> str | None:
    """What a person can do about the files that a replay has found; `None` where it found none."""
    found = history.diagnoses.get(incident.number)
    if found is None or found.finding is not Finding.DATA or not found.files:
        return None
    return (
        f"Look at incidents/{incident.number:03d}/: a picture shows each file beside its mask, with the values that do "
        f"not belong. Not trained any more in this run: {', '.join(found.files)}. Mend the files for the next one."
    )


def suspect_device(history: History) -> Iterator[Alert]:
    """What could not be repeated came twice in one place: neither the data nor the settings are to blame."""
    unsettled = [incident for incident in history.open_incidents() if _is_transient(history, incident)]
    if not unsettled:  # which is nearly always: what happened before is looked through only when it matters
        return
    transient = [i for i in history.incidents if _is_transient(history, i)]
    for incident in unsettled:
        opened = incident.opened
        before = [
            other
            for other in transient
            if other.number < incident.number and abs(other.opened.step - opened.step) <= SAME_PLACE_STEPS
        ]
        if before:
            first = before[0]
            yield Alert(
                fingerprint=f"device-suspect:{incident.number}",
                code="device-suspect",
                severity=Severity.WARNING,
                cause=f"{opened.cause} at step {opened.step} could not be repeated, and neither could "
                f"{first.opened.cause} at step {first.opened.step}: the same steps on the same data came out finite",
                evidence={"step": opened.step, "earlier_step": first.opened.step, "times": len(before) + 1},
                action="Training goes on; the next time in this place counts as no accident any more.",
                advice="Check the device: a memory test, dmesg for Xid and ECC errors, temperature and power. On the "
                "CPU: memory (memtester), overclocking.",
                drill=None if opened.drill is None else str(opened.drill),
            )


def _is_transient(history: History, incident: Incident) -> bool:
    found = history.diagnoses.get(incident.number)
    return found is not None and found.finding is Finding.TRANSIENT
