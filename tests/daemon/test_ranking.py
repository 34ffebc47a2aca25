"""The ranking of a directory, from reports that are made up: order, winners, ties, what is left out, and its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from segwatch.daemon.ranking import CAVEAT, Candidate, Ranking, as_json, show, winner_lines, write
from segwatch.daemon.ranking_plot import Point, best, draw
from segwatch.evaluator.metrics import ClassScore, Scores
from segwatch.evaluator.report import EvaluationReport, Interval, Verdict
from segwatch.evaluator.statistics import Difference


def a_report(
    split: str,
    miou: float | None,
    *,
    verdict: Verdict = Verdict.OK,
    message: str = "",
    policy: str = "one class",
    skipped: int = 0,
) -> EvaluationReport:
    """One class, and a mIoU that is told and not computed: the laws are the evaluator's business."""
    scores = None
    if miou is not None:
        only = ClassScore(iou=miou, dice=miou, accuracy=miou, support=1, predicted=1)
        scores = Scores(miou, miou, miou, miou, miou, (only,), 1)
    return EvaluationReport.model_construct(
        split=split,
        verdict=verdict,
        scores=scores,
        class_ids=(4,),
        class_names=("road",),
        policy=policy,
        images=16,
        skipped_images=skipped,
        message=message,
        data_fingerprint="f",
        resolution="scaled",
        window=0,
        overlap=0.0,
        miou_interval=None if miou is None else Interval(low=miou - 0.05, high=miou + 0.04, resamples=1000),
        per_image_foreground_dice=0.3,
        per_image=None,
    )


def a_candidate(epoch: int, val: float | None, test: float | None, **fields: object) -> Candidate:
    reports = {"val": a_report("val", val, **fields), "test": a_report("test", test, **fields)}
    return Candidate(epoch, f"checkpoint_epoch{epoch}.pth", f"{epoch:064d}", reports)


REFUSED = Candidate(11, "checkpoint_epoch11.pth", why_not="checkpoint_epoch11.pth is empty", verdict="refused")


def a_ranking(*candidates: Candidate, **fields: object) -> Ranking:
    return Ranking(Path("/data/foreign"), candidates, **fields)


THREE = (a_candidate(1, 0.2, 0.3), a_candidate(2, 0.6, 0.5), a_candidate(10, 0.4, 0.7))


def words_of(ranking: Ranking, width: int = 160) -> str:
    console = Console(width=width, record=True, quiet=False, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        show(ranking, console)
        return console.export_text()


def test_epochs_are_ranked_by_test_and_both_winners_and_the_gap_are_named():
    ranking = a_ranking(*THREE, REFUSED)
    assert [candidate.epoch for candidate in ranking.in_order("test")] == [10, 2, 1]
    assert (ranking.best("test").epoch, ranking.best("val").epoch) == (10, 2)
    assert ranking.gap == pytest.approx(0.2)
    text = "\n".join(winner_lines(ranking))
    assert "best by test: epoch 10, test mIoU 70.00 % (95 %: 65.0-74.0 over 16 images)" in text
    assert "best by val : epoch 2, val mIoU 60.00 %" in text
    assert "test mIoU 50.00 %" in text
    assert "gives away 20.00 points" in text
    assert CAVEAT in text


def test_of_equals_the_earliest_epoch_wins_and_they_share_a_rank():
    ranking = a_ranking(a_candidate(2, 0.5, 0.5), a_candidate(3, 0.5, 0.5), a_candidate(4, 0.1, 0.1))
    assert ranking.best("test").epoch == 2
    assert list(ranking.ranks("test").values()) == [1, 1, 3]


def test_a_gap_that_the_test_set_cannot_show_is_said_to_be_none():
    noisy = a_ranking(*THREE, difference=Difference(0.2, -0.1, 0.4))
    clear = a_ranking(*THREE, difference=Difference(0.2, 0.1, 0.4))
    assert "no difference that this test set can show" in "\n".join(winner_lines(noisy))
    assert "no difference" not in "\n".join(winner_lines(clear))


def test_without_any_score_there_is_no_winner_and_no_gap():
    ranking = a_ranking(a_candidate(1, None, None, verdict=Verdict.NOT_FINITE), REFUSED)
    assert (ranking.best("test"), ranking.gap, ranking.scored) == (None, None, 0)
    assert "best by test: none" in words_of(ranking)
    assert as_json(ranking)["best_by_test"] is None


def test_the_terminal_names_every_epoch_and_every_reason_at_the_end():
    doubt = a_candidate(3, 0.1, 0.1, message="it has no mask_values")
    text = words_of(a_ranking(*THREE, doubt, REFUSED, not_looked_at=("best.pth",), waiting=("checkpoint_epoch12.pth",)))
    table, rest = text.split("best by test:")
    assert [line.split()[1] for line in table.splitlines()[3:8]] == ["10", "2", "1", "3", "11"]
    assert "checkpoint_epoch11.pth is empty" in rest
    assert "note on epoch 3: it has no mask_values" in rest
    assert "best.pth" in rest
    assert "1 file not scored yet" in rest


def test_a_note_on_one_split_says_which():
    candidate = Candidate(1, "a", reports={"val": a_report("val", 0.1), "test": a_report("test", 0.1, message="odd")})
    assert "note on epoch 1 (test): odd" in words_of(a_ranking(candidate))


def test_the_csv_has_a_row_per_epoch_and_split_in_numeric_order(tmp_path):
    write(a_ranking(*THREE, REFUSED), tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["split"], row["rank"]) for row in rows] == [
        ("1", "val", "3"),
        ("1", "test", "3"),
        ("2", "val", "1"),
        ("2", "test", "2"),
        ("10", "val", "2"),
        ("10", "test", "1"),
        ("11", "val", ""),
        ("11", "test", ""),
    ]
    assert float(rows[5]["miou"]) == 0.7
    assert (float(rows[5]["miou_low"]), float(rows[5]["miou_high"])) == (pytest.approx(0.65), pytest.approx(0.74))
    assert (rows[7]["verdict"], rows[7]["message"], rows[7]["miou"]) == (
        "refused",
        "checkpoint_epoch11.pth is empty",
        "",
    )


def test_the_json_is_strict_and_has_policy_classes_ranking_and_reasons(tmp_path):
    write(a_ranking(*THREE, REFUSED), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert [entry["epoch"] for entry in found["ranking"]] == [10, 2, 1]
    assert found["ranking"][0]["test"]["iou_by_class_id"] == {"4": 0.7}
    assert found["classes"] == [{"channel": 0, "id": 4, "name": "road"}]
    assert found["splits"]["test"]["policy"] == "one class"
    assert found["best_by_val"]["file"] == "checkpoint_epoch2.pth"
    assert found["left_out"][0]["reason"] == "checkpoint_epoch11.pth is empty"


def test_the_picture_is_a_whole_png_also_where_nothing_has_a_score(tmp_path):
    for name, ranking in {"some": a_ranking(*THREE, REFUSED), "none": a_ranking(REFUSED)}.items():
        (tmp_path / name).mkdir()
        write(ranking, tmp_path / name)
        with Image.open(tmp_path / name / "results.png") as picture:
            picture.load()
            assert picture.size[0] > 1000


def test_names_in_any_script_and_with_dollars_are_drawn_without_a_word(tmp_path):
    draw(tmp_path / "a.png", [Point(1, "test", 0.5)], title="航空 $x$ _y_", footnote="$")
    with pytest.raises(ValueError, match="no epoch"):
        draw(tmp_path / "b.png", [], title="")


def test_the_star_is_at_the_earliest_of_the_highest():
    points = [Point(3, "test", 0.5), Point(1, "test", None), Point(2, "test", 0.5), Point(4, "val", 0.9)]
    assert best(points, "test") == points[2]


def test_every_row_of_the_csv_says_over_how_many_images_and_under_which_policy(tmp_path):
    reports = {"val": a_report("val", 0.1), "test": a_report("test", 0.2, policy="1 file skipped", skipped=1)}
    write(a_ranking(Candidate(1, "a", "0", reports), REFUSED), tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-3:] == ["images", "skipped_images", "policy"]
    told = [(row["images"], row["skipped_images"], row["policy"]) for row in rows]
    assert told == [("16", "0", "one class"), ("16", "1", "1 file skipped"), ("", "", ""), ("", "", "")]


def test_the_terminal_says_what_counts_once_where_val_and_test_agree():
    assert "what counts: 16 test images and 16 val images: one class" in words_of(a_ranking(*THREE))
    policy = "1 file skipped; 2 of 16 images are also in train"
    reports = {"val": a_report("val", 0.1), "test": a_report("test", 0.2, policy=policy, skipped=1)}
    text = words_of(a_ranking(Candidate(1, "a", "0", reports)))
    assert f"what counts: 16 test images, 1 skipped: {policy}" in text
    assert "what counts: 16 val images: one class" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_a_narrow_terminal_leaves_columns_out_and_says_so_and_cuts_no_number(width):
    text = words_of(a_ranking(*THREE, a_candidate(100, 0.1, 0.2, verdict=Verdict.SINGLE_CLASS)), width)
    header, *rows = text.split("ranked by test mIoU")[1].split("what counts")[0].strip("\n").splitlines()
    columns = {
        "95 %": ["65.0-74.0", "45.0-54.0", "25.0-34.0"],
        "test mIoU": ["70.00 %", "50.00 %", "30.00 %", "20.00 %"],
        "val mIoU": ["40.00 %", "60.00 %", "20.00 %"],
        "test FWIoU": ["70.00 %"],
    }
    for column, cells in columns.items():
        if column in header:
            assert [cell for cell in cells if not any(cell in row for row in rows)] == []
        else:
            assert any(column in row for row in rows if row.startswith("no room here for"))
    assert "test mIoU" in header
    assert ("no room" in text) is (width < 100)


def test_a_winner_that_predicts_one_class_says_so():
    single = {"verdict": Verdict.SINGLE_CLASS}
    some = winner_lines(a_ranking(a_candidate(1, 0.2, 0.3, **single), a_candidate(2, 0.1, 0.1)))
    every = winner_lines(a_ranking(a_candidate(1, 0.2, 0.3, **single), a_candidate(2, 0.1, 0.1, **single)))
    sound = winner_lines(a_ranking(*THREE))
    assert all("single-class: it predicts one class everywhere)" in line for line in some[:2])
    assert all("one class everywhere, as every epoch here does)" in line for line in every[:2])
    assert not any("single-class" in line for line in sound)
    assert as_json(a_ranking(a_candidate(1, 0.2, 0.3, **single)))["best_by_test"]["flags"] == ["single-class"]


def test_without_a_val_in_run_toml_there_is_no_row_and_no_winner_of_it(tmp_path):
    ranking = a_ranking(Candidate(1, "a", "0", {"test": a_report("test", 0.2)}), splits=("test",))
    write(ranking, tmp_path)
    with (tmp_path / "results.csv").open() as file:
        assert [row["split"] for row in csv.DictReader(file)] == ["test"]
    assert "best by val : not known, run.toml names no val" in words_of(ranking)
