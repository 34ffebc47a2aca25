"""glance.json: believed only while it is all that is known, and then it says what all facts together say."""

from __future__ import annotations

import json
import os
import threading

import pytest
from segwatch.daemon import glance, looking, verdict
from segwatch.daemon.config import load_config
from segwatch.daemon.events import AlertAcknowledged, AlertsSilenced, AttemptSpawned, EpochCommitted, GaveUp
from segwatch.daemon.freezing import create
from segwatch.daemon.glance import Glance, folded, milestones
from segwatch.daemon.glance_file import read_glance
from segwatch.daemon.history import History
from segwatch.daemon.identity import myself
from segwatch.daemon.recording import Recorder
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.durable import dumps
from segwatch.trainer.contract import JOURNAL, Cause, Phase, Progress, attempt_dir

from .conftest import CONFIG
from .sights import STEP, fires
from .test_spec import DATA

LINE = Progress(
    time=100.0,
    step=25,
    epoch=3,
    step_in_epoch=5,
    loss=None,
    grad_norm=None,
    lr=1e-3,
    images_per_second=7.5,
    p99_step_seconds=0.1,
    memory_mb=812.0,
    nonfinite=("loss",),
)


@pytest.fixture
def run(tmp_path) -> RunDir:
    return begun(tmp_path, "run")


def begun(place, name: str) -> RunDir:
    source = place / "run.toml"
    source.write_text(CONFIG.format(epochs=5, amp="off", extra=""))
    run = RunDir(place / "runs" / name)
    create(run, source, load_config(source), DATA)
    return run


@pytest.fixture
def story(a_run):
    """With something of everything that a glance holds."""
    story = a_run()
    story.begins(epochs=5, names=("a", "b"))
    first = story.trains(1, 0.4, interval=(0.3, 0.5))
    story.trains(2, 0.5, 0.6, gain=story.over(first, 0.1, 0.05, 0.2), skipped=1)
    story.suffers(Cause.NAN_LOSS)
    alert = fires(story, "nan-loss")
    story.tell(AlertAcknowledged(fingerprint=alert.fingerprint, since=alert.since, by="mia"))
    story.tell(AlertsSilenced(code="miou-stall", until=9e9, by="mia"))
    story.moves(1, 2)
    story.plans(incident=1)
    story.trains(2, 0.3)
    story.commits(3)
    return story


def record(run: RunDir, story, *, summed_up: bool = True) -> None:
    """The facts of a story by way of the daemon's recorder."""
    store = Store(run.path)
    history = History.of(store.events())
    summary = Glance(run, history) if summed_up else None
    recorder = Recorder(store, history, [], summaries=[summary])
    for _, event in story.told:
        recorder.record(event)
    recorder.delivered()
    recorder.close()


def append(run: RunDir, event: object) -> None:
    """A fact of a daemon that died before it could sum it up."""
    store = Store(run.path)
    store.append(event)
    store.close()


# --- the same both ways ----------------------------------------------------------------------------------------------


def test_the_glance_says_what_all_facts_say(run, story):
    record(run, story)
    told = read_glance(run.path)
    assert told is not None
    assert told == folded(run)
    assert (told["last"]["epoch"], told["before"]["epoch"], told["evaluation"]["waiting"]) == (2, 1, 1)
    assert (told["acknowledged"]["nan-loss"]["by"], told["silenced"]["miou-stall"]["until"]) == ("mia", 9e9)


def test_status_says_the_same_with_and_without_the_glance_and_writes_nothing(run, story):
    record(run, story)
    quick = verdict.status(looking.look_at(run))
    (run.path / "glance.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert verdict.status(looking.look_at(run)) == quick
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_after_a_change_of_the_line_the_glance_is_not_what_was_folded_before(run, story):
    """Every fact, one after the other: what is kept up step by step is what a fresh fold finds."""
    store = Store(run.path)
    history = History()
    recorder = Recorder(store, history, [], summaries=[Glance(run, history)])
    for _, event in story.told:
        recorder.record(event)
        recorder.delivered()
        assert read_glance(run.path) == json.loads(
            dumps(glance.figures(History.of(store.events()), glance.class_shares(run)))
        )
    recorder.close()


# --- when it is believed ---------------------------------------------------------------------------------------------


def test_a_fact_that_came_after_it_is_seen(run, story):
    record(run, story)
    append(run, GaveUp(reason="spent"))
    assert read_glance(run.path) is None
    assert verdict.status(looking.look_at(run))["state"] == "gave-up"


def test_a_torn_line_behind_the_last_fact_is_none(run, story):
    record(run, story)
    with (run.path / "events.jsonl").open("a") as log:
        log.write('{"seq": 99, "ti')
    assert verdict.status(looking.look_at(run))["attempt"] == 2  # folded, for the length is another
    record(run, type(story)())  # a daemon that comes and goes
    assert read_glance(run.path) is not None


@pytest.mark.parametrize("spoil", ["torn", "empty", "other-format", "other-facts", "no-object", "gone"])
def test_what_is_no_glance_of_these_facts_is_not_believed(run, story, spoil):
    record(run, story)
    whole = verdict.status(looking.look_at(run))
    path = run.path / "glance.json"
    written = json.loads(path.read_text())
    match spoil:
        case "torn":
            path.write_text(path.read_text()[:100])
        case "empty":
            path.write_text("")
        case "other-format":
            path.write_text(json.dumps(written | {"format": 99}))
        case "other-facts":
            path.write_text(json.dumps(written | {"sequence": written["sequence"] - 1}))
        case "no-object":
            path.write_text("[]")
        case "gone":
            path.unlink()
    assert read_glance(run.path) is None
    assert verdict.status(looking.look_at(run)) == whole


def test_a_fact_that_the_disk_took_only_in_part_is_in_no_glance(run, story, monkeypatch):
    """The line stands, the row does not: the daemon starts again, and until then the glance must not claim it."""
    store = Store(run.path)
    history = History()
    recorder = Recorder(store, history, [], summaries=[Glance(run, history)])
    for _, event in story.told:
        recorder.record(event)
    recorder.delivered()

    def refuse(*_arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("segwatch.daemon.store._insert", refuse)
    with pytest.raises(OSError, match="no space"):
        recorder.record(GaveUp(reason="spent"))
    monkeypatch.undo()
    recorder.close()
    assert verdict.status(looking.look_at(run))["state"] == "gave-up"


def test_a_glance_that_cannot_be_written_stops_nothing_and_is_written_later(run, story, caplog):
    store = Store(run.path)
    history = History()
    (run.path / "glance.json").mkdir()
    recorder = Recorder(store, history, [], summaries=[Glance(run, history)])
    recorder.record(story.told[0][1])
    recorder.delivered()
    assert "Glance could not be refreshed" in caplog.text
    assert not list(run.path.glob(".glance*"))
    (run.path / "glance.json").rmdir()
    recorder.record(story.told[1][1])
    recorder.delivered()
    recorder.close()
    assert read_glance(run.path) is not None


def test_while_nothing_happens_nothing_is_written(run, story):
    record(run, story)
    store = Store(run.path)
    history = History.of(store.events())
    recorder = Recorder(store, history, [], summaries=[Glance(run, history)])
    recorder.delivered()
    first = (run.path / "glance.json").stat().st_ino
    recorder.delivered()
    recorder.close()
    assert (run.path / "glance.json").stat().st_ino == first


def test_a_daemon_that_is_about_to_write_it_is_waited_for(run, story, monkeypatch):
    """Between a fact and the glance lie milliseconds; folding thousands of epochs takes seconds."""
    record(run, story)
    append(run, GaveUp(reason="spent"))
    monkeypatch.setattr(glance, "folded", lambda _run: pytest.fail("folded"))
    monkeypatch.setattr(looking, "CATCH_UP_SECONDS", 30.0)
    run.hold()
    writer = threading.Timer(0.1, record, (run, type(story)()))
    writer.start()
    try:
        assert verdict.status(looking.look_at(run))["state"] == "gave-up"
    finally:
        writer.join()
        run.release()


# --- it does not grow ------------------------------------------------------------------------------------------------


def test_the_course_of_a_run_is_told_in_few_points(a_run):
    story = a_run()
    story.begins(epochs=2000)
    for epoch in range(1, 1001):
        story.scores(story.commits(epoch), "test", epoch / 1000)
    points = milestones(story.history.scored_lineage())
    assert len(points) < 45
    assert points[:3] == [[1, 0.001], [2, 0.002], [3, 0.003]]
    assert points[-1] == [1000, 1.0]
    assert all(miou == epoch / 1000 for epoch, miou in points)
    assert milestones([]) == []


def test_thousands_of_alerts_that_fire_are_counted_not_shown(run, a_run):
    story = a_run()
    story.begins()
    for epoch in range(200):
        fires(story, "evaluator-failed", fingerprint=f"evaluator-failed:1:{epoch}")
    told = glance.figures(story.history, [])
    assert (len(told["firing"]), told["firing_count"], told["firing_codes"]) == (50, 200, ["evaluator-failed"])


# --- what is live ----------------------------------------------------------------------------------------------------


def journal(run: RunDir, attempt: int, *lines: str) -> None:
    path = attempt_dir(run.path, attempt) / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def test_the_journal_is_read_from_its_end_and_what_is_not_of_the_contract_is_passed_over(run, story):
    record(run, story)
    older = LINE.model_copy(update={"step": 1}).model_dump_json()
    phase = Phase(time=1.0, phase="training").model_dump_json()
    noise = ("[1]", '{"kind": "progress", "step": "x"}', '{"kind": "progress", "st')
    journal(run, 2, *[older] * 1000, LINE.model_dump_json(), phase, *noise)
    seen = looking.look_at(run)
    assert seen.progress == STEP
    assert seen.phase == "training"
    journal(run, 2, *noise)
    assert looking.look_at(run).progress is None


def test_the_worker_is_alive_only_as_the_very_process_that_was_started(run, story):
    me = myself()
    for created, alive in ((me.create_time, True), (me.create_time - 1, False)):
        story.tell(AttemptSpawned(attempt=2, pid=os.getpid(), create_time=created, boot=me.boot))
        record(run, story, summed_up=False)
        assert looking.look_at(run).worker_alive is alive


def test_who_fills_in_scores_does_not_watch_and_who_left_does_not_either(run, story):
    record(run, story)
    assert not looking.look_at(run).daemon_alive
    for purpose, watches in (("watch", True), ("evaluate", False)):
        run.hold(purpose)
        try:
            assert looking.look_at(run).daemon_alive is watches
        finally:
            run.release()


def test_earlier_runs_with_the_same_classes_are_found_and_no_others(tmp_path, run, story, a_run):
    def beside(name: str, *, names: tuple[str, ...] = ("a", "b"), gave_up: bool = False) -> None:
        other = a_run()
        other.begins(epochs=5, names=names)
        other.trains(1, 0.4)
        if gave_up:
            other.tell(GaveUp(reason="spent"))
        record(begun(tmp_path, name), other)

    beside("earlier")
    beside("other-classes", names=("a", "c"))
    beside("broken", gave_up=True)
    record(run, story)
    beside("later")
    assert looking.look_at(run).siblings == {"earlier": [[1, 0.4]]}


def gpus(device: str) -> list[dict[str, object]] | None:
    return looking._answer(looking._ask_gpus(device))


def test_a_gpu_is_asked_only_where_one_is_used_and_not_waited_for_for_ever(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA H100, 1024, 81559, 97'\necho '1, Old, [N/A], 100, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(looking, "GPU_SECONDS", 20.0)
    first, second = gpus("cuda:0")
    assert first == {
        "index": "0",
        "name": "NVIDIA H100",
        "memory_used_mb": 1024.0,
        "memory_total_mb": 81559.0,
        "utilisation_percent": 97.0,
    }
    assert (second["memory_used_mb"], second["utilisation_percent"]) == (None, None)
    assert gpus("cpu") is None
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(looking, "GPU_SECONDS", 0.05)
    assert gpus("cuda:0") is None
    tool.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.setattr(looking, "GPU_SECONDS", 20.0)
    assert gpus("cuda:0") is None


def test_the_gpu_is_asked_before_the_rest_is_read_and_heard_after_it(run, story, monkeypatch):
    """It may take two seconds to wake up, which nobody has to wait for twice."""
    order: list[str] = []
    record(run, story)
    monkeypatch.setattr(looking, "_lives", lambda _worker: True)
    monkeypatch.setattr(looking, "_ask_gpus", lambda _device: order.append("asked"))
    monkeypatch.setattr(looking, "_answer", lambda _asked: order.append("heard"))
    for name in ("_journal", "_siblings", "waiting"):
        real = getattr(looking, name)
        monkeypatch.setattr(looking, name, lambda *given, n=name, real=real: (order.append(n), real(*given))[1])
    looking.look_at(run)
    assert (order[0], order[-1]) == ("asked", "heard")
    assert {"_journal", "_siblings", "waiting"} < set(order)
    assert looking.GPU_SECONDS >= 2


def test_an_epoch_of_an_older_release_is_no_trouble(run, story):
    """Facts that were written before glances were: folded, and then kept."""
    record(run, story, summed_up=False)
    assert verdict.status(looking.look_at(run))["last"]["epoch"] == 2
    append(run, EpochCommitted(attempt=2, epoch=4, step=40, manifest="m4.json", sha256="0" * 64, finite=True))
    assert verdict.status(looking.look_at(run))["unscored"] == 2
