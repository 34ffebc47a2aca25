"""`segwatch alerts --follow`: each change of an alert as it is recorded, until the reader has enough."""

from __future__ import annotations

import threading

from rich.console import Console

from ..durable import dumps
from . import views
from .alerts import alert_lines
from .rundir import RunDir
from .store import EventTail

POLL_SECONDS = 0.5


def follow_alerts(run: RunDir, *, json: bool, console: Console) -> None:
    """Prints what there is, then what comes; ends only by KeyboardInterrupt. With `json`, one object a line."""
    reader = EventTail(run.path)
    pause = threading.Event()
    while True:
        for moment, alert in reader.alerts():
            if json:
                console.out(dumps(views.alert_json(alert)), highlight=False)
            else:
                for line in alert_lines(alert, moment):
                    console.print(line, soft_wrap=True, highlight=False, markup=False)
        pause.wait(POLL_SECONDS)
