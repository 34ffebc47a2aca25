"""A report cannot say what one matrix cannot: checked when it is made and when it is read, also without asserts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import EvaluationReport, Verdict, per_image_path, report_path

MATRIX = [[6, 2], [1, 3]]


def report(**changes: Any) -> EvaluationReport:
    fields: dict[str, Any] = {
        "attempt": 1,
        "epoch": 2,
        "step": 3,
        "split": "test",
        "verdict": Verdict.OK,
        "scores": score(np.array(MATRIX)),
        "confusion": MATRIX,
        "class_ids": (0, 1),
        "class_names": ("a", "b"),
        "policy": "two classes",
        "images": 3,
        "ignored_pixels": 0,
        "counted_pixels": 12,
        "seconds": 0.1,
        "device": "cpu",
        "checkpoint_sha256": "0",
        "data_fingerprint": "f",
    }
    return EvaluationReport(**{**fields, **changes})


def test_a_report_of_one_matrix_comes_back_from_json_as_it_was() -> None:
    assert EvaluationReport.model_validate_json(report().model_dump_json()) == report()


def test_the_published_pair_of_72_73_and_39_80_is_no_report() -> None:
    published = replace(
        report().scores, miou=0.7273, mean_dice=0.3980, fwiou=0.8885, pixel_accuracy=0.9377, mean_accuracy=0.8
    )
    with pytest.raises(ValueError, match=r"39\.80 %.*72\.73 %.*do not come from one confusion matrix"):
        report(scores=published)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean_dice": 0.999},
        {"fwiou": 0.99, "pixel_accuracy": 0.7},
        {"mean_accuracy": 0.01},
    ],
)
def test_a_report_that_breaks_a_law_is_neither_made_nor_read(changes: dict[str, float]) -> None:
    broken = replace(report().scores, **changes)
    with pytest.raises(ValueError, match="one matrix"):
        report(scores=broken)
    text = report().model_copy(update={"scores": broken}).model_dump_json()
    with pytest.raises(ValidationError, match="one matrix"):
        EvaluationReport.model_validate_json(text)


@pytest.mark.parametrize("figure", ["miou", "mean_dice", "mean_accuracy", "fwiou", "pixel_accuracy"])
def test_figures_that_the_matrix_does_not_give_are_not_read_though_they_break_no_law(figure: str) -> None:
    """A better score that was written into a report by hand."""
    sound = report().scores
    lifted = replace(sound, miou=sound.miou + 0.01, mean_dice=sound.mean_dice + 0.01)
    if figure not in {"miou", "mean_dice"}:
        lifted = replace(sound, **{figure: getattr(sound, figure) + 0.001})
    text = report().model_copy(update={"scores": lifted}).model_dump_json()
    with pytest.raises(ValidationError, match=r"is told, the matrix gives .* one confusion matrix"):
        EvaluationReport.model_validate_json(text)


def test_a_class_whose_iou_is_not_that_of_the_matrix_is_not_read() -> None:
    sound = report().scores
    first = replace(sound.per_class[0], iou=0.9)
    text = report().model_copy(update={"scores": replace(sound, per_class=(first, sound.per_class[1]))})
    with pytest.raises(ValidationError, match=r"iou 0\.9 of class 0"):
        EvaluationReport.model_validate_json(text.model_dump_json())


@pytest.mark.parametrize("counted", [11, 13, 0])
def test_the_matrix_holds_every_counted_pixel_and_no_other(counted: int) -> None:
    with pytest.raises(ValueError, match=f"the matrix holds 12 pixels, {counted} were counted"):
        report(counted_pixels=counted)


def test_a_report_without_a_score_needs_no_matrix() -> None:
    assert report(verdict=Verdict.NOT_FINITE, scores=None, confusion=None).scores is None


def test_the_laws_are_checked_where_asserts_are_stripped() -> None:
    code = """
import sys
from segwatch.evaluator.report import EvaluationReport
assert False, "stripped"
try:
    EvaluationReport.model_validate_json(sys.stdin.read())
except ValueError as error:
    sys.exit(0 if "one confusion matrix" in str(error) else 3)
sys.exit(4)
"""
    broken = report().model_copy(update={"scores": replace(report().scores, mean_dice=0.999)})
    process = subprocess.run(
        [sys.executable, "-O", "-c", code], input=broken.model_dump_json(), text=True, check=False, timeout=60
    )
    assert process.returncode == 0


def test_the_counts_of_the_images_lie_beside_their_report() -> None:
    path = report_path(Path("run"), 1, 12, "val")
    assert path == Path("run/evaluations/attempt001_epoch12_val.json")
    assert per_image_path(path) == Path("run/evaluations/attempt001_epoch12_val.npz")
