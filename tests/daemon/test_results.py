"""results.csv and the winners' links: what other programs read, whole at every moment."""

from __future__ import annotations

import csv

import pytest
from segwatch.daemon.results import COLUMNS, BestFiles, ResultsFile


@pytest.fixture
def run(a_run):
    run = a_run()
    run.begins()
    return run


def rows(run_dir) -> list[dict[str, str]]:
    with (run_dir / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- results.csv ---------------------------------------------------------------------------------------------------


def test_the_header_is_the_one_that_other_programs_know(tmp_path, run):
    ResultsFile(tmp_path, run.history)
    assert (tmp_path / "results.csv").read_text() == (
        "attempt,epoch,split,miou,fwiou,pixel_accuracy,mean_accuracy,mean_dice,images,seconds,verdict,checkpoint_sha256,"
        "miou_low,miou_high,skipped_images,data_fingerprint\n"
    )


def test_each_score_is_a_row_with_every_digit(tmp_path, run):
    results = ResultsFile(tmp_path, run.history)
    score = run.scores(run.commits(1), "test", 1 / 3)
    results.handle(0.0, score)
    [row] = rows(tmp_path)
    assert tuple(row) == COLUMNS
    assert float(row["miou"]) == 1 / 3
    assert (row["attempt"], row["epoch"], row["split"], row["verdict"]) == ("1", "1", "test", "ok")
    assert row["checkpoint_sha256"] == score.checkpoint_sha256


def test_a_score_has_its_interval_and_what_was_skipped_beside_it(tmp_path, run):
    results = ResultsFile(tmp_path, run.history)
    results.handle(0.0, run.scores(run.commits(1), "test", 0.5, interval=(1 / 3, 2 / 3), skipped=2))
    results.handle(0.0, run.scores(run.commits(2), "test", 0.5))
    first, second = rows(tmp_path)
    assert (float(first["miou_low"]), float(first["miou_high"]), first["skipped_images"]) == (1 / 3, 2 / 3, "2")
    assert (second["miou_low"], second["miou_high"], second["skipped_images"]) == ("", "", "0")


def test_a_score_that_is_unknown_is_an_empty_cell_beside_the_verdict(tmp_path, run):
    results = ResultsFile(tmp_path, run.history)
    results.handle(0.0, run.scores(run.commits(1), "val", None, verdict="failed"))
    [row] = rows(tmp_path)
    assert (row["miou"], row["mean_dice"], row["verdict"]) == ("", "", "failed")


def test_a_fact_that_is_handed_out_again_is_no_second_row(tmp_path, run):
    score = run.scores(run.commits(1), "val", 0.5)
    results = ResultsFile(tmp_path, run.history)
    results.handle(0.0, score)
    results.handle(0.0, score)
    assert len(rows(tmp_path)) == 1


def test_a_new_daemon_writes_the_file_anew_from_the_facts_in_numeric_order(tmp_path, run):
    for epoch in (2, 10, 1):
        run.trains(epoch, 0.1 * epoch)
    (tmp_path / "results.csv").write_text("attempt,epo")  # torn by a crash
    ResultsFile(tmp_path, run.history)
    assert [(row["epoch"], row["split"]) for row in rows(tmp_path)] == [
        (epoch, split) for epoch in ("1", "2", "10") for split in ("val", "test")
    ]


def test_the_same_epoch_of_two_attempts_is_two_rows(tmp_path, run):
    run.trains(1, 0.5)
    run.moves(1, 1)
    run.plans()
    run.trains(1, 0.6)
    ResultsFile(tmp_path, run.history)
    assert [row["attempt"] for row in rows(tmp_path) if row["split"] == "test"] == ["1", "2"]


def test_facts_that_are_no_scores_leave_the_file_alone(tmp_path, run):
    results = ResultsFile(tmp_path, run.history)
    for moment, event in run.told:
        results.handle(moment, event)
    results.close()
    assert rows(tmp_path) == []


# --- the winners ---------------------------------------------------------------------------------------------------


class Links:
    """Tells scores to BestFiles with real weights on disk."""

    def __init__(self, run_dir, run) -> None:
        self.run_dir, self.run = run_dir, run
        (run_dir / "checkpoints").mkdir()
        self.sink = BestFiles(run_dir, run.history)

    def trains(self, epoch: int, test: float, val: float) -> None:
        committed = self.run.commits(epoch)
        self.weights(committed).write_text(f"weights {epoch}")
        for split, miou in (("val", val), ("test", test)):
            self.sink.handle(0.0, self.run.scores(committed, split, miou))

    def weights(self, epoch):
        return self.run_dir / epoch.weights

    def best(self, split: str) -> str:
        return (self.run_dir / f"best_{split}.pth").read_text()


@pytest.fixture
def links(tmp_path, run) -> Links:
    return Links(tmp_path, run)


def test_each_split_has_its_own_winner_and_a_worse_epoch_changes_nothing(links):
    links.trains(1, test=0.5, val=0.6)
    links.trains(2, test=0.6, val=0.5)
    links.trains(3, test=0.1, val=0.1)
    assert (links.best("test"), links.best("val")) == ("weights 2", "weights 1")


def test_the_winner_stays_when_its_checkpoint_is_moved_or_removed(links):
    links.trains(1, test=0.5, val=0.5)
    (links.run_dir / "checkpoints" / "checkpoint_epoch1.pth").unlink()
    assert links.best("test") == "weights 1"


def test_a_new_daemon_mends_links_that_are_missing_or_of_an_older_winner(links):
    links.trains(1, test=0.5, val=0.5)
    links.trains(2, test=0.6, val=0.6)
    (links.run_dir / "best_val.pth").unlink()
    (links.run_dir / "best_test.pth").unlink()
    (links.run_dir / "best_test.pth").write_text("of an older winner")
    BestFiles(links.run_dir, links.run.history)
    assert (links.best("test"), links.best("val")) == ("weights 2", "weights 2")


def test_a_winner_whose_move_was_not_recorded_does_not_keep_a_new_daemon_from_starting(links):
    """The daemon died between moving the best epoch to superseded/ and writing that down."""
    links.trains(1, test=0.5, val=0.5)
    (links.run_dir / "checkpoints" / "checkpoint_epoch1.pth").rename(links.run_dir / "moved.pth")
    BestFiles(links.run_dir, links.run.history)
    assert links.best("test") == "weights 1"


def test_where_there_are_no_hard_links_the_winner_is_copied(links, monkeypatch):
    def refused(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refused)
    links.trains(1, test=0.5, val=0.5)
    assert links.best("test") == "weights 1"
    assert list(links.run_dir.glob(".best*")) == []
