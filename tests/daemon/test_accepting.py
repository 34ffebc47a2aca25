"""`--accept-data`: what a run may take over, what it records, and how its earlier epochs come into the new series."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segwatch.daemon.accepting import compare_with_frozen
from segwatch.daemon.config import load_config
from segwatch.daemon.evaluations import FORMER
from segwatch.daemon.events import DataAccepted
from segwatch.daemon.filling import fill
from segwatch.daemon.job import recorded
from segwatch.daemon.rundir import FILES, RunDir
from segwatch.daemon.store import read_events
from segwatch.data.audit import audit
from segwatch.errors import ConfigError

from .conftest import Daemon, write_data

HERE = Path(__file__).parent
MASK = "masks_test/one_test.png"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three epochs that came to its end; whoever changes files puts them back."""
    place = tmp_path_factory.mktemp("finished")
    write_data(place)
    daemon = Daemon(place)
    daemon.configure()
    daemon.scenario(miou=[0.5, 0.6, 0.7])
    assert daemon.run()[0] == 0
    yield daemon
    daemon.clean()


def look(daemon):
    """What there is to accept, by the audit of now."""
    config = load_config(daemon.place / "run.toml")
    report = audit(config.data, daemon.place)
    assert report.resolved is not None
    run = RunDir(daemon.run_dir)
    return compare_with_frozen(run, recorded(run), report, report.resolved)


def swap_classes(mask: Path) -> bytes:
    """Another mask that can be read; returns what it was."""
    before = mask.read_bytes()
    Image.fromarray(1 - np.array(Image.open(mask))).save(mask)
    return before


def test_where_no_content_changed_there_is_nothing_to_accept(finished):
    (finished.place / MASK).touch()
    assert look(finished) is None


def test_changed_and_added_files_are_named_by_split(finished):
    mask, added = finished.place / MASK, finished.place / "images/two.png"
    before = swap_classes(mask)
    added.write_bytes((finished.place / "images_test/one_test.png").read_bytes())
    (finished.place / "masks/two.png").write_bytes(before)
    try:
        accepted = look(finished)
    finally:
        mask.write_bytes(before)
        added.unlink()
        (finished.place / "masks/two.png").unlink()
    assert accepted is not None
    assert {told.split: told.files for told in accepted.splits} == {
        "train": ("images/two.png: added", "masks/two.png: added"),
        "test": (f"{MASK}: changed",),
    }
    assert all(told.before != told.after for told in accepted.splits)


def test_other_classes_are_another_run(finished):
    classes = finished.place / "classes.json"
    before = classes.read_text()
    classes.write_text(before.replace('"name": "b"', '"name": "c"'))
    try:
        with pytest.raises(ConfigError, match="the classes are others now") as raised:
            look(finished)
    finally:
        classes.write_text(before)
    assert "when it began: 0 a; 1 b" in str(raised.value)
    assert "--name" in str(raised.value)


def test_an_image_that_was_trained_on_is_not_scored_on(finished):
    config = load_config(finished.place / "run.toml")
    report = audit(config.data, finished.place)
    assert report.resolved is not None
    splits = {**report.resolved.splits, "test": report.resolved.splits["train"]}
    drawn = report.resolved.model_copy(update={"splits": splits})
    run = RunDir(finished.run_dir)
    with pytest.raises(ConfigError, match=r"images/one\.png: train -> test"):
        compare_with_frozen(run, recorded(run), report, drawn)


def test_a_run_of_an_older_release_is_frozen_from_here_on_and_nobody_knows_what_changed(finished):
    kept = (finished.run_dir / FILES).read_bytes()
    (finished.run_dir / FILES).unlink()
    try:
        accepted = look(finished)
    finally:
        (finished.run_dir / FILES).write_bytes(kept)
    assert accepted is not None
    assert {told.split for told in accepted.splits} == {"train", "val", "test"}
    assert all("is not known" in told.count and told.files == () for told in accepted.splits)


def test_a_finished_run_takes_new_files_and_evaluate_scores_every_epoch_on_them_as_well(daemon):
    """The daemon dies between the fact and the files: they are refused again, and accepted without a second fact."""
    daemon.scenario(miou=[0.5, 0.6, 0.7])
    assert daemon.run()[0] == 0
    frozen = (daemon.run_dir / FILES).read_bytes()
    swap_classes(daemon.place / MASK)
    assert daemon.run("--accept-data")[0] == 0
    (daemon.run_dir / FILES).write_bytes(frozen)
    code, output = daemon.run("--accept-data")
    assert code == 0, output
    assert sum(isinstance(event, DataAccepted) for _, event in read_events(daemon.run_dir)) == 1
    assert "test: on files changed since" in output

    daemon.scenario(miou=[0.3, 0.2, 0.1])
    command = (sys.executable, str(HERE / "fake_evaluator.py"), str(daemon.place / "scenario.json"))
    filled, history = fill(RunDir(daemon.run_dir), Console(quiet=True), evaluator_command=command)
    assert filled.exit_code == 0
    assert filled.scored == ((1, 1), (1, 2), (1, 3))
    assert history.finished
    rows = [(row["epoch"], round(float(row["miou"]), 6)) for row in daemon.rows() if row["split"] == "test"]
    assert rows == [("1", 0.5), ("2", 0.6), ("3", 0.7), ("1", 0.3), ("2", 0.2), ("3", 0.1)]
    assert history.best["test"].epoch.epoch == 1
    gain = history.epochs[1, 2].scores["test"].gain
    assert gain is not None, "compared over the images of now"
    assert (gain.against_epoch, round(gain.difference, 6)) == (1, -0.1)
    old = {path.name for path in (daemon.run_dir / "evaluations" / FORMER).rglob("*.json")}
    assert old == {f"attempt001_epoch{epoch}_test.json" for epoch in (1, 2, 3)}
    again, _ = fill(RunDir(daemon.run_dir), Console(quiet=True), evaluator_command=command)
    assert again.scored == ()
