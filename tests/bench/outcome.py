"""What became of one run of the corpus, read from the facts that it left. Starts nothing, changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segwatch.checkpoints.files import load_weights, poisoned_tensors
from segwatch.checkpoints.manifest import read_manifest
from segwatch.daemon.events import AlertChanged, AlertState, Severity
from segwatch.daemon.history import History
from segwatch.daemon.members import Epoch, Incident
from segwatch.daemon.store import read_events
from segwatch.section import Record
from segwatch.trainer.contract import JOURNAL, attempt_dir

from .corpus import Calm, Kind

SHARE = 0.98
"""Of the test mIoU before the incident, to be reached again."""
RESTARTS = 2


class Result(Record):
    """One row of the corpus as it came out."""

    name: str
    seed: int
    exit_code: int
    seconds: float
    right: bool | None = None
    """Whether cause, verdict and remedy are those of the kind; `None` for a calm run."""
    healthy: bool | None = None
    said: str = ""
    """What segwatch made of it; of a calm run the false alarms."""
    restarts: int = 0
    late_steps: int | None = None
    """From the fault to the step at which it was noticed."""
    late_seconds: float | None = None
    diagnosis_seconds: float | None = None
    miou_before: float | None = None
    miou_after: float | None = None
    bad_as_good: int = 0
    """Epochs that stand as verified good without a finite score, or with weights on the disk that are not finite."""
    weights: str | None = None
    """SHA-256 of the last epoch's."""


def outcome(run_dir: Path, kind: Kind | Calm, seed: int, *, exit_code: int, seconds: float) -> Result:
    """Raises OSError where the run left no facts."""
    events = list(read_events(run_dir))
    history = History.of(iter(events))
    line = history.lineage()
    common: dict[str, Any] = {
        "name": kind.name,
        "seed": seed,
        "exit_code": exit_code,
        "seconds": round(seconds, 1),
        "bad_as_good": sum(epoch.verified_good is True and _is_bad(run_dir, epoch) for epoch in line),
        "weights": line[-1].sha256 if line and history.finished else None,
    }
    if isinstance(kind, Calm):
        return Result(**common, said=", ".join(_alarms(history, kind, [event for _, event in events])))
    fatal = list(history.fatal_incidents())
    restarts = sum(attempt.plan.incident is not None for attempt in history.attempts)
    if not fatal:
        return Result(**common, right=False, healthy=False, said="nothing was noticed")
    before, after = _scores(history, fatal[0])
    reached = before is None or (after is not None and after >= SHARE * before)
    found = history.diagnoses.get(fatal[0].number)
    step, moment = _fault(run_dir, kind, fatal[0])
    return Result(
        **common,
        right=_is_right(run_dir, history, fatal, kind),
        healthy=history.finished and exit_code == 0 and restarts <= RESTARTS and reached,
        said=_said(history, fatal),
        restarts=restarts,
        late_steps=None if step is None else fatal[0].opened.step - step,
        late_seconds=None if moment is None else round(fatal[0].at - moment, 2),
        diagnosis_seconds=round(found.seconds, 1) if found is not None and found.seconds else None,
        miou_before=before,
        miou_after=after,
    )


def _is_bad(run_dir: Path, epoch: Epoch) -> bool:
    if epoch.miou("test") is None:
        return True
    manifest = run_dir / epoch.manifest
    if not manifest.exists():  # retention removed it
        return False
    return bool(poisoned_tensors(load_weights(manifest.parent, read_manifest(manifest))))


def _alarms(history: History, kind: Calm, events: list[object]) -> list[str]:
    alerts = [e for e in events if isinstance(e, AlertChanged) and e.state is AlertState.FIRING]
    false = [alert for alert in alerts if alert.severity is not Severity.INFO and alert.code not in kind.true_of_it]
    told = [f"{alert.code}: {alert.cause}" for alert in false]
    return told + [f"{incident.opened.cause}: {incident.opened.message}" for incident in history.incidents]


def _scores(history: History, incident: Incident) -> tuple[float | None, float | None]:
    """Test mIoU of the last good epoch that was gone on from, and the best one since."""
    answer = history.answer_to(incident)
    if answer is None:
        return None, None
    line = history.lineage()
    before = [e.miou("test") for e in line if e.epoch <= answer.resume_epoch and e.verified_good]
    after = [e.miou("test") for e in line if e.epoch > answer.resume_epoch]
    return (before[-1] if before else None), max((miou for miou in after if miou is not None), default=None)


def _fault(run_dir: Path, kind: Kind, incident: Incident) -> tuple[int | None, float | None]:
    """Step and time of the last fault made before the incident was opened, from the journal."""
    attempt = incident.opened.attempt
    lines = [json.loads(line) for line in (attempt_dir(run_dir, attempt) / JOURNAL).read_text().splitlines()]
    drills = [line for line in lines if line["kind"] == "drill"]
    if kind.drill is None or not drills:
        return None, None
    return drills[-1]["drill"]["step"], drills[-1]["time"]


def _is_right(run_dir: Path, history: History, fatal: list[Incident], kind: Kind) -> bool:
    """One incident, of a cause of this kind, with its verdict, its remedy, and what is special about the kind."""
    incident, answer = fatal[0], history.answer_to(fatal[0])
    found = history.diagnoses.get(incident.number)
    if len(fatal) > 1 or answer is None or incident.opened.cause not in kind.causes:
        return False
    if (found and found.finding) != kind.finding or answer.remedy != kind.remedy:
        return False
    match kind.name:
        case "data":
            facts = json.loads((run_dir / f"incidents/{incident.number:03d}/worker.json").read_bytes())
            return answer.left_out == (facts["images"][0],)
        case "learning-rate" | "spike" | "collapse":
            fault = min((drill.step for _, drill in history.drills_fired), default=0)
            return answer.resume_step < fault
        case "corrupt-checkpoint":
            return any((run_dir / "checkpoints" / "quarantine").rglob("*.pth"))
        case _:
            return True


def _said(history: History, fatal: list[Incident]) -> str:
    words = []
    for incident in fatal:
        answer, found = history.answer_to(incident), history.diagnoses.get(incident.number)
        finding = "" if found is None else f" {found.finding} ->"
        words.append(f"{incident.opened.cause} ->{finding} {answer.remedy if answer else 'no answer'}")
    return "; ".join(words)
