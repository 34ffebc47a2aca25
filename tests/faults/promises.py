"""Whatever fault was made: what must hold of a run when its last process has ended (design section 11)."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import psutil
from segwatch.daemon.alerts import TOLD
from segwatch.daemon.events import AlertChanged, AttemptEnded, AttemptSpawned, Event
from segwatch.daemon.history import History
from segwatch.daemon.members import SCORED_SPLITS
from segwatch.daemon.store import read_events

from ..watched import Watched


def assert_nothing_else_broke(watched: Watched, *, ended: bool = True) -> None:
    """`ended` says that the run came to its end; one that was stopped may still have epochs to score."""
    assert_record_is_whole(watched, ended=ended)
    assert strays(watched.place) == [], "a process outlived the run"


def assert_record_is_whole(watched: Watched, *, ended: bool = True) -> None:
    """All that can be told from the run directory alone."""
    events = [event for _, event in read_events(watched.run_dir)]
    history = watched.history
    _epochs_are_scored_once(watched, history, ended=ended)
    _attempts_follow_each_other(watched.run_dir, events)
    assert not (watched.place / "company.txt").exists(), (watched.place / "company.txt").read_text()
    _alerts_are_told_once(watched, events)
    _incidents_are_kept(watched.run_dir, history)
    _facts_are_stored_twice(watched.run_dir)


def strays(place: Path) -> list[str]:
    """What still runs of a run below `place`: daemon, worker, evaluator and whatever they started."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and (process.cwd() == str(place) or str(place) in " ".join(process.cmdline())):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        except psutil.Error:
            continue  # gone while we looked, or another user's
    return found


def _epochs_are_scored_once(watched: Watched, history: History, *, ended: bool) -> None:
    """P1: a score or the reason, once for each committed epoch, split and data, and nothing else in results.csv."""
    rows = Counter(
        (int(row["attempt"]), int(row["epoch"]), row["split"], row["data_fingerprint"]) for row in watched.rows()
    )
    assert set(rows.values()) <= {1}, f"double rows: {[key for key, count in rows.items() if count > 1]}"
    scores = [score for epoch in history.epochs.values() for score in (*epoch.former, *epoch.scores.values())]
    recorded = {(score.attempt, score.epoch, score.split, score.data_fingerprint) for score in scores}
    assert set(rows) == recorded, "results.csv is not what was recorded"
    if ended:
        committed = {(*key, split) for key in history.epochs for split in SCORED_SPLITS}
        scored = {key[:3] for key in recorded}
        assert scored == committed, f"no score and no reason: {committed - scored}"


def _attempts_follow_each_other(run_dir: Path, events: list[Event]) -> None:
    """P4: no worker starts before the one before it has ended, and each attempt has one."""
    running: set[int] = set()
    for event in events:
        if isinstance(event, AttemptSpawned):
            assert running == set(), f"attempt {event.attempt} was started beside {running}"
            running.add(event.attempt)
        elif isinstance(event, AttemptEnded):
            running.discard(event.attempt)
    for journal in run_dir.glob("attempts/*/journal.jsonl"):
        started = sum(b'"kind":"started"' in line for line in journal.read_bytes().splitlines()[:1000])
        assert started <= 1, f"{journal.parent.name} had {started} workers"


def _alerts_are_told_once(watched: Watched, events: list[Event]) -> None:
    """P3: each change of an alert stands in alerts.log once, and no change is recorded that changes nothing."""
    known: dict[str, AlertChanged] = {}
    told = 0
    for event in events:
        if isinstance(event, AlertChanged):
            before = known.get(event.fingerprint)
            assert before is None or (before.state, before.action) != (event.state, event.action), f"again: {event}"
            known[event.fingerprint] = event
            told += event.state in TOLD
    heads = [line for line in watched.alerts_log().splitlines() if line and not line.startswith(" ")]
    assert len(heads) == told, f"{told} changes, told {len(heads)} times in alerts.log"


def _incidents_are_kept(run_dir: Path, history: History) -> None:
    """P3: each has its number, its directory and its facts."""
    numbers = [incident.number for incident in history.incidents]
    directories = sorted(int(path.name) for path in run_dir.glob("incidents/*"))
    assert sorted(numbers) == directories, "an incident without its directory, or a directory that nobody knows"
    for incident in history.incidents:
        kept = json.loads((run_dir / "incidents" / f"{incident.number:03d}" / "incident.json").read_text())
        assert kept == incident.opened.model_dump(mode="json")


def _facts_are_stored_twice(run_dir: Path) -> None:
    """state.db and events.jsonl say the same, numbered without a gap."""
    with sqlite3.connect(run_dir / "state.db") as database:
        in_database = [row[0] for row in database.execute("select seq from events order by seq")]
    database.close()
    in_log = []
    for line in (run_dir / "events.jsonl").read_bytes().splitlines():
        try:
            in_log.append(json.loads(line)["seq"])
        except ValueError:
            continue  # torn by a daemon that was killed in mid-write
    assert in_log == in_database == list(range(1, len(in_log) + 1))
