"""Figures that others can check: exact oracles, brute force, and laws that hold for every matrix."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter
from segwatch.evaluator.metrics import Scores, broken_law, confusion, score, select, without_truth
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score

ALL_IDS = "all ids, mean over classes with a non-empty union (25 included); as published"
REMOVED = "row and column 25 removed"
TRUTH_IGNORED = "truth 25 ignored, predictions of 25 kept as errors of their true class, mean over the named classes"
FIGURES = {
    "pixel_accuracy": "pixel_accuracy",
    "miou": "miou",
    "mdice": "mean_dice",
    "macc": "mean_accuracy",
    "fwiou": "fwiou",
    "classes_averaged": "classes_averaged",
}

matrices = st.integers(1, 6).flatmap(
    lambda size: hnp.arrays(np.int64, (size, size), elements=st.one_of(st.just(0), st.integers(0, 10**9)))
)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared / "oracles" / "amtown03_confusion.json").read_text())
    return loaded


def assert_figures(scores: Scores, expected: dict[str, float]) -> None:
    assert expected
    for name, value in expected.items():
        assert getattr(scores, FIGURES[name]) == pytest.approx(value, abs=1e-12, rel=0), name


def test_a_real_matrix_of_26_ids_gives_the_published_figures(oracle: dict[str, Any]) -> None:
    assert_figures(score(np.array(oracle["confusion_matrix"])), oracle["expected"][ALL_IDS])


def test_a_class_can_be_taken_out_of_truth_and_prediction(oracle: dict[str, Any]) -> None:
    matrix = np.array(oracle["confusion_matrix"])
    keep = [index for index in range(26) if index != 25]
    assert_figures(score(select(matrix, keep)), oracle["expected"][REMOVED])


def test_a_class_can_be_ignored_in_the_truth_while_its_predictions_stay_errors(oracle: dict[str, Any]) -> None:
    matrix = np.array(oracle["confusion_matrix"])
    named = [index for index in range(26) if index not in oracle["unnamed_ids"]]
    assert_figures(score(without_truth(matrix, [25]), average=named), oracle["expected"][TRUTH_IGNORED])


def test_no_policy_of_the_oracle_is_left_out(oracle: dict[str, Any]) -> None:
    assert set(oracle["expected"]) == {ALL_IDS, REMOVED, TRUTH_IGNORED}
    assert {name for figures in oracle["expected"].values() for name in figures} == set(FIGURES)
    assert len(oracle["confusion_matrix"]) == 26


def test_figures_of_a_matrix_done_by_hand() -> None:
    # Two of three true pixels of class 0 are found; class 1 wins one pixel too many; class 2 occurs nowhere.
    scores = score(np.array([[2, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert scores.per_class[0].iou == pytest.approx(2 / 3)
    assert scores.per_class[1].iou == pytest.approx(4 / 5)
    assert scores.miou == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.mean_dice == pytest.approx((4 / 5 + 8 / 9) / 2)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert scores.fwiou == pytest.approx(3 / 7 * 2 / 3 + 4 / 7 * 4 / 5)
    assert scores.pixel_accuracy == pytest.approx(6 / 7)
    assert (scores.per_class[0].support, scores.per_class[0].predicted) == (3, 2)


def test_a_class_in_neither_truth_nor_prediction_is_none_and_enters_no_mean() -> None:
    scores = score(np.array([[5, 0], [0, 0]]))
    assert scores.per_class[1].iou is None
    assert scores.per_class[1].dice is None
    assert scores.per_class[1].accuracy is None
    assert scores.miou == 1.0
    assert scores.classes_averaged == 1


def test_a_class_that_is_only_predicted_counts_as_zero_in_miou_but_not_in_mean_accuracy() -> None:
    scores = score(np.array([[3, 1], [0, 0]]))
    assert scores.per_class[1].iou == 0.0
    assert scores.miou == pytest.approx(0.75 / 2)
    assert scores.mean_accuracy == pytest.approx(0.75)


def test_a_matrix_without_a_pixel_has_no_figures() -> None:
    scores = score(np.zeros((3, 3), dtype=np.int64))
    assert scores.classes_averaged == 0
    assert [scores.miou, scores.mean_dice, scores.mean_accuracy, scores.fwiou, scores.pixel_accuracy] == [None] * 5


def test_rows_are_the_truth() -> None:
    scores = score(np.array([[1, 9], [0, 1]]))
    assert scores.per_class[0].support == 10
    assert scores.per_class[0].accuracy == pytest.approx(0.1)


def test_more_pixels_than_int32_or_float32_hold_are_counted_exactly() -> None:
    many = 6_920_000_001
    scores = score(np.array([[many, 1], [0, many]]))
    assert scores.per_class[0].support == many + 1
    assert scores.pixel_accuracy == pytest.approx(2 * many / (2 * many + 1), abs=1e-16)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.zeros((2, 3), dtype=np.int64), "square"),
        (np.zeros(4, dtype=np.int64), "square"),
        (np.zeros((0, 0), dtype=np.int64), "square"),
        (np.zeros((2, 2)), "float64"),
        (np.array([[1, -1], [0, 0]]), "negative"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(matrix: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        score(matrix)


@pytest.mark.parametrize("classes", [[3], [-1], [0, 7]])
def test_a_class_that_the_matrix_has_not_is_refused(classes: list[int]) -> None:
    matrix = np.ones((3, 3), dtype=np.int64)
    for use in (lambda: score(matrix, average=classes), lambda: select(matrix, classes)):
        with pytest.raises(ValueError, match="no class"):
            use()
    with pytest.raises(ValueError, match="no class"):
        without_truth(matrix, classes)


def test_a_class_that_is_named_twice_is_refused_instead_of_weighing_twice() -> None:
    matrix = np.array([[3, 1], [1, 0]])
    for refused in (
        lambda: score(matrix, average=[0, 0, 1]),
        lambda: select(matrix, [0, 0]),
        lambda: without_truth(matrix, [1, 1]),
    ):
        with pytest.raises(ValueError, match=r"class [01] is named more than once"):
            refused()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, object])
def test_classes_that_are_no_whole_numbers_are_refused_instead_of_rounded(dtype: type) -> None:
    whole = np.array([0, 1])
    for truth, prediction, named in ((whole.astype(dtype), whole, "truth"), (whole, whole.astype(dtype), "prediction")):
        with pytest.raises(ValueError, match=f"the {named} holds .*: classes are whole numbers"):
            confusion(truth, prediction, 2)
    assert confusion(whole.astype(bool), whole.astype(np.int8), 2).tolist() == [[1, 0], [0, 1]]


def test_class_25_of_26_does_not_overflow_the_bytes_of_a_mask() -> None:
    pixels = np.full((4, 4), 25, dtype=np.uint8)
    assert confusion(pixels, pixels, 26)[25, 25] == 16


def test_ignored_truth_counts_nowhere_whatever_is_predicted_there() -> None:
    truth = np.array([0, 255, 1], dtype=np.uint8)
    assert confusion(truth, np.array([0, 250, 1], dtype=np.uint8), 2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("truth", "prediction"), [([0, 2], [0, 0]), ([0, 1], [2, 0]), ([-1, 0], [0, 0])])
def test_a_counted_pixel_outside_the_classes_is_refused(truth: list[int], prediction: list[int]) -> None:
    with pytest.raises(ValueError, match="2 classes"):
        confusion(np.array(truth), np.array(prediction), 2)


def test_truth_and_prediction_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((2, 2), dtype=int), np.zeros(4, dtype=int), 2)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    classes = draw(st.integers(1, 30))
    size = draw(st.integers(0, 40))
    truth = st.one_of(st.just(255), st.integers(0, classes - 1))
    return (
        draw(hnp.arrays(np.uint8, size, elements=truth)),
        draw(hnp.arrays(np.uint8, size, elements=st.integers(0, classes - 1))),
        classes,
    )


@given(predictions())
def test_the_matrix_equals_counting_pixel_by_pixel(pixels: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, prediction, classes = pixels
    expected = np.zeros((classes, classes), dtype=np.int64)
    for true, predicted in zip(truth.tolist(), prediction.tolist(), strict=True):
        if true != 255:
            expected[true, predicted] += 1
    matrix = confusion(truth, prediction, classes)
    assert matrix.dtype == np.int64
    assert (matrix == expected).all()
    assert matrix.sum() == (truth != 255).sum()


@given(predictions())
def test_scikit_learn_finds_the_same_figures(pixels: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, prediction, classes = pixels
    truth, prediction = truth[truth != 255], prediction[truth != 255]
    if not len(truth):
        return
    scores = score(confusion(truth, prediction, classes))
    if classes > 1:  # of a single label it warns
        sklearns = confusion_matrix(truth, prediction, labels=range(classes))
        np.testing.assert_array_equal(confusion(truth, prediction, classes), sklearns)
    occurring = sorted({*truth.tolist(), *prediction.tolist()})
    assert [index for index, entry in enumerate(scores.per_class) if entry.iou is not None] == occurring
    assert scores.classes_averaged == len(occurring)
    settings = {"labels": occurring, "zero_division": 0}
    for name, figure in (("iou", jaccard_score), ("dice", f1_score)):
        expected = figure(truth, prediction, average=None, **settings)
        assert [getattr(scores.per_class[index], name) for index in occurring] == pytest.approx(list(expected))
    assert scores.miou == pytest.approx(jaccard_score(truth, prediction, average="macro", **settings))
    assert scores.fwiou == pytest.approx(jaccard_score(truth, prediction, average="weighted", **settings))
    assert scores.mean_dice == pytest.approx(f1_score(truth, prediction, average="macro", **settings))
    present = {**settings, "labels": sorted(set(truth.tolist()))}
    assert scores.mean_accuracy == pytest.approx(recall_score(truth, prediction, average="macro", **present))
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth, prediction))


@given(predictions(), st.randoms(use_true_random=False), st.integers(1, 7))
def test_neither_order_nor_batches_change_the_matrix(
    pixels: tuple[np.ndarray, np.ndarray, int], random: Any, parts: int
) -> None:
    truth, prediction, classes = pixels
    order = list(range(len(truth)))
    random.shuffle(order)
    batches = [np.array(order[part::parts], dtype=np.intp) for part in range(parts)]
    summed = sum((confusion(truth[batch], prediction[batch], classes) for batch in batches), start=np.int64(0))
    assert (summed == confusion(truth, prediction, classes)).all()


@given(matrices)
def test_the_sanity_laws_hold_for_every_matrix(matrix: np.ndarray) -> None:
    scores = score(matrix)
    if not matrix.sum():
        assert scores.miou is None
        return
    assert scores.miou is not None
    assert scores.mean_dice is not None
    assert scores.mean_accuracy is not None
    assert scores.fwiou is not None
    assert scores.pixel_accuracy is not None
    assert scores.miou - 1e-9 <= scores.mean_dice <= 2 * scores.miou / (1 + scores.miou) + 1e-9
    assert scores.fwiou <= scores.pixel_accuracy + 1e-9
    assert scores.miou <= scores.mean_accuracy + 1e-9
    assert sum(entry.support for entry in scores.per_class) == matrix.sum()
    assert sum(entry.predicted for entry in scores.per_class) == matrix.sum()


@given(matrices, st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_the_laws_hold_for_means_over_some_classes_and_for_ignored_truth(
    matrix: np.ndarray, averaged: set[int], ignored: set[int]
) -> None:
    size = len(matrix)
    some = [index for index in averaged if index < size]
    remaining = without_truth(matrix, [index for index in ignored if index < size])
    assert broken_law(score(matrix, average=some)) == ""
    assert broken_law(score(remaining, average=some)) == ""
    assert broken_law(score(select(matrix, some))) == "" if some else True


GOOD = score(np.array([[6, 2], [1, 3]]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"miou": 0.7273, "mean_dice": 0.3980}, "mean Dice 39.80 % beside mIoU 72.73 %.*between 72.73 % and 84.21 %"),
        ({"miou": 0.5, "mean_dice": 0.67}, "between 50.00 % and 66.67 %"),
        ({"miou": 72.73, "mean_dice": 84.0}, "mean Dice"),
        ({"fwiou": 0.8, "pixel_accuracy": 0.7}, "FWIoU 80.00 % beside pixel accuracy 70.00 %"),
        ({"mean_accuracy": 0.1}, "beside mean accuracy 10.00 %"),
        ({"mean_dice": None}, "mean Dice -"),
        ({"fwiou": None}, "FWIoU -"),
        ({"mean_dice": float("nan")}, "mean Dice nan"),
        ({"fwiou": float("nan")}, "FWIoU nan"),
        ({"mean_accuracy": float("nan")}, "mean accuracy nan"),
    ],
)
def test_figures_that_no_single_matrix_gives_are_named(changes: dict[str, Any], words: str) -> None:
    assert broken_law(GOOD) == ""
    assert re.search(words, broken_law(replace(GOOD, **changes)))


@given(matrices, st.randoms(use_true_random=False))
def test_the_numbering_of_the_classes_does_not_change_a_figure(matrix: np.ndarray, random: Any) -> None:
    order = list(range(len(matrix)))
    random.shuffle(order)
    scores, renumbered = score(matrix), score(select(matrix, order))
    assert renumbered.miou == pytest.approx(scores.miou, abs=1e-12)
    assert renumbered.fwiou == pytest.approx(scores.fwiou, abs=1e-12)
    assert renumbered.per_class == tuple(scores.per_class[index] for index in order)


@given(matrices)
def test_scores_survive_json(matrix: np.ndarray) -> None:
    adapter = TypeAdapter(Scores)
    scores = score(matrix)
    assert adapter.validate_json(json.dumps(adapter.dump_python(scores, mode="json"), allow_nan=False)) == scores
