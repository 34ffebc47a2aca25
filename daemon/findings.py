"""PURE: what the findings of replays say beyond their remedies: of the device, of files. No clock, no file."""

from __future__ import annotations

from collections.abc import Iterator

from ..trainer.contract import READBACK_STEPS
from ..trainer.diagnosis import Finding
from .alert import Alert
from .events import Evidence, Severity
from .history import History
from .members import Incident


def late_steps(history: History, attempt: int) -> int:
    """As far as two incidents of this attempt's device may lie apart and still be in one place.

    Where figures arrive at once, as on the CPU, that is the same step; in an epoch of four steps nearly everything lies
    near everything else.
    """
    started = history.attempt(attempt).started
    return READBACK_STEPS if started is not None and started.device.startswith("cuda") else 0


def place_of(incident: Incident) -> int:
    """The step at which it was, or began: scores that fell are seen long after it, and never twice equally long."""
    onset = incident.opened.evidence.get("onset_step")
    return onset if isinstance(onset, int) else incident.opened.step


def advice_of_finding(history: History, incident: Incident) -> str | None:
    """What a person can do about the files that a replay has found; `None` where it found none."""
    found = history.diagnoses.get(incident.number)
    if found is None or found.finding is not Finding.DATA:
        return None
    if found.decode_again and not found.files:
        return (
            f"The files are sound: {', '.join(found.decode_again)} changed in the pixel cache after it was decoded, "
            "and is decoded again. Where this comes back, look at the disk that the cache is on, and at the memory."
        )
    if not found.files:
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
        apart = late_steps(history, opened.attempt)
        before = [
            other
            for other in transient
            if other.number < incident.number and abs(place_of(other) - place_of(incident)) <= apart
        ]
        if before:
            first = before[0]
            yield Alert(
                fingerprint=f"device-suspect:{incident.number}",
                code="device-suspect",
                severity=Severity.WARNING,
                cause=f"{opened.cause} at step {opened.step} could not be repeated, and neither could "
                f"{first.opened.cause} at step {first.opened.step}: the same steps on the same data came out finite",
                evidence={
                    "step": opened.step,
                    "earlier_step": first.opened.step,
                    "times": len(before) + 1,
                    **_checked(history, incident),
                },
                action="Training goes on; the next time in this place counts as no accident any more.",
                advice="Check the device: a memory test, dmesg for Xid and ECC errors, temperature and power. On the "
                "CPU: memory (memtester), overclocking.",
                drill=None if opened.drill is None else str(opened.drill),
            )


def _checked(history: History, incident: Incident) -> Evidence:
    """What the process that replayed it saw of the device."""
    words = history.diagnoses[incident.number].device_check
    return {"device_check": words} if words else {}


def _is_transient(history: History, incident: Incident) -> bool:
    found = history.diagnoses.get(incident.number)
    return found is not None and found.finding is Finding.TRANSIENT
