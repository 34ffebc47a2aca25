"""`evaluation-lag`: told when the queue is long, over only when it is worked off."""

from __future__ import annotations

from segwatch.daemon.alerts import changes
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import AlertState
from segwatch.daemon.rules import current_alerts

CONFIG = AlertsConfig(evaluation_lag=4)


def tell(run) -> list[AlertState]:
    """The changes of this alert by now, recorded as the supervisor would."""
    changed = [
        change
        for change in changes(run.history.alerts, current_alerts(run.history, CONFIG), 0.0)
        if change.code == "evaluation-lag"
    ]
    for change in changed:
        run.tell(change)
    return [change.state for change in changed]


def test_a_queue_that_hovers_about_the_limit_is_told_once(a_run):
    run = a_run()
    run.begins()
    waiting = [run.commits(epoch) for epoch in (1, 2, 3)]
    assert tell(run) == []
    waiting.append(run.commits(4))
    assert tell(run) == [AlertState.FIRING]
    told = run.history.alerts["evaluation-lag"]
    assert told.evidence == {"waiting": 4, "oldest_epoch": 1, "seconds_per_evaluation": None}
    for epoch in waiting[:2]:
        run.scores(epoch, "val", 0.5)
        run.scores(epoch, "test", 0.5)
        assert tell(run) == [], "2 still wait"
    run.scores(waiting[2], "val", 0.5)
    run.scores(waiting[2], "test", 0.5)
    assert tell(run) == [AlertState.RESOLVED]
