"""How a score is said: with its interval, with what was skipped, and as better or worse only where that is sure."""

from __future__ import annotations

import pytest
from segwatch.daemon.events import Diagnosed
from segwatch.daemon.words import figure, gain_words, sentence
from segwatch.trainer.diagnosis import Finding


@pytest.fixture
def epoch(a_run):
    run = a_run()
    run.begins()
    return run, run.commits(1)


@pytest.mark.parametrize(
    ("interval", "skipped", "words"),
    [
        (None, 0, "64.51 %"),
        ((0.61, 0.6724), 0, "64.51 % (95 %: 61.0-67.2 over 3 images)"),
        ((0.61, 0.6724), 2, "64.51 % (95 %: 61.0-67.2 over 3 images, 2 skipped)"),
        (None, 2, "64.51 % (2 skipped)"),
    ],
)
def test_a_score_is_said_with_its_interval_and_with_what_was_skipped(epoch, interval, skipped, words):
    run, committed = epoch
    assert figure(run.scores(committed, "test", 0.6451, interval=interval, skipped=skipped)) == words


def test_a_score_that_is_unknown_is_a_dash(epoch):
    run, committed = epoch
    assert figure(run.scores(committed, "test", None, verdict="failed")) == "-"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.03, "better than epoch 1: +1.20 points (95 %: +0.10 to +3.00)"),
        (-0.001, 0.03, "no sure difference from epoch 1: +1.20 points (95 %: -0.10 to +3.00)"),
        (0.0, 0.03, "no sure difference from epoch 1: +1.20 points (95 %: +0.00 to +3.00)"),
        (-0.03, -0.001, "worse than epoch 1: +1.20 points (95 %: -3.00 to -0.10)"),
    ],
)
def test_better_and_worse_are_said_only_where_the_interval_leaves_no_doubt(epoch, low, high, words):
    run, committed = epoch
    assert gain_words(run.over(committed, 0.012, low, high)) == words


def test_the_line_of_a_score_holds_interval_skipped_images_and_the_comparison(epoch):
    run, committed = epoch
    gain = run.over(committed, 0.012, 0.001, 0.03)
    line = sentence(run.scores(committed, "test", 0.6451, interval=(0.61, 0.6724), skipped=2, gain=gain))
    assert line == (
        "epoch 1 test: mIoU 64.51 % (95 %: 61.0-67.2), FWIoU 64.51 %, pixel accuracy 64.51 % over 3 images (2 skipped) "
        "in 0.5 s; better than epoch 1: +1.20 points (95 %: +0.10 to +3.00)"
    )


def test_the_line_of_a_score_without_counts_is_as_short_as_it_can_be(epoch):
    run, committed = epoch
    assert sentence(run.scores(committed, "val", 0.5)) == (
        "epoch 1 val : mIoU 50.00 %, FWIoU 50.00 %, pixel accuracy 50.00 % over 3 images in 0.5 s"
    )


def test_what_was_not_found_out_is_not_called_replayed():
    told = sentence(Diagnosed(incident=2, finding=Finding.UNKNOWN, because="only the scores fell"))
    assert told == "incident 002: what it was could not be found out: only the scores fell"
    told = sentence(Diagnosed(incident=2, finding=Finding.DATA, because="always", files=("a.png",), seconds=3.2))
    assert told == "incident 002 replayed in 3 s: data [a.png]: always"
