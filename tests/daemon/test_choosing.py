"""Which checkpoint of a run is meant."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from segwatch.daemon.choosing import Wish, choose
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.store import Store
from segwatch.errors import CorruptCheckpointError, UsageError


@pytest.fixture
def told(tmp_path: Path):
    """A function that lays a story down as a run."""

    def lay(story) -> RunDir:
        run = RunDir(tmp_path / "one")
        run.path.mkdir()
        store = Store(run.path)
        for _, event in story.told:
            store.append(event)
        store.close()
        return run

    return lay


@pytest.fixture
def run(a_run, told) -> RunDir:
    """Epoch 2 is best by test, epoch 3 by val; epoch 4 has no score."""
    story = a_run()
    story.begins()
    for epoch, test, val in ((1, 0.3, 0.3), (2, 0.6, 0.5), (3, 0.5, 0.7)):
        story.trains(epoch, test, val, interval=(test - 0.1, test + 0.1))
    story.commits(4)
    return told(story)


@pytest.mark.parametrize(
    ("wish", "epoch", "why"),
    [
        (Wish(), 2, "best by test"),
        (Wish(by="test"), 2, "best by test"),
        (Wish(by="val"), 3, "best by val"),
        (Wish(epoch=1), 1, "epoch 1"),
        (Wish(epoch=4), 4, "epoch 4"),
    ],
)
def test_the_best_by_test_is_taken_where_nothing_else_is_asked_for(run, wish, epoch, why):
    choice = choose(run, wish)
    assert (choice.request.epoch, choice.why) == (epoch, why)
    assert choice.path == run.path / "checkpoints" / f"checkpoint_epoch{epoch}.pth"
    assert not choice.request.foreign


def test_it_says_which_one_it_takes_and_its_miou_the_split_it_was_chosen_by_first(run):
    words = choose(run, Wish(by="val")).words
    assert words.startswith("epoch 3 of attempt 1, best by val: val mIoU 70.00 %")
    assert words.index("test mIoU 50.00 %") > words.index("val mIoU")
    assert "over 3 images" in words
    assert choose(run, Wish()).words.startswith("epoch 2 of attempt 1, best by test: test mIoU 60.00 %")
    assert choose(run, Wish(epoch=4)).words == "epoch 4 of attempt 1: without a score"
    figures = choose(run, Wish(epoch=4)).figures
    assert (figures["epoch"], figures["test_miou"], figures["val_miou"]) == (4, None, None)


def test_two_answers_to_one_question_are_a_mistake():
    with pytest.raises(UsageError, match="--by and --epoch name different checkpoints"):
        Wish(by="val", epoch=3)


def test_an_epoch_that_is_not_there_is_answered_with_those_that_are(run):
    with pytest.raises(UsageError, match="no epoch 9") as caught:
        choose(run, Wish(epoch=9))
    assert caught.value.remedy == "committed so far: epoch 1 to 4"


def test_without_any_score_the_best_is_unknown_and_the_way_round_is_named(a_run, told):
    story = a_run()
    story.begins()
    story.commits(1)
    with pytest.raises(UsageError, match="no epoch of this run has a score on test yet") as caught:
        choose(told(story), Wish())
    assert "--epoch" in str(caught.value.remedy)


def test_of_an_epoch_trained_twice_the_one_that_stands_is_taken(a_run, told):
    story = a_run()
    story.begins()
    story.trains(1, 0.3)
    story.trains(2, 0.6)
    story.moves(1, 2)
    story.plans()
    story.trains(2, 0.4)
    run = told(story)
    assert choose(run, Wish(epoch=2)).request.attempt == 2
    assert choose(run, Wish()).request.attempt == 1
    assert "superseded" in choose(run, Wish()).request.manifest


def test_an_epoch_in_quarantine_is_not_offered(a_run, told):
    story = a_run()
    story.begins()
    story.trains(1, 0.3)
    story.trains(2, 0.6)
    story.moves(1, 2, "quarantined")
    run = told(story)
    assert choose(run, Wish()).request.epoch == 1
    with pytest.raises(UsageError, match="no epoch 2"):
        choose(run, Wish(epoch=2))


def test_a_file_with_the_bytes_of_an_epoch_is_that_epoch_with_its_score(a_run, told, tmp_path):
    (tmp_path / "best_test.pth").write_bytes(b"weights")
    story = a_run()
    story.begins()
    epoch = story.trains(1, 0.3)
    for index, (moment, event) in enumerate(story.told):
        if getattr(event, "sha256", None) == epoch.sha256:
            sha256 = hashlib.sha256(b"weights").hexdigest()
            story.told[index] = (moment, event.model_copy(update={"sha256": sha256}))
    run = told(story)
    before = choose(run, Wish(file=tmp_path / "best_test.pth"))
    assert before.request.foreign, "its manifest is not there: nothing vouches for it"
    (run.path / "checkpoints").mkdir()
    (run.path / epoch.manifest).write_text("{}")
    choice = choose(run, Wish(file=tmp_path / "best_test.pth"))
    assert (choice.request.epoch, choice.request.foreign) == (1, False)
    assert "the file best_test.pth" in choice.words


def test_any_other_file_is_foreign_and_has_no_known_score(run, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other weights")
    choice = choose(run, Wish(file=tmp_path / "other.pth"))
    assert choice.request.foreign
    assert choice.request.manifest == str(tmp_path / "other.pth")
    assert "its mIoU is not known" in choice.words
    assert choice.figures["test_miou"] is None


def test_what_is_no_file_is_explained(run, tmp_path):
    with pytest.raises(UsageError, match="not there"):
        choose(run, Wish(file=tmp_path / "none.pth"))
    with pytest.raises(CorruptCheckpointError, match="a directory"):
        choose(run, Wish(file=tmp_path))
