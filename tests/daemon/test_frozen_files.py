"""A real daemon around the fakes, whose masks change between two calls or under a running one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon.filling import Filled, fill
from segwatch.daemon.rundir import FILES, RunDir
from segwatch.errors import ConfigError

HERE = Path(__file__).parent
MASK = "masks_test/one_test.png"


@pytest.fixture
def trained(daemon):
    """A run of three epochs that came to its end."""
    assert daemon.run()[0] == 0
    return daemon


def change(daemon, name: str = MASK) -> bytes:
    """Other content; returns what it was."""
    before = (daemon.place / name).read_bytes()
    (daemon.place / name).write_bytes(before[:-1] + b"?")
    return before


def facts(daemon) -> bytes:
    return (daemon.run_dir / "events.jsonl").read_bytes()


def fill_in(daemon) -> Filled:
    command = (sys.executable, str(HERE / "fake_evaluator.py"), str(daemon.place / "scenario.json"))
    return fill(RunDir(daemon.run_dir), Console(quiet=True), evaluator_command=command)[0]


def lose_a_report(daemon) -> Path:
    report = daemon.run_dir / "evaluations" / "attempt001_epoch2_test.json"
    report.unlink()
    return report


def test_a_run_freezes_every_file_beside_its_lock(trained):
    lines = [json.loads(line) for line in (trained.run_dir / FILES).read_text().splitlines()]
    assert {(line["split"], line["path"]) for line in lines} == {
        (split, f"{kind}{suffix}/one{suffix}.png")
        for split, suffix in (("train", ""), ("val", "_val"), ("test", "_test"))
        for kind in ("images", "masks")
    }
    assert "sha256" not in (trained.run_dir / "run.lock.toml").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (MASK, "Scores from before and after would be of different data"),
        ("images_val/one_val.png", "Scores from before and after would be of different data"),
        ("masks/one.png", "would have learned from different data"),
    ],
)
def test_a_run_whose_files_changed_does_not_go_on_and_nothing_is_recorded(trained, name, words):
    before = change(trained, name)
    recorded, lock = facts(trained), (trained.run_dir / "run.lock.toml").read_bytes()
    trained.configure(epochs=5)
    code, output = trained.run()
    assert code == 78
    assert f"{name}: changed" in output
    assert words in output
    assert "--name" in output
    assert facts(trained) == recorded
    assert (trained.run_dir / "run.lock.toml").read_bytes() == lock
    (trained.place / name).write_bytes(before)
    code, output = trained.run()
    assert code == 0, output
    assert trained.scored_epochs() == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def test_touched_files_are_accepted_and_known_by_their_new_time(trained):
    os.utime(trained.place / MASK, (1.0, 1.0))
    trained.configure(epochs=4)
    code, output = trained.run()
    assert code == 0, output
    assert "bear another time than before: their content is compared" in output
    lines = [json.loads(line) for line in (trained.run_dir / FILES).read_text().splitlines()]
    assert {line["path"]: line["mtime_ns"] for line in lines}[MASK] == 1_000_000_000


def test_a_finished_run_is_still_told_when_its_data_is_gone(trained):
    (trained.place / MASK).unlink()
    code, output = trained.run()
    assert code == 0
    assert "best by test" in output


def test_a_run_of_an_older_release_goes_on_and_the_log_says_what_is_not_known(trained):
    (trained.run_dir / FILES).unlink()
    change(trained)
    trained.configure(epochs=4)
    code, _ = trained.run()
    assert "an older release began this run" in (trained.run_dir / "daemon.log").read_text()
    assert trained.history.epochs.keys() >= {(2, 4)}
    assert code == 0


def test_evaluate_writes_no_report_over_changed_files(trained):
    report = lose_a_report(trained)
    before = change(trained)
    recorded = facts(trained)
    with pytest.raises(ConfigError, match="runs/run: the data is not what it was") as raised:  # before any evaluator
        fill_in(trained)
    assert f"test: {MASK}: changed" in str(raised.value)
    assert not report.exists()
    assert facts(trained) == recorded
    (trained.place / MASK).write_bytes(before)
    assert fill_in(trained).restored == 1
    assert report.exists()


def test_evaluate_takes_touched_files_and_does_not_mind_those_of_train(trained):
    report = lose_a_report(trained)
    os.utime(trained.place / MASK, (1.0, 1.0))
    change(trained, "masks/one.png")
    assert fill_in(trained).exit_code == 0
    assert report.exists()


def test_evaluate_with_nothing_missing_asks_for_no_files(trained):
    change(trained)
    assert fill_in(trained).exit_code == 0


def test_an_evaluator_started_again_over_changed_files_scores_nothing_and_training_goes_on(daemon):
    """The epoch over which it died changes a test mask as well."""
    before = (daemon.place / MASK).read_bytes()
    daemon.scenario(die=["1:2"], overwrite={"1:2": str(daemon.place / MASK)})
    code, output = daemon.run()
    assert code == 0, output
    assert len(daemon.history.epochs) == 3
    verdicts = {(row["epoch"], row["split"]): row["verdict"] for row in daemon.rows()}
    assert [verdicts[epoch, "test"] for epoch in "123"] == ["ok", "failed", "failed"]
    alerts = daemon.alerts_log()
    assert "evaluator-failed" in alerts
    assert f"test: {MASK}: changed" in alerts
    assert "advice:   Restore the files" in alerts
    daemon.scenario()
    assert daemon.run()[0] == 78
    (daemon.place / MASK).write_bytes(before)
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.scored_epochs() == [(1, 1), (1, 2), (1, 3)]
