"""report.md and results.png: what someone who was away reads, with the noise of every figure beside it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segwatch.daemon import report as reporting
from segwatch.daemon import views
from segwatch.daemon.events import AcceptedSplit, DataAccepted, GapMeasured, GaveUp, RunFinished
from segwatch.daemon.report import print_closing, write_report
from segwatch.daemon.rundir import RunDir
from segwatch.durable import write_text
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import EvaluationReport, ImageScore, Interval, Verdict, report_path

POLICY = "mIoU over 2 of 2 classes; 3 of 16 images are also in train"


class Data:
    """What a report needs to know of the resolved data."""

    class_names = ("field", "road")
    scale = 0.25

    def share(self, index: int, split: str) -> float:
        return 0.5


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins(epochs=2)
    return run


@pytest.fixture
def place(tmp_path, monkeypatch) -> RunDir:
    (tmp_path / "evaluations").mkdir()
    monkeypatch.setattr(reporting, "frozen_data", lambda _run: Data())
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


def test_a_run_that_was_stopped_is_not_drawn(place, run):
    story(run, place)
    assert "results.png" not in written(place, run)
    assert not (place.path / "results.png").exists()


def test_a_run_that_gave_up_before_a_score_is_not_drawn_and_one_after_it_is(place, run):
    run.tell(GaveUp(reason="spent"))
    assert "results.png" not in written(place, run)
    story(run, place)
    assert "](results.png)" in written(place, run)


def test_a_plot_that_fails_is_told_in_the_log_and_costs_nothing_else(place, run, monkeypatch, caplog):
    story(run, place)
    run.tell(RunFinished(trained=2))

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
