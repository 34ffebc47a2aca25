"""Scores compare as long as the files of their split hold the same: a history told fact by fact."""

from __future__ import annotations

import pytest
from segwatch.daemon.config import AlertsConfig
from segwatch.daemon.events import AcceptedSplit, ConfigChanged, DataAccepted, GapMeasured, RescoreWanted, RunFinished
from segwatch.daemon.rules import current_alerts


def accepts(run, *, before: str = "old", after: str = "new", splits: tuple[str, ...] = ("val", "test")) -> None:
    told = tuple(
        AcceptedSplit(split=s, before=before, after=after, count=f"1 file of {s} changed", files=(f"{s}.png: changed",))
        for s in splits
    )
    run.tell(DataAccepted(splits=told))


@pytest.fixture
def run(a_run):
    """Three epochs of 80 % on the files of the beginning."""
    run = a_run()
    run.begins()
    for epoch in (1, 2, 3):
        run.trains(epoch, 0.8, data="old")
    return run


def codes(run) -> list[str]:
    return [alert.code for alert in current_alerts(run.history, AlertsConfig()) if not alert.pending]


def test_a_lower_score_on_other_files_is_no_collapse_and_wins_the_new_series(run):
    accepts(run)
    assert run.history.best["test"].epoch.epoch == 1, "the winner of before stays until anything is scored"
    epochs = [run.trains(epoch, 0.2, data="new") for epoch in (4, 5)]
    assert codes(run) == ["data-changed", "data-changed"]
    assert [epoch.verified_good for epoch in epochs] == [True, True]
    assert run.history.best["test"].epoch.epoch == run.history.best["val"].epoch.epoch == 4
    assert [epoch.epoch for epoch, _ in run.history.scored_lineage()] == [4, 5]


def test_the_same_scores_without_acceptance_are_a_collapse(run):
    for epoch in (4, 5):
        run.trains(epoch, 0.2, data="old")
    assert codes(run) == ["miou-collapse"]


def test_a_score_that_bears_another_fingerprint_begins_a_series_by_itself(run):
    """As in a run of an older release, which froze no files."""
    run.trains(4, 0.2, data="other")
    told = current_alerts(run.history, AlertsConfig())
    assert [alert.code for alert in told] == ["data-changed", "data-changed"]
    assert told[1].evidence["first_epoch"] == 4
    assert told[1].evidence["files"] is None


def test_scores_of_an_older_release_without_fingerprint_go_on_in_the_first_series(a_run):
    run = a_run()
    run.begins()
    run.trains(1, 0.8)
    run.trains(2, 0.7, data="now")
    assert run.history.best["test"].epoch.epoch == 1
    assert len(run.history.scored_lineage()) == 2
    accepts(run, before="now")
    run.trains(3, 0.6, data="new")
    assert [epoch.epoch for epoch, _ in run.history.scored_lineage()] == [3]


def test_changed_training_files_are_told_and_leave_the_scores_in_one_series(run):
    accepts(run, splits=("train",))
    run.trains(4, 0.7, data="old")
    assert run.history.best["test"].epoch.epoch == 1
    assert codes(run) == ["data-changed"]
    assert run.history.series.begun == 1


def test_the_alert_names_the_first_epoch_that_waits_for_the_new_files(run):
    run.commits(4)
    run.commits(5)
    accepts(run, splits=("test",))
    (alert,) = current_alerts(run.history, AlertsConfig())
    assert alert.evidence == {
        "split": "test",
        "first_epoch": 4,
        "before": "old",
        "after": "new",
        "files": "test.png: changed",
    }
    assert alert.cause == "1 file of test changed: a new series of test scores begins with epoch 4"


def test_an_epoch_that_is_asked_for_again_keeps_its_former_scores_until_the_new_ones_are_there(run):
    accepts(run)
    run.trains(4, 0.3, data="new")
    run.tell(RunFinished(trained=4))
    run.tell(RescoreWanted(former=((1, 1), (1, 2))))
    history = run.history
    epoch = history.epochs[1, 1]
    assert not history.finished
    assert history.missing(epoch) == ("val", "test")
    assert history.missing(history.epochs[1, 3]) == ()
    run.scores(epoch, "val", 0.1, data="new")
    assert history.missing(epoch) == ("test",)
    assert epoch.key in history.unscored
    run.scores(epoch, "test", 0.1, data="new")
    assert epoch.key not in history.unscored
    assert [(score.split, score.miou) for score in epoch.former] == [("val", 0.8), ("test", 0.8)]
    assert history.best["test"].epoch.epoch == 4
    assert epoch.verified_good, "what was scored later is no measure of an early epoch"


def test_a_winner_that_is_scored_again_wins_with_its_new_figure_or_not_at_all(run):
    accepts(run)
    run.tell(RescoreWanted(former=((1, 1), (1, 2))))
    for number, miou in ((1, 0.3), (2, 0.4)):
        for split in ("val", "test"):
            run.scores(run.history.epochs[1, number], split, miou, data="new")
    assert (run.history.best["test"].epoch.epoch, run.history.best["test"].miou) == (2, 0.4)


def test_only_the_split_that_changed_is_scored_again(run):
    accepts(run, splits=("test",))
    run.tell(RescoreWanted(former=((1, 1),)))
    assert run.history.missing(run.history.epochs[1, 1]) == ("test",)


def test_a_gap_that_was_measured_before_is_none_of_the_new_series(run):
    run.tell(GapMeasured(by_test=(1, 1), by_val=(1, 1), low=0.1, high=0.2))
    assert run.history.measured_gap is not None
    accepts(run)
    assert run.history.measured_gap is None


def test_a_quarantined_winner_is_followed_by_one_of_the_series_of_now(run):
    accepts(run)
    run.trains(4, 0.5, data="new")
    run.trains(5, 0.4, data="new")
    run.moves(1, 4, "quarantined")
    assert run.history.best["test"].epoch.epoch == 5


def test_a_change_is_told_until_the_run_has_finished_and_not_again_when_it_is_extended(run):
    accepts(run, splits=("test",))
    assert codes(run) == ["data-changed"]
    run.tell(RunFinished(trained=3))
    assert codes(run) == []
    run.tell(ConfigChanged(changes={}, epochs=200))
    assert not run.history.finished
    assert codes(run) == []


def test_epochs_that_changed_files_keep_from_their_scores_are_one_alert_and_others_each_their_own(run):
    refused = "runs/run: the data is not what it was when this run began: 1 file of test gone\n  -> restore the files"
    for epoch, message in ((4, refused), (5, "the evaluator died"), (6, refused)):
        committed = run.commits(epoch)
        for split in ("val", "test"):
            run.scores(committed, split, None, verdict="failed", message=message)
    told = current_alerts(run.history, AlertsConfig())
    assert [alert.fingerprint for alert in told] == ["evaluator-failed:data", "evaluator-failed:1:5"]
    assert told[0].cause.startswith("epoch 4 and later ones could not be scored: runs/run: the data is not")
    assert told[0].advice == "Restore the files"
