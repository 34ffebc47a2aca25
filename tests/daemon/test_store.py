"""The same facts twice: either file can be lost, cut or damaged, and the facts are still there."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from segwatch.daemon import events
from segwatch.daemon import store as store_module
from segwatch.daemon.events import (
    EVENT,
    AcceptedSplit,
    AlertAcknowledged,
    AlertChanged,
    AlertsSilenced,
    AlertState,
    AttemptEnded,
    AttemptPlanned,
    AttemptSpawned,
    AttemptStarted,
    BudgetsForgiven,
    ConfigChanged,
    DaemonStarted,
    DaemonStopped,
    DataAccepted,
    Diagnosed,
    DiskSeen,
    DrillFired,
    DrillsRequested,
    EpochCommitted,
    EpochMoved,
    Gain,
    GapMeasured,
    GaveUp,
    IncidentOpened,
    Outcome,
    ProbationEnded,
    RescoreWanted,
    RunCreated,
    RunFinished,
    ScoreRecorded,
    Severity,
    SilenceEnded,
)
from segwatch.daemon.store import Store, read_events
from segwatch.errors import SegwatchError
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Drill, DrillKind
from segwatch.trainer.diagnosis import Finding

DRILL = Drill(kind=DrillKind.KILL, step=3)
ALERT = AlertChanged(
    fingerprint="incident:1",
    code="nan-loss",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    since=1.5,
    cause="line one\nline two \u2028 Straße",
    evidence={"step": 3, "loss": 0.1, "what": "batch", "norm": None, "whole": 2.0},
    action="lr halved",
    advice="look",
    drill=str(DRILL),
)
EVERY_KIND = (
    RunCreated(config_hash="c", epochs=3, class_names=("a", "b")),
    ConfigChanged(changes={"trainer.epochs": "3 -> 4"}, epochs=4),
    DataAccepted(
        splits=(AcceptedSplit(split="test", before="", after="b", count="1 file of test changed", files=("a: gone",)),)
    ),
    DaemonStarted(pid=1, create_time=1.25, host="here"),
    DrillsRequested(drills=(DRILL,)),
    AttemptPlanned(
        attempt=1,
        lr=5e-5,
        amp=Amp.FP16,
        batch_size=1,
        accumulate=1,
        resume_from=None,
        resume_epoch=0,
        resume_step=0,
        because="the run begins",
    ),
    AttemptSpawned(attempt=1, pid=2, create_time=0.1),
    AttemptStarted(attempt=1, lr=5e-5, amp=Amp.FP16, device="cpu", parameters=31_037_000, steps_per_epoch=9),
    DrillFired(attempt=1, drill=DRILL),
    EpochCommitted(attempt=1, epoch=1, step=9, manifest="checkpoints/x.json", sha256="ab", finite=True),
    ScoreRecorded(
        attempt=1,
        epoch=1,
        step=9,
        split="test",
        verdict="ok",
        miou=1 / 3,
        fwiou=0.1 + 0.2,
        pixel_accuracy=1e-17,
        mean_accuracy=None,
        mean_dice=1.0,
        class_iou=(None, 1 / 7),
        miou_low=0.1,
        miou_high=2 / 3,
        gain=Gain(against_attempt=1, against_epoch=1, difference=1 / 3, low=-1e-9, high=0.5),
        images=3,
        skipped_images=1,
        seconds=0.5,
        checkpoint_sha256="ab",
    ),
    AttemptEnded(
        attempt=1,
        outcome=Outcome.UNSTABLE,
        cause=Cause.NAN_LOSS,
        message="m",
        step=9,
        epoch=1,
        stepped=True,
    ),
    IncidentOpened(
        number=1,
        attempt=1,
        cause=Cause.NAN_LOSS,
        step=3,
        epoch=1,
        message="m",
        evidence={"lr": 1e-3},
        drill=DRILL,
        fatal=True,
    ),
    Diagnosed(incident=1, finding=Finding.PRECISION, because="b", bf16_is_finite=True, onset_step=2, seconds=1.5),
    ProbationEnded(attempt=2, incident=1, passed=True, because="b", epochs=2, miou=0.5, miou_before=None),
    ALERT,
    EpochMoved(attempt=1, epoch=1, manifest="checkpoints/superseded/x.json", reason="superseded"),
    GapMeasured(by_test=(1, 2), by_val=(1, 1), low=-1e-9, high=1 / 3),
    AlertAcknowledged(fingerprint="incident:1", since=5.0, by="mia"),
    AlertsSilenced(code="miou-stall", until=9.0, by="mia"),
    SilenceEnded(code="miou-stall"),
    DiskSeen(state="refused", free_bytes=0, needed_bytes=1_000_000_000, message="No space left on device"),
    GaveUp(reason="spent"),
    BudgetsForgiven(),
    RescoreWanted(former=((1, 2),)),
    RunFinished(trained=3, unscored=1),
    DaemonStopped(reason="finished"),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.125

    def __call__(self) -> float:
        self.now += 1
        return self.now


def fill(run_dir: Path, facts: tuple) -> list:
    store = Store(run_dir, clock=Clock())
    for event in facts:
        store.append(event)
    told = list(store.events())
    store.close()
    return told


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Every kind of fact, written once: each waits for the disk."""
    place = tmp_path_factory.mktemp("facts")
    fill(place, EVERY_KIND)
    return place


@pytest.fixture
def told(written, tmp_path) -> list:
    """What `tmp_path` holds: a copy of those files."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return list(read_events(tmp_path))


def reopened(run_dir: Path) -> list:
    store = Store(run_dir)
    told = list(store.events())
    assert store.sequence == len(told)
    store.close()
    return told


# --- what goes in comes out ----------------------------------------------------------------------------------------


def test_the_list_of_this_test_holds_every_kind_of_event():
    union = get_args(events.Event)[0]
    assert {type(event) for event in EVERY_KIND} == set(get_args(union))


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: event.kind)
def test_every_kind_of_event_comes_back_equal_from_both_files(tmp_path, event):
    fill(tmp_path, (event,))
    assert [told for _, told in read_events(tmp_path)] == [event]
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert (line.pop("seq"), line.pop("time")) == (1, 1_700_000_001.125)
    assert EVENT.validate_python(line) == event


def test_many_facts_at_once_are_what_they_are_one_by_one_and_wait_for_the_disk_once(tmp_path, written, monkeypatch):
    waits, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (waits.append(descriptor), fsync(descriptor)))
    store = Store(tmp_path, clock=Clock())
    waits.clear()
    store.append_all(EVERY_KIND)
    assert len(waits) == 1
    assert list(store.events()) == list(read_events(tmp_path)) == list(read_events(written))
    assert store.sequence == len(EVERY_KIND)
    store.close()
    assert (tmp_path / "events.jsonl").read_bytes() == (written / "events.jsonl").read_bytes()


def test_whole_numbers_and_fractions_stay_what_they_are(tmp_path):
    fill(tmp_path, (ALERT,))
    evidence = next(read_events(tmp_path))[1].evidence
    assert [type(value) for value in evidence.values()] == [int, float, str, type(None), float]


def test_facts_keep_their_order_and_time_and_can_be_asked_for_from_one_on(tmp_path, told):
    assert told == list(read_events(tmp_path))
    store = Store(tmp_path)
    assert list(store.events(after=len(told) - 2)) == told[-2:]
    store.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_no_fact(bad):
    with pytest.raises(ValidationError):
        AttemptSpawned(attempt=1, pid=2, create_time=bad)
    with pytest.raises(ValidationError):
        AlertChanged.model_validate({**ALERT.model_dump(), "evidence": {"loss": bad}})


def test_nan_that_slipped_past_the_model_reaches_neither_file_and_leaves_no_gap(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.append(ALERT.model_copy(update={"since": float("nan")}))
    store.append(ALERT)
    assert store.sequence == 1
    assert len(list(store.events())) == 1
    store.close()
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 1


def test_notes_are_kept_and_overwritten(tmp_path):
    store = Store(tmp_path)
    assert store.noted("journal") is None
    store.note("journal", "1:10")
    store.note("journal", "1:20")
    store.close()
    store = Store(tmp_path)
    assert store.noted("journal") == "1:20"
    store.close()


# --- one of the two is lost ----------------------------------------------------------------------------------------


def test_a_deleted_state_db_is_built_anew_from_the_lines(tmp_path, told):
    (tmp_path / "state.db").unlink()
    assert reopened(tmp_path) == told


def overwritten(path: Path, offset: int, garbage: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(garbage)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"this is no database" * 300), id="another-file"),
        pytest.param(lambda path: overwritten(path, 0, b"\0" * 100), id="header"),
        pytest.param(lambda path: overwritten(path, 4096, b"\xff" * 4096), id="page-of-the-facts"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:5000]), id="cut"),
    ],
)
def test_a_damaged_state_db_is_set_aside_and_built_anew_from_the_lines(tmp_path, told, damage):
    damage(tmp_path / "state.db")
    assert reopened(tmp_path) == told
    assert len(list(tmp_path.glob("state.db.corrupt-*"))) == 1


def test_a_state_db_whose_daemon_was_killed_while_it_made_the_tables_is_filled(tmp_path, told):
    (tmp_path / "state.db").unlink()
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("create table events (seq integer primary key, time real, kind text, body text)")
    database.close()
    assert reopened(tmp_path) == told


def test_the_tables_are_made_as_one(tmp_path, monkeypatch):
    """A second connection sees both and the version, or nothing: never a part."""
    monkeypatch.setattr(store_module, "_SCHEMA", f"{store_module._SCHEMA} create table oops (;")
    with pytest.raises(sqlite3.OperationalError):
        Store(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert database.execute("select count(*) from sqlite_master").fetchone() == (0,)
    database.close()


def test_an_empty_state_db_is_filled_from_the_lines(tmp_path, told):
    (tmp_path / "state.db").write_bytes(b"")
    assert reopened(tmp_path) == told


@pytest.mark.parametrize("lost", [1, 5, len(EVERY_KIND)])
def test_a_state_db_that_is_behind_catches_up(tmp_path, told, lost):
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("delete from events where seq > ?", (len(told) - lost,))
    database.close()
    assert reopened(tmp_path) == told


def test_deleted_lines_are_written_anew_from_state_db_byte_for_byte(tmp_path, told):
    before = (tmp_path / "events.jsonl").read_bytes()
    (tmp_path / "events.jsonl").unlink()
    assert reopened(tmp_path) == told
    assert (tmp_path / "events.jsonl").read_bytes() == before


@settings(max_examples=15)
@given(cut=st.integers(1, 900))
def test_lines_cut_anywhere_are_completed_from_state_db_and_no_line_is_glued(tmp_path_factory, cut):
    run_dir = tmp_path_factory.mktemp("cut")
    told = fill(run_dir, EVERY_KIND[:5])
    lines = (run_dir / "events.jsonl").read_bytes()
    (run_dir / "events.jsonl").write_bytes(lines[: -min(cut, len(lines))])
    assert reopened(run_dir) == told
    (run_dir / "state.db").unlink()
    assert reopened(run_dir) == told


# --- a daemon that dies while it writes ----------------------------------------------------------------------------


@settings(max_examples=15)
@given(kept=st.integers(1, 200))
def test_a_torn_last_line_is_no_fact_and_the_next_fact_is_not_glued_to_it(tmp_path_factory, kept):
    run_dir = tmp_path_factory.mktemp("torn")
    told = fill(run_dir, EVERY_KIND[:3])
    whole = json.dumps({"seq": 4, "time": 1.0, **ALERT.model_dump(mode="json")})
    with (run_dir / "events.jsonl").open("a") as log:
        log.write(whole[:kept])
    store = Store(run_dir, clock=Clock())
    assert list(store.events()) == told
    store.append(RunFinished())
    store.close()
    (run_dir / "state.db").unlink()
    assert [event for _, event in reopened(run_dir)] == [*EVERY_KIND[:3], RunFinished()]


def test_bytes_that_are_no_text_at_the_end_of_the_lines_are_no_fact(tmp_path, told):
    with (tmp_path / "events.jsonl").open("ab") as log:
        log.write(b"\0" * 512 + b"\xff\xfe{")
    assert reopened(tmp_path) == told


def test_a_whole_line_that_never_reached_state_db_is_a_fact(tmp_path):
    fill(tmp_path, EVERY_KIND[:2])
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write(json.dumps({"seq": 3, "time": 9.5, "kind": "run-finished"}) + "\n")
    assert reopened(tmp_path)[2:] == [(9.5, RunFinished())]


KILLED_IN_MID_COMMIT = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("pragma cache_size = 2")
database.execute("begin immediate")
for number in range(100, 300):
    database.execute("insert into events values (?, 1.0, 'x', ?)", (number, "y" * 3000))
os._exit(9)
"""


def test_status_reads_a_run_whose_daemon_was_killed_in_mid_commit(tmp_path, told):
    """The journal that is left has to be rolled back by whoever opens the database next: a reader must not have to."""
    subprocess.run([sys.executable, "-c", KILLED_IN_MID_COMMIT, tmp_path / "state.db"], check=False)
    assert (tmp_path / "state.db-journal").stat().st_size > 0
    assert list(read_events(tmp_path)) == told


# --- readers -------------------------------------------------------------------------------------------------------


def test_a_reader_that_takes_its_time_neither_stops_the_writer_nor_sees_half_of_what_it_writes(tmp_path, told):
    slow = read_events(tmp_path)
    first = next(slow)
    store = Store(tmp_path)
    store.append(RunFinished())  # a lock that the reader still held would raise here, after ten seconds
    assert [first, *slow][: len(told)] == told
    assert len(list(read_events(tmp_path))) == len(told) + 1
    store.close()


def test_where_no_run_is_a_reader_says_so_and_makes_no_file(tmp_path):
    with pytest.raises(SegwatchError, match="no run here"):
        list(read_events(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["50%", "a%20b", "lr=1e-3 #2", "why?", "Straße"])
def test_a_run_may_have_any_name_that_a_directory_can_have(tmp_path, name):
    run_dir = tmp_path / name
    run_dir.mkdir()
    told = fill(run_dir, EVERY_KIND[:3])
    assert list(read_events(run_dir)) == told


def test_a_reader_needs_no_database_and_changes_no_file(tmp_path, told):
    (tmp_path / "state.db").write_bytes(b"this is no database" * 300)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert list(read_events(tmp_path)) == told
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_reader_sees_no_fact_in_a_line_that_is_torn_or_still_being_written(tmp_path, told):
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"seq": 99, "time": 1.0, "kind": "gave-')
    assert list(read_events(tmp_path)) == told
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write("\n")
    assert list(read_events(tmp_path)) == told


def test_the_state_of_a_newer_release_is_refused_and_not_touched(tmp_path, told):
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("pragma user_version = 2")
    database.close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(SegwatchError, match="state version 2, this release knows 1"):
        Store(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before
    assert list(tmp_path.glob("*.corrupt-*")) == []


def test_a_kind_of_fact_that_this_release_does_not_know_is_explained(tmp_path, told):
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write(json.dumps({"seq": 99, "time": 9.5, "kind": "of-tomorrow"}) + "\n")
    with pytest.raises(SegwatchError, match="does not understand: 'of-tomorrow'"):
        reopened(tmp_path)


def test_a_fact_with_more_fields_than_this_release_knows_is_read(tmp_path):
    with (tmp_path / "events.jsonl").open("w") as log:
        log.write(json.dumps({"seq": 1, "time": 9.5, "kind": "gave-up", "reason": "r", "mood": "sad"}) + "\n")
    assert reopened(tmp_path) == [(9.5, GaveUp(reason="r"))]
