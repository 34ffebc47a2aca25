"""Several runs side by side: the list, and which of two is better, over the same images or not at all."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
from rich.console import Console
from segwatch.daemon import comparing, comparing_view, listing
from segwatch.daemon.config import load_config
from segwatch.daemon.evaluations import counts_of
from segwatch.daemon.events import GaveUp, RunFinished
from segwatch.daemon.freezing import create, frozen_config
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.data.resolved import ResolvedClass, ResolvedData
from segwatch.errors import SegwatchError
from segwatch.evaluator.statistics import PerImage
from segwatch.trainer.contract import Cause

from ..mistakes.table import CLOSING, of_somebody_else
from .conftest import CONFIG

IMAGES = 12


def counts(quality: float, *, truth: int = 100) -> PerImage:
    """Two classes; `quality` of their pixels is right, more in some images than in others."""
    right = np.array([[int(truth * quality) + number % 3] * 2 for number in range(IMAGES)], dtype=np.int64)
    support = np.full((IMAGES, 2), truth, dtype=np.int64)
    return PerImage(tuple(f"{number}.png" for number in range(IMAGES)), right, support, support.copy())


class Runs:
    """A directory of runs, each told as a story and left on the disk as a daemon would."""

    def __init__(self, path, a_run, monkeypatch) -> None:
        self.path, self.a_run = path, a_run
        self.counts: dict[str, PerImage] = {}
        monkeypatch.setattr(comparing, "counts_of", lambda run_dir, _epoch, _split: self.counts.get(run_dir.name))

    def make(self, name: str, *, lr: float = 1e-4, quality: float | None = None, truth: int = 100) -> RunDir:
        source = self.path / f"{name}.toml"
        text = CONFIG.format(epochs=9, amp="off", extra="")
        source.write_text(text.replace("lr = 1e-3", f"lr = {lr}"))
        run = RunDir(self.path / "runs" / name)
        classes = (ResolvedClass(id=0, name="field", colour=(0, 0, 0), pixels={"train": 9}),)
        data = ResolvedData(root=self.path, scale=0.25, classes=classes, splits={"train": (), "val": (), "test": ()})
        create(run, source, load_config(source), data)
        if quality is not None:
            self.counts[name] = counts(quality, truth=truth)
        return run

    def tell(self, run: RunDir, *, miou: float | None, data: str = "f00d", names=("field", "road"), end=None) -> RunDir:
        story = self.a_run()
        story.begins(epochs=9, names=names)
        if miou is not None:
            story.trains(1, miou - 0.1, data=data)
            story.trains(2, miou, miou + 0.05, interval=(miou - 0.02, miou + 0.02), data=data)
        story.suffers(Cause.NAN_LOSS)
        if end is not None:
            story.tell(end)
        moment = iter(float(number) for number in range(10_000))
        store = Store(run.path, clock=lambda: next(moment))
        for _, event in story.told:
            store.append(event)
        store.close()
        return run


@pytest.fixture
def runs(tmp_path, a_run, monkeypatch):
    return Runs(tmp_path, a_run, monkeypatch)


def printed(found: comparing.Comparison) -> str:
    return "\n".join(comparing_view.lines(found))


# --- compare -------------------------------------------------------------------------------------------------------


def test_over_the_same_images_a_sure_difference_is_called_better(runs):
    a = runs.tell(runs.make("a", quality=0.5), miou=0.50)
    b = runs.tell(runs.make("b", lr=5e-4, quality=0.7), miou=0.70)
    found = comparing.compare(a, b)
    test = found.splits[0]
    assert test.split == "test"
    assert test.difference.low > 0.1
    assert test.why_not == ""
    text = printed(found)
    assert "b is better: b - a +" in text
    assert "70.00 % (68.0-72.0), epoch 2" in text
    assert "a is better" in printed(comparing.compare(b, a))


def test_what_the_images_cannot_show_is_called_no_sure_difference(runs):
    a, b = (runs.tell(runs.make(name, quality=0.5), miou=miou) for name, miou in (("a", 0.50), ("b", 0.52)))
    found = comparing.compare(a, b)
    assert found.splits[0].difference.difference == 0
    assert "no sure difference: b - a +0.00 points" in printed(found)


def test_classes_settings_incidents_and_time_stand_side_by_side(runs):
    a = runs.tell(runs.make("a", quality=0.5), miou=0.50, end=GaveUp(reason="so", exit_code=1))
    b = runs.tell(runs.make("b", lr=5e-4, quality=0.7), miou=0.70, end=RunFinished(trained=2, unscored=0))
    found = comparing.compare(a, b)
    assert found.settings == {"trainer.lr": (1e-4, 5e-4)}
    assert [(row.name, row.a, row.b) for row in found.classes] == [("field", 0.5, 0.7), ("road", None, None)]
    assert found.courses[0].incidents == {"nan-loss": 1}
    assert [course.end for course in found.courses] == ["gave up", "finished"]
    assert found.courses[0].seconds > 0
    text = printed(found)
    for words in ("trainer.lr", "0.0005", "field", "+20.00", "nan-loss x 1", "2/9, gave up"):
        assert words in text


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"data": "beef"}, "other test images, masks or scale"),
        ({"names": ("field", "river")}, "other classes: only in a: road; only in b: river"),
        ({"names": ("road", "field")}, "other classes: in another order"),
        ({"data": ""}, "an older release scored one of them: whether the test files are the same is not known"),
    ],
)
def test_scores_on_other_data_or_classes_are_not_compared(runs, other, why):
    a = runs.tell(runs.make("a", quality=0.5), miou=0.50)
    b = runs.tell(runs.make("b", quality=0.7), miou=0.70, **other)
    found = comparing.compare(a, b)
    assert found.splits[0].difference is None
    assert found.classes == ()
    text = printed(found)
    assert f"NOT COMPARABLE: {why}" in text
    assert "better" not in text


def test_the_same_files_at_another_scale_are_not_compared(runs):
    a = runs.tell(runs.make("a", quality=0.5), miou=0.50)
    b = runs.tell(runs.make("b", quality=0.7, truth=400), miou=0.70)
    assert comparing.compare(a, b).splits[0].why_not == comparing.OTHER_TRUTH


def test_without_the_counts_of_the_images_nothing_is_called_sure(runs):
    a, b = (runs.tell(runs.make(name), miou=miou) for name, miou in (("a", 0.50), ("b", 0.70)))
    text = printed(comparing.compare(a, b))
    assert "b - a: +20.00 points; how sure that is, nobody knows" in text
    assert "better" not in text


def test_a_run_without_a_score_says_so(runs):
    a, b = runs.tell(runs.make("a"), miou=0.5), runs.tell(runs.make("b"), miou=None)
    assert "NOT COMPARABLE: no score yet in b" in printed(comparing.compare(a, b))


def test_a_run_is_not_compared_with_itself(runs):
    a = runs.tell(runs.make("a"), miou=0.5)
    with pytest.raises(SegwatchError, match="both are the same run"):
        comparing.compare(a, a)


def test_the_comparison_is_strict_json(runs):
    a, b = (runs.tell(runs.make(n, quality=q), miou=q) for n, q in (("a", 0.5), ("b", 0.7)))
    told = json.loads(json.dumps(comparing.as_json(comparing.compare(a, b)), allow_nan=False))
    assert [row["comparable"] for row in told["splits"]] == [True, True]
    assert told["classes"][0]["difference"] == pytest.approx(0.2)
    assert told["classes"][1]["difference"] is None
    assert told["splits"][0]["difference"]["low"] > 0


def test_the_counts_that_are_compared_are_those_of_the_evaluator(tmp_path, a_run):
    run = a_run()
    run.begins()
    assert counts_of(tmp_path, run.trains(1, 0.5), "test") is None


# --- list ----------------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_for_each_run_the_one_that_spoke_last_first(runs):
    runs.tell(runs.make("old"), miou=0.5, end=RunFinished(trained=2, unscored=0))
    runs.tell(runs.make("new"), miou=None)
    for number, name in enumerate(("old", "new")):
        os.utime(runs.path / "runs" / name / "events.jsonl", (1000 + number, 1000 + number))
    (runs.path / "runs" / "no-run").mkdir()
    rows = listing.runs_in(runs.path / "runs")
    assert [row["name"] for row in rows] == ["new", "old"]
    assert (rows[1]["state"], rows[1]["best"], rows[1]["best_epoch"], rows[1]["epoch"]) == ("finished", 0.5, 2, 2)
    assert rows[0]["best"] is None
    stream = io.StringIO()
    listing.show(rows, runs.path / "runs", Console(file=stream, width=160))
    lines = stream.getvalue().splitlines()
    assert lines[0].split()[0] == "run"
    assert lines[2].split()[:6] == ["old", "finished", "healthy", "2/9", "50.00", "%"]


@pytest.mark.parametrize("width", [30, 50, 60, 80, 100])
def test_in_a_narrow_terminal_names_are_whole_and_what_matters_least_is_left_out(tmp_path, width):
    names = ["night-1", "unet64-dubai-scale05-lr1e4-bf16-seed3"]
    row = {"state": "interrupted", "health": "degraded", "epoch": 12, "epochs": 100, "best": 0.5, "best_epoch": 7}
    rows = [{**row, "name": name, "last_fact": None, "firing": ["miou-stall", "needs-debugging"]} for name in names]
    stream = io.StringIO()
    listing.show(rows, tmp_path, Console(file=stream, width=width))
    head, *lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in stream.getvalue()
    first = "".join(line.split()[0] for line in lines if not line.startswith((" ", "night")))
    assert first == names[1]
    assert all(column in head for column in ("run", "state"))
    assert ("best test mIoU" in head) == (width > 30)
    assert ("firing" in head) == (width >= 100)
    assert "at epoch" not in head
    assert "night-1  " in lines[0]


def test_a_run_that_cannot_be_read_hides_no_other(runs):
    runs.tell(runs.make("good"), miou=0.5)
    (runs.make("bad").path / "events.jsonl").unlink(missing_ok=True)
    rows = {row["name"]: row for row in listing.runs_in(runs.path / "runs")}
    assert rows["bad"]["state"] == "unreadable"
    assert rows["good"]["best"] == 0.5


def test_a_run_of_somebody_else_is_a_row_that_says_so_and_hides_no_other(runs):
    runs.tell(runs.make("good"), miou=0.5)
    runs.make("foreign")
    of_somebody_else("runs/foreign")(runs.path)
    try:
        rows = {row["name"]: row for row in listing.runs_in(runs.path / "runs")}
    finally:
        while CLOSING:
            CLOSING.pop()()
    assert (rows["foreign"]["state"], rows["good"]["best"]) == ("unreadable", 0.5)
    assert rows["foreign"]["reason"] == "cannot be looked at: Permission denied"


def test_where_no_run_is_the_list_says_how_to_begin_one(tmp_path):
    stream = io.StringIO()
    listing.show(listing.runs_in(tmp_path / "runs"), tmp_path / "runs", Console(file=stream, width=160))
    assert "segwatch run run.toml" in stream.getvalue()


# --- what a run froze ----------------------------------------------------------------------------------------------


def test_a_channel_with_settings_that_are_not_set_is_frozen_and_read_again(tmp_path):
    extra = '[alerts]\nnotify = ["env:A", { url = "env:B", quiet_hours = "" }]'
    (tmp_path / "run.toml").write_text(CONFIG.format(epochs=1, amp="off", extra=extra))
    config = load_config(tmp_path / "run.toml")
    run = RunDir(tmp_path / "runs" / "one")
    classes = (ResolvedClass(id=0, name="field", colour=(0, 0, 0), pixels={"train": 9}),)
    data = ResolvedData(root=tmp_path, scale=0.25, classes=classes, splits={"train": (), "val": (), "test": ()})
    create(run, tmp_path / "run.toml", config, data)
    assert frozen_config(run).alerts.notify == config.alerts.notify
