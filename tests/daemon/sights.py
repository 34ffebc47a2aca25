"""What `status` sees of a story that is told fact by fact: through JSON, as it comes from glance.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segwatch.daemon.events import AlertChanged, AlertState, Severity
from segwatch.daemon.glance import figures
from segwatch.daemon.looking import Sight
from segwatch.daemon.rundir import RunDir
from segwatch.durable import dumps

NASTY = 'a "quoted"\nline [red]markup[/red] \x1b[31m ü'
STEP = {
    "time": 100.0,
    "step": 25,
    "epoch": 3,
    "step_in_epoch": 5,
    "loss": None,
    "lr": 1e-3,
    "images_per_second": 7.5,
    "skipped_steps": 0,
    "memory_mb": 812.0,
}


def sight(run_dir: Path, story: Any, *, shares: list[dict[str, Any]] | None = None, **live: Any) -> Sight:
    return Sight(RunDir(run_dir), json.loads(dumps(figures(story.history, shares or []))), **live)


def fires(story: Any, code: str = "miou-stall", severity: Severity = Severity.WARNING, **more: object) -> AlertChanged:
    alert = AlertChanged(
        fingerprint=code,
        code=code,
        severity=severity,
        state=AlertState.FIRING,
        since=float(len(story.told)),
        cause=NASTY,
        evidence={"epoch": 3, "lr": 1e-3, "norm": None, "what": "x"},
        action="None.",
        advice="Look.",
    ).model_copy(update=more)
    story.tell(alert)
    return alert
