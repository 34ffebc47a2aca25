"""Faults of the data: files that are cut, removed or changed, and a configuration that is edited, in mid-run."""

from __future__ import annotations

import csv
import json
import tomllib

import numpy as np
import pytest
from PIL import Image
from segwatch.data.cache import open_cache
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.errors import ConfigError

from .matrix import fault

IMAGE = "images_test/one_test.png"
MASK = "masks_test/one_test.png"


def black(path):
    """An image that can be read, with other content."""
    Image.fromarray(np.zeros((128, 128, 3), dtype=np.uint8)).save(path)


@fault(
    "data-changed",
    area="Data",
    fault="an image of the test split is changed between two daemons of one run",
    promise="P1",
    provoked="its bytes are replaced and the scores fall with it; refused, then taken with `--accept-data`",
)
def test_accepted_files_begin_a_new_series_and_are_no_fall_of_the_network(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=9)
    daemon.scenario(step_seconds=0.05, miou=[0.8, 0.82, 0.84])
    running = daemon.start()
    before = daemon.until(lambda history: len(history.epochs) >= 3 and not history.unscored)
    running.terminate()
    daemon.finish(running)
    best_before = before.best["test"].epoch.epoch
    recorded = (daemon.run_dir / "events.jsonl").read_bytes()
    black(daemon.place / IMAGE)
    provoked()
    code, output = daemon.run()
    assert code == 78
    assert f"test: {IMAGE}: changed" in output
    assert "--accept-data" in output
    assert (daemon.run_dir / "events.jsonl").read_bytes() == recorded
    daemon.scenario(step_seconds=0.01, miou=[0.2])
    code, output = daemon.run("--accept-data")
    assert code == 0, output
    series = {}
    for row in daemon.rows():
        if row["split"] == "test":
            series.setdefault(row["data_fingerprint"], set()).add(float(row["miou"]) > 0.5)
    assert list(series.values()) == [{True}, {False}], "two sets of files in one series"
    history = daemon.history
    assert history.best["test"].epoch.epoch > best_before, "a winner on other files is compared with new scores"
    assert all(epoch.verified_good for epoch in history.epochs.values()), "a fake jump made good epochs bad"
    told = daemon.alerts_log()
    assert "miou-collapse" not in told
    assert told.count("FIRING   WARNING  data-changed") == 1
    assert f"{IMAGE}: changed" in told
    assert f"begins with epoch {min(e.epoch for e in history.epochs.values() if not history.series.former(e))}" in told
    assert (daemon.run_dir / "tensorboard" / "eval-2").exists(), "one curve shows a jump that the network never made"
    nothing_else_broke(daemon)


def upside_down(mask, path):
    """A mask that can be read, with the same classes elsewhere."""
    Image.fromarray(np.flipud(np.asarray(Image.open(mask)))).save(path)


@pytest.mark.parametrize(
    ("name", "what"), [(IMAGE, "changed"), (MASK, "changed"), (IMAGE, "truncated"), (IMAGE, "removed")]
)
@fault(
    "data-changed-in-mid-run",
    area="Data",
    fault="an image or a mask of the test split is changed, cut short or removed in mid-run, and the evaluator starts "
    "again",
    promise="P1 P7",
    provoked="by the evaluator that dies over epoch 2; afterwards accepted, or put back where it cannot be read",
)
def test_epochs_on_changed_files_are_refused_by_name_and_scored_once_a_person_has_decided(
    daemon, provoked, nothing_else_broke, name, what
):
    image, kept, other = daemon.place / name, daemon.place / "kept.png", daemon.place / "other.png"
    kept.write_bytes(image.read_bytes())
    if name == MASK:
        upside_down(image, other)
    else:
        black(other)
    if what == "truncated":
        other.write_bytes(image.read_bytes()[:5000])
    daemon.scenario(die=["1:2"], replace={"1:2": [str(image), None if what == "removed" else str(other)]})
    provoked()
    code, output = daemon.run()
    assert code == 0, output
    assert daemon.history.lineage()[-1].epoch == 3, "training does not need the test files"
    assert [row["verdict"] for row in daemon.rows() if row["split"] == "test"] == ["ok", "failed", "failed"]
    assert f"test: {name}: {'gone' if what == 'removed' else 'changed'}" in daemon.alerts_log()
    assert daemon.alerts_log().count("FIRING   WARNING  evaluator-failed") == 1, "one cause, told for each epoch"
    nothing_else_broke(daemon)
    daemon.scenario()
    assert daemon.run()[0] == 78
    code, output = daemon.run("--accept-data")
    if what != "changed":
        assert code == 78
        assert ("images_test" if what == "removed" else "one_test.png") in output
        assert "data-accepted" not in (daemon.run_dir / "events.jsonl").read_text()
        kept.replace(image)
        code, output = daemon.run()
    assert code == 0, output
    prints = [row["data_fingerprint"] for row in daemon.rows() if row["split"] == "test"]
    assert len(set(prints)) == (2 if what == "changed" else 1)
    assert prints[1] == prints[2]
    assert {row["verdict"] for row in daemon.rows()} == {"ok"}
    nothing_else_broke(daemon)


def cached(tmp_path):
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(tmp_path / "mask.png")
    classes = (ResolvedClass(id=0, name="a", colour=(0, 0, 0), pixels={"train": 1}),)
    pair = (Pair(image="image.png", mask="mask.png"),)
    data = ResolvedData(root=tmp_path, scale=1.0, classes=classes, splits={"train": pair})
    return data, open_cache(data, "train", tmp_path / "cache")


@pytest.mark.parametrize("name", ["image.png", "mask.png"])
@fault(
    "data-broken-under-training",
    area="Data",
    fault="an image or a mask is truncated, then removed, while its pixels are trained on",
    promise="P7",
    provoked="the real cache is open; then it is opened again, as the next attempt does",
)
def test_open_pixels_stay_what_they_were_and_the_next_attempt_names_the_file(tmp_path, provoked, name):
    data, cache = cached(tmp_path)
    before, fingerprint = cache.item(0).copy(), data.fingerprint("train")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:60])
    provoked()
    assert np.array_equal(cache.item(0), before)
    assert data.fingerprint("train") != fingerprint
    with pytest.raises(ConfigError, match=name):
        open_cache(data, "train", tmp_path / "cache")
    path.unlink()
    provoked()
    assert np.array_equal(cache.item(0), before)
    with pytest.raises(ConfigError, match=name):
        open_cache(data, "train", tmp_path / "cache")


@fault(
    "config-edited-in-run",
    area="Data",
    fault="run.toml is edited in mid-run",
    promise="P5",
    provoked="a setting that makes another run, one that may change, and a broken file, under a running attempt",
)
def test_an_attempt_keeps_its_frozen_file_and_the_next_call_shows_the_difference(daemon, provoked, nothing_else_broke):
    daemon.configure(epochs=8)
    daemon.scenario(step_seconds=0.05)
    running = daemon.start()
    daemon.until(lambda history: len(history.epochs) == 1)
    source = daemon.place / "run.toml"
    sound = source.read_text()
    frozen = (daemon.run_dir / "run.lock.toml").read_bytes()
    source.write_text("[data\nthis is no TOML")
    provoked()
    daemon.until(lambda history: len(history.epochs) == 3)
    running.terminate()
    assert daemon.finish(running)[0] == 143
    assert (daemon.run_dir / "run.lock.toml").read_bytes() == frozen
    assert (daemon.run_dir / "run.toml").read_text() == sound
    source.write_text(sound.replace("batch_size = 4", "batch_size = 2"))
    provoked()
    code, output = daemon.run()
    assert code == 78
    assert "trainer.batch_size: 4 -> 2" in output
    source.write_text(sound.replace("epochs = 8", "epochs = 6"))
    provoked()
    code, output = daemon.run()
    assert code == 0, output
    assert "trainer.epochs 8 -> 6" in output
    specs = [json.loads((d / "spec.json").read_text()) for d in sorted((daemon.run_dir / "attempts").iterdir())]
    assert [(spec["epochs"], spec["batch_size"]) for spec in specs] == [(8, 4), (6, 4)]
    assert tomllib.loads((daemon.run_dir / "run.lock.toml").read_text())["config"]["trainer"]["epochs"] == 6
    with (daemon.run_dir / "results.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "2", "3", "4", "5", "6"}
    nothing_else_broke(daemon)
