"""The directory of a run: what is frozen in it, what may be edited, who holds it, and which one a person means."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon.config import RunConfig, load_config
from segwatch.daemon.freezing import FREE_WHILE_RUNNING, accept, create, frozen_config
from segwatch.daemon.job import run_job
from segwatch.daemon.process import Identity
from segwatch.daemon.rundir import LOCK, RunDir, find_run
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.durable import write_json
from segwatch.errors import ConfigError, RunHeldError, SegwatchError, UsageError

TOML = """\
# a comment of the user's, and an umlaut: ü
[data]
classes = "classes.toml"
[data.train]
images = "i"
masks = "m"
[data.val]
images = "i"
masks = "m"
[data.test]
images = "i"
masks = "m"
"""
RESOLVED = ResolvedData(
    root=Path("/data"),
    scale=0.25,
    classes=(
        ResolvedClass(id=3, name='"road", \\ weg', colour=(1, 2, 3), pixels={"train": 10, "test": 0}),
        ResolvedClass(id=7, name="Dach ü", colour=(255, 0, 0), pixels={"train": 5}),
    ),
    splits={"train": (Pair(image="a b.png", mask="a b.png"),), "val": (), "test": ()},
    skipped={"val": 2},
)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def run(tmp_path, source) -> RunDir:
    run = RunDir(tmp_path / "runs" / "one")
    create(run, source, load_config(source), RESOLVED)
    return run


def begun(path: Path, source: Path, *, since: float) -> None:
    run = RunDir(path)
    create(run, source, load_config(source), RESOLVED)
    holder = {"pid": 1, "create_time": 1.0, "host": "elsewhere", "since": since}
    write_json(path / "daemon.json", holder)


# --- what is frozen ------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_file_of_the_user_to_the_letter_and_everything_as_resolved(run, source):
    assert (run.path / "run.toml").read_text() == TOML
    assert frozen_config(run) == load_config(source)
    assert ResolvedData.load(run.path / LOCK) == RESOLVED


def test_the_lock_spells_every_default_out_for_a_person(run):
    text = (run.path / LOCK).read_text()
    assert text.startswith("# What this run uses")
    assert "lr = 5e-05" in text
    assert "[config.recovery]" in text


def test_a_run_is_there_once_its_lock_is_and_not_before(tmp_path, source):
    run = RunDir(tmp_path / "runs" / "one")
    assert not run.exists
    run.path.mkdir(parents=True)
    (run.path / "run.toml").write_text(TOML)
    assert not run.exists
    create(run, source, load_config(source), RESOLVED)
    assert run.exists


def test_a_begun_directory_is_completed_by_the_next_try(tmp_path, source):
    run = RunDir(tmp_path / "runs" / "one")
    (run.path / "attempts").mkdir(parents=True)
    create(run, source, load_config(source), RESOLVED)
    assert sorted(path.name for path in run.path.iterdir() if path.is_dir()) == [
        "attempts",
        "checkpoints",
        "evaluations",
        "incidents",
        "tensorboard",
    ]


@pytest.mark.parametrize("text", ["", "not toml [", "[resolved]\nx = 1", "[config]\nx = 1"])
def test_a_damaged_lock_is_explained(run, text):
    (run.path / LOCK).write_text(text)
    with pytest.raises(ConfigError) as raised:
        frozen_config(run)
    assert raised.value.where == str(run.path / LOCK)


# --- what may be edited --------------------------------------------------------------------------------------------


def edit(source: Path, text: str) -> RunConfig:
    source.write_text(text)
    return load_config(source)


def test_the_same_file_changes_nothing(run, source):
    before = (run.path / LOCK).stat().st_mtime_ns
    assert accept(run, source, load_config(source)) == {}
    assert (run.path / LOCK).stat().st_mtime_ns == before


def test_settings_that_are_free_are_taken_over_and_told_in_words(run, source):
    config = edit(source, TOML + "[trainer]\nepochs = 200\n[alerts]\npatience = 3\n[checkpoints]\nkeep_epochs = 2")
    assert accept(run, source, config) == {
        "alerts.patience": "10 -> 3",
        "checkpoints.keep_epochs": "(not set) -> 2",
        "trainer.epochs": "100 -> 200",
    }
    assert frozen_config(run) == config
    assert ResolvedData.load(run.path / LOCK) == RESOLVED
    assert "patience = 3" in (run.path / "run.toml").read_text()
    assert accept(run, source, config) == {}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("[trainer]\nlr = 1e-3", "trainer.lr: 5e-05 -> 0.001"),
        ("[model]\nbase_channels = 8", "model.base_channels: 64 -> 8"),
        ('[trainer]\namp = "fp16"', 'trainer.amp: "off" -> "fp16"'),
        ("[loss]\ndice = 0", "loss.dice: 1.0 -> 0.0"),
    ],
)
def test_a_setting_that_makes_it_another_run_is_refused_with_both_values_and_nothing_is_changed(
    run, source, extra, words
):
    before = (run.path / LOCK).read_text()
    with pytest.raises(ConfigError) as raised:
        accept(run, source, edit(source, f"{TOML}{extra}\n[watch]\nscan_seconds = 1"))
    assert words in str(raised.value)
    assert "scan_seconds" not in str(raised.value)
    assert "--name" in str(raised.value)
    assert (run.path / LOCK).read_text() == before
    assert (run.path / "run.toml").read_text() == TOML


def test_every_setting_that_is_called_free_exists():
    keys = {f"{table}." for table in RunConfig.model_fields}
    keys |= {
        f"{table}.{name}"
        for table, field in RunConfig.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    }
    assert set(FREE_WHILE_RUNNING) <= keys


# --- who holds it --------------------------------------------------------------------------------------------------


def test_a_held_run_is_refused_with_75_and_the_pid_of_the_holder(run):
    run.hold()
    try:
        with pytest.raises(RunHeldError, match=f"pid {os.getpid()}") as raised:
            RunDir(run.path).hold()
        assert raised.value.exit_code == 75
        assert run.holder().alive() is True
    finally:
        run.release()
    again = RunDir(run.path)
    again.hold()
    again.release()


def test_a_run_that_could_not_begin_is_removed_while_it_is_still_held(tmp_path, source, monkeypatch):
    """Whoever takes it in between would lose the lock that it has just got, and a third one could take it too."""
    held = []
    monkeypatch.setattr(RunDir, "abandon", lambda run: held.append(run._lock.is_locked))
    with pytest.raises(SegwatchError):
        run_job(source, name=None, runs_dir=tmp_path, drills=[], retry=False, console=Console(quiet=True))
    assert held == [True]


def test_nobody_holds_a_run_that_was_never_held_or_whose_note_is_torn(run):
    assert run.holder() is None
    (run.path / "daemon.json").write_text('{"pid": 1')
    assert run.holder() is None


def test_whether_a_daemon_on_another_host_lives_is_unknown(run):
    write_json(run.path / "daemon.json", {"pid": os.getpid(), "create_time": 1.0, "host": "elsewhere", "since": 0.0})
    assert run.holder().alive() is None


def test_a_daemon_whose_pid_was_given_to_another_process_is_dead(run):
    me = Identity.of(os.getpid())
    note = {"pid": me.pid, "create_time": me.create_time - 60, "host": socket.gethostname(), "since": 0.0}
    write_json(run.path / "daemon.json", note)
    assert run.holder().alive() is False


# --- which one is meant --------------------------------------------------------------------------------------------


def test_the_newest_run_is_the_one_taken_up_last_whatever_its_name(tmp_path, source):
    runs = tmp_path / "runs"
    for name, since in (("a", 2.0), ("b", 3.0), ("c", 1.0)):
        begun(runs / name, source, since=since)
    (runs / ".cache").mkdir()
    (runs / "zzz-not-begun").mkdir()
    (runs / "a file").write_text("")
    assert find_run(None, runs).path.name == "b"


def test_a_run_that_no_daemon_has_taken_yet_counts_from_when_it_was_made(tmp_path, source):
    runs = tmp_path / "runs"
    begun(runs / "old", source, since=1.0)
    fresh = RunDir(runs / "fresh")
    create(fresh, source, load_config(source), RESOLVED)
    assert find_run(None, runs).path.name == "fresh"


def test_a_run_is_found_by_its_name_and_by_its_directory(run, tmp_path):
    runs = tmp_path / "runs"
    assert find_run(Path("one"), runs).path == run.path
    assert find_run(run.path, tmp_path / "elsewhere").path == run.path


def test_a_directory_goes_before_a_run_of_the_same_name(tmp_path, source, monkeypatch):
    begun(tmp_path / "runs" / "one", source, since=1.0)
    begun(tmp_path / "one", source, since=1.0)
    monkeypatch.chdir(tmp_path)
    assert find_run(Path("one"), Path("runs")).path == tmp_path / "one"


def test_a_run_that_is_not_there_is_answered_with_the_list_of_those_that_are(run, tmp_path):
    with pytest.raises(UsageError) as raised:
        find_run(Path("two"), tmp_path / "runs")
    assert raised.value.exit_code == 2
    assert "runs here: one" in str(raised.value)


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_where_no_run_is_the_answer_says_how_to_begin_one(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="segwatch run"):
        find_run(None, tmp_path / place)
    with pytest.raises(UsageError, match="runs here: none"):
        find_run(Path("x"), tmp_path / place)


def test_the_cache_of_pixels_is_shared_by_the_runs_of_one_directory(tmp_path):
    assert RunDir(tmp_path / "a").cache_dir == RunDir(tmp_path / "b").cache_dir
