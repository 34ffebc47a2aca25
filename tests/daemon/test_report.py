"""report.md, report.html and results.png: what someone who was away reads, with the noise of every figure beside it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from segwatch.daemon import report as reporting
from segwatch.daemon import views
from segwatch.daemon.document import Bullets, Document, Table, Words, as_html, as_markdown
from segwatch.daemon.events import (
    AcceptedSplit,
    AttemptStarted,
    DaemonStopped,
    DataAccepted,
    GapMeasured,
    GaveUp,
    RunFinished,
)
from segwatch.daemon.report import print_closing, write_report
from segwatch.daemon.run_plot import Mark, RunStory, Stretch, draw_story, limits, story_of
from segwatch.daemon.rundir import RunDir
from segwatch.data.resolved import ResolvedClass, ResolvedData
from segwatch.durable import write_text
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import EvaluationReport, ImageScore, Interval, Verdict, report_path
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause

POLICY = "mIoU over 2 of 2 classes; 3 of 16 images are also in train"


def a_class(class_id: int, name: str, colour: tuple[int, int, int]) -> ResolvedClass:
    return ResolvedClass(id=class_id, name=name, colour=colour, pixels={"train": 999 if class_id == 4 else 1})


DATA = ResolvedData(
    root=Path("/data"),
    scale=0.25,
    classes=(a_class(4, "field", (0, 128, 0)), a_class(7, "road", (90, 90, 90))),
    splits={"train": (), "val": (), "test": ()},
    table_ids=(4, 7, 9),
)


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=2)
    return run


@pytest.fixture
def place(tmp_path, monkeypatch) -> RunDir:
    (tmp_path / "evaluations").mkdir()
    for module in (reporting, views):
        monkeypatch.setattr(module, "frozen_data", lambda _run: DATA)
    return RunDir(tmp_path)


def story(run, place: RunDir) -> None:
    """Two epochs; val prefers the first, and the gap is noise. The evaluator's report of the second lies beside."""
    first = run.trains(1, test=0.60, val=0.70, interval=(0.5, 0.72))
    gain = run.over(first, 0.04, -0.01, 0.09)
    second = run.trains(2, test=0.64, val=0.60, interval=(0.55, 0.73), gain=gain, skipped=2)
    run.tell(GapMeasured(by_test=second.key, by_val=first.key, low=-0.01, high=0.09))
    write_evaluation(place, second)


def write_evaluation(place: RunDir, epoch) -> None:
    matrix = [[32, 9], [9, 32]]
    report = EvaluationReport(
        attempt=epoch.attempt,
        epoch=epoch.epoch,
        step=epoch.step,
        split="test",
        verdict=Verdict.OK,
        scores=score(np.array(matrix)),
        confusion=matrix,
        class_ids=(0, 1),
        class_names=("field", "road"),
        policy=POLICY,
        images=3,
        ignored_pixels=0,
        counted_pixels=82,
        seconds=0.1,
        device="cpu",
        checkpoint_sha256=epoch.sha256,
        data_fingerprint="f",
        miou_interval=Interval(low=0.55, high=0.73, resamples=1000),
        worst_images=tuple(ImageScore(name=f"tile_{n}.png", miou=0.1 * n) for n in range(1, 6)),
        per_image_foreground_dice=0.398,
    )
    write_text(report_path(place.path, *epoch.key, "test"), report.model_dump_json())


def written(place: RunDir, run) -> str:
    write_report(place, run.history)
    return (place.path / "report.md").read_text()


def test_the_report_says_intervals_skipped_images_policy_worst_images_and_the_other_dice(place, run):
    story(run, place)
    text = written(place, run)
    assert "best by test: epoch 2 of attempt 1, test mIoU 64.00 % (95 %: 55.0-73.0 over 3 images, 2 skipped)" in text
    assert "no sure difference from epoch 1: +4.00 points (95 %: -1.00 to +9.00)" in text
    assert (
        "best by val: epoch 1 of attempt 1, val mIoU 70.00 % (95 %: 50.0-72.0 over 3 images); test mIoU 60.00 %" in text
    )
    assert (
        "gap: choosing by val gives away +4.00 points (95 %: -1.00 to +9.00) of test mIoU: no sure difference" in text
    )
    assert (
        "| 2 | 1 | 60.00 % | 64.00 % | 55.0-73.0 | 64.00 % | 64.00 % | best test, val: 2 skipped, test: 2 skipped |"
        in text
    )
    assert f"What counts: {POLICY}" in text
    assert "| tile_1.png | 10.00 % |\n| tile_2.png | 20.00 % |" in text
    assert "Per-image foreground Dice of the best epoch by test: 39.80 %" in text
    assert "docs/metrics.md" in text


def test_a_run_without_reports_has_a_report_all_the_same(place, run):
    run.trains(1, 0.5)
    text = written(place, run)
    assert "unweighted mean of TP / (TP + FP + FN)" in text
    assert "Worst test images" not in text
    assert "foreground Dice" not in text


def test_a_finished_run_is_drawn_and_the_picture_is_in_the_report(place, run):
    story(run, place)
    run.tell(RunFinished(trained=2))
    assert "](results.png)" in written(place, run)
    with Image.open(place.path / "results.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.parametrize("end", [None, DaemonStopped(reason="SIGTERM"), GaveUp(reason="spent"), RunFinished(trained=2)])
def test_every_run_with_a_score_is_drawn_however_it_stands(place, run, end, monkeypatch):
    drawn = []
    monkeypatch.setattr(reporting, "draw_results", lambda where, _history: drawn.append(where))
    story(run, place)
    if end is not None:
        run.tell(end)
    written(place, run)
    assert drawn == [place]


def test_a_run_without_a_score_has_a_report_and_no_curves(place, run):
    run.tell(GaveUp(reason="spent"))
    text = written(place, run)
    assert "**Gave up**" in text
    assert "results.png" not in text
    assert not (place.path / "results.png").exists()


def test_a_plot_that_fails_is_told_in_the_log_and_costs_nothing_else(place, run, monkeypatch, caplog):
    story(run, place)
    (place.path / "results.png").write_bytes(b"of yesterday")

    def fail(_run: object, _history: object) -> None:
        raise RuntimeError("no fonts on this machine")

    monkeypatch.setattr(reporting, "draw_results", fail)
    text = written(place, run)
    assert "results.png" not in text
    assert "best by test" in text
    assert "no fonts on this machine" in caplog.text


def test_only_epochs_that_stand_are_drawn_and_a_winner_that_does_not_is_named_below(place, run, monkeypatch):
    run.trains(1, 0.5)
    run.trains(2, 0.9)
    run.moves(1, 2)
    run.plans()
    run.trains(2, 0.6)
    drawn = {}
    monkeypatch.setattr(
        "segwatch.daemon.ranking_plot.draw", lambda path, points, **more: drawn.update(points=points, **more)
    )
    reporting.draw_results(place, run.history)
    assert [(point.epoch, point.miou) for point in drawn["points"] if point.split == "test"] == [(1, 0.5), (2, 0.6)]
    assert "best by test is epoch 2 of attempt 1, which a roll-back superseded" in drawn["footnote"]


def test_the_picture_marks_incidents_and_what_stands_of_each_attempt(run):
    run.plans(resume_epoch=5, lr=5e-4, amp="bf16")
    run.suffers(Cause.NAN_LOSS, epoch=9)
    run.plans(resume_epoch=8, lr=2e-4)
    run.plans(resume_epoch=7, lr=1e-4)  # further back: nothing of the attempt before it stands
    told = story_of(run.history)
    assert told.incidents == [Mark(8.5, "1 nan-loss")]
    assert told.stretches == [
        Stretch(1, 0, 5, 1e-3, "off"),
        Stretch(2, 5, 7, 5e-4, "bf16"),
        Stretch(4, 7, None, 1e-4, "off"),
    ]


def test_an_incident_is_drawn_where_its_step_lies_in_its_epoch(run):
    run.tell(AttemptStarted(attempt=1, lr=1e-3, amp=Amp.OFF, device="cpu", parameters=1, steps_per_epoch=10))
    run.suffers(Cause.NAN_LOSS, step=2, epoch=1)
    run.suffers(Cause.NAN_LOSS, step=27, epoch=3)
    run.suffers(Cause.NAN_LOSS, step=99, epoch=4)  # steps of a data set that has shrunk since
    assert [mark.place for mark in story_of(run.history).incidents] == [0.2, 2.7, 4]


@pytest.mark.parametrize("place", [0.01, 0.5, 2.5, 3.5, 3.52, 6.0])
def test_no_incident_lies_under_the_edge_of_the_picture(place):
    left, right = limits(1, 3, RunStory([Mark(place, "1 nan-loss")], []))
    assert left + 0.03 * (right - left) < place < right - 0.03 * (right - left)
    assert left <= 0.5
    assert right >= 3.5


def test_without_incidents_the_epochs_fill_the_picture():
    assert limits(1, 3, None) == limits(1, 3, RunStory([], [])) == (0.5, 3.5)


def test_names_of_incidents_that_lie_together_do_not_lie_over_each_other():
    axes, lr = Figure().subplots(2, 1)
    axes.set_xlim(0, 100)
    draw_story(axes, lr, RunStory([Mark(50.0, "b"), Mark(10.0, "a"), Mark(50.1, "c")], []), last=100)
    places = {text.get_text(): text.xy[0] for text in axes.texts}
    assert places["a"] == 10
    assert places["b"] == 50
    assert places["c"] > 51
    assert sorted(line.get_xdata()[0] for line in axes.lines) == [10, 50, 50.1]


def test_a_hundred_incidents_are_drawn_without_their_names(place, run):
    story(run, place)
    for _ in range(100):
        run.suffers(Cause.INF_GRADIENTS, epoch=2, fatal=False)
    reporting.draw_results(place, run.history)
    assert (place.path / "results.png").exists()


# --- report.html -----------------------------------------------------------------------------------------------------


def html(place: RunDir, run) -> str:
    write_report(place, run.history)
    return (place.path / "report.html").read_text()


def test_the_html_says_what_the_markdown_says_and_has_its_pictures_in_it(place, run):
    story(run, place)
    overlay = place.path / "evaluations" / "overlays" / "attempt001_epoch2.png"
    overlay.parent.mkdir()
    Image.effect_noise((700, 700), 90).convert("RGB").save(overlay)
    text = html(place, run)
    pictures = re.findall(r'src="data:image/(\w+);base64,[A-Za-z0-9+/=]+"', text)
    assert pictures == ["png", "jpeg"], "the curves as they are, a photograph smaller"
    assert not re.findall(r'(?:src|href)="(?!data:)', text), "nothing is fetched"
    assert "no sure difference from epoch 1: +4.00 points" in text
    assert "What counts: " + POLICY in text
    for word in re.findall(r"^## (.*)$", (place.path / "report.md").read_text(), flags=re.MULTILINE):
        assert f"<h2>{word}</h2>" in text


def test_classes_have_their_support_and_those_not_trained_are_named(place, run):
    story(run, place)
    text = written(place, run)
    assert "| field | 64.00 % | 60.00 % | 41 | 50.0000 % | 99.9000 % |" in text
    assert "| road | - | - | 41 | 50.0000 % | 0.1000 % | rare: a low IoU is expected |" in text
    assert "In the class table, and not trained: 9." in text


def test_epochs_are_ranked_by_test_and_those_that_do_not_stand_come_last(place, run):
    run.trains(1, 0.5)
    run.trains(2, 0.9)
    run.moves(1, 2)
    run.plans()
    run.trains(2, 0.6)
    rows = re.findall(r"^\| (\S+) \| (\d+) \| (\d+) \| \d", written(place, run), flags=re.MULTILINE)
    assert rows == [("1", "2", "2"), ("2", "1", "1"), ("-", "2", "1")]


def test_a_name_is_text_in_both_whatever_it_holds():
    evil = "<script>alert(1)</script>|\x1b[2J\nnext"
    page = Document(evil, [Words(evil), Bullets([evil]), Table(("class",), [(evil,)], colours=[(1, 2, 3)])])
    told = as_html(page, Path("/nowhere"))
    assert "<script" not in told
    assert "\x1b" not in told
    assert '<i style="background:rgb(1,2,3)"></i>&lt;script&gt;' in told
    assert "| <script>alert(1)</script>\\| [2J next |" in as_markdown(page)


def test_a_long_table_is_folded_away():
    page = Document("t", [Table(("n",), [(str(n),) for n in range(12)], open_rows=10)])
    told = as_html(page, Path("/nowhere"))
    assert "<summary>the other 2</summary>" in told
    assert told.index("<td>9</td>") < told.index("<details>") < told.index("<td>10</td>")


def test_the_closing_words_carry_the_same_figures(place, run):
    story(run, place)
    console = Console(file=io.StringIO(), width=160)
    print_closing(place, run.history, console)
    text = console.file.getvalue()
    assert "test mIoU 64.00 % (95 %: 55.0-73.0 over 3 images, 2 skipped)" in text
    assert "no sure difference" in text


# --- best, with the evaluator's report -----------------------------------------------------------------------------


def look(place: RunDir, run) -> views.Look:
    return views.Look(place, run.history)


def test_best_names_worst_images_policy_and_the_other_dice_for_a_person(place, run):
    story(run, place)
    console = Console(file=io.StringIO(), width=160)
    views.print_best(look(place, run), console)
    text = console.file.getvalue()
    assert "best by test: epoch 2 (attempt 1), test mIoU 64.00 % (95 %: 55.0-73.0 over 3 images, 2 skipped)" in text
    assert "worst images by their own mIoU: tile_1.png 10.00 %, tile_2.png 20.00 %, tile_3.png 30.00 %\n" in text
    assert "per-image foreground Dice 39.80 %" in text
    assert POLICY in text
    assert text.endswith(f"Next:\n  segwatch predict IMAGES --run {place.path}\n  segwatch report {place.path}\n")


def test_best_holds_them_all_for_a_program(place, run):
    story(run, place)
    found = views.best(look(place, run))
    assert found["by_test"]["policy"] == POLICY
    assert found["by_test"]["per_image_foreground_dice"] == 0.398
    assert len(found["by_test"]["worst_images"]) == 5
    assert found["by_test"]["worst_images"][0] == {"name": "tile_1.png", "miou": 0.1}
    assert (found["gap_low"], found["gap_high"]) == (-0.01, 0.09)


def test_the_report_of_another_checkpoint_of_the_same_name_is_not_believed(place, run):
    story(run, place)
    run.moves(1, 2)
    run.plans()
    run.trains(2, 0.9)
    assert views.best(look(place, run))["by_test"]["policy"] is None


def test_the_curves_leave_out_what_was_scored_on_files_that_were_changed_since(tmp_path, a_run, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "segwatch.daemon.ranking_plot.draw", lambda _path, points, **words: drawn.update(points=points, **words)
    )
    run = a_run()
    run.begins()
    run.trains(1, 0.8, data="old")
    run.tell(DataAccepted(splits=(AcceptedSplit(split="test", before="old", after="new", count="1 file changed"),)))
    reporting.draw_results(RunDir(tmp_path), run.history)
    assert len(drawn["points"]) == 1, "val is as it was"
    run.scores(run.commits(2), "test", 0.2, data="new")
    reporting.draw_results(RunDir(tmp_path), run.history)
    assert [(point.epoch, point.split) for point in drawn["points"]] == [(1, "val"), (2, "test")]
    assert "left out: 1 scores on files that were changed since" in drawn["footnote"]
